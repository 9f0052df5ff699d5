"""What a user can do in a talk beside talking: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.conversation import Conversation

__all__ = ["COMMANDS", "TOLD", "run_command"]


class Talk(Protocol):
    """What commands need of a talk."""

    conversation: Conversation

    def tell(self, line: str) -> None:
        """Say something that is no answer."""

    def tell_stats(self) -> None:
        """Say what the last answer cost."""

    def attach(self, file: Path) -> None:
        """Put a text behind the next message."""

    def answer_again(self) -> None:
        """Answer the last message again."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a command does, in words, and how."""

    told: str
    run: Callable[[Talk, str], None]
    argument: str = ""


def run_command(talk: Talk, line: str) -> None:
    """Do what a line that begins with a slash says. Raises: ConfigError for an unknown command, or as the command."""
    name, _, argument = line.strip().partition(" ")
    command = COMMANDS.get(name)
    if command is None:
        near = get_close_matches(name, COMMANDS, n=1)
        todo = f"did you mean {near[0]}?" if near else "/help lists all"
        raise ConfigError(f"there is no command {name}; {todo} (a message that begins so is written //...)")
    command.run(talk, argument.strip())


def _help(talk: Talk, argument: str) -> None:
    names = [f"{name} {command.argument}".rstrip() for name, command in COMMANDS.items()]
    width = max(map(len, names))
    for name, command in zip(names, COMMANDS.values(), strict=True):
        talk.tell(f"{name:{width}}  {command.told}")
    talk.tell('Alt-Enter begins a line, """ begins and ends several; Ctrl-C stops an answer')


def _system(talk: Talk, argument: str) -> None:
    if argument:
        talk.conversation.system = argument
        talk.tell("the model is told this from the next message on; the talk stays")
    else:
        talk.tell(talk.conversation.system or "the model is told nothing first")


def _clear(talk: Talk, argument: str) -> None:
    talk.conversation.clear()
    talk.tell("the talk begins anew" + ("; the system prompt stays" if talk.conversation.system else ""))


def _save(talk: Talk, argument: str) -> None:
    talk.conversation.save(_path(argument, "/save"))
    talk.tell(f"{len(talk.conversation.messages)} messages saved in {argument}")


def _load(talk: Talk, argument: str) -> None:
    talk.conversation.load(_path(argument, "/load"))
    talk.tell(f"{len(talk.conversation.messages)} messages loaded; the next one goes on from there")


def _regen(talk: Talk, argument: str) -> None:
    talk.answer_again()


def _undo(talk: Talk, argument: str) -> None:
    question = talk.conversation.undo()
    if question is None:
        raise ConfigError("there is nothing to take back")
    first = question.strip().partition("\n")[0]
    talk.tell(f"taken back: {first[:60]}{'...' if len(question.strip()) > len(first[:60]) else ''}")


def _stats(talk: Talk, argument: str) -> None:
    talk.tell_stats()


def _file(talk: Talk, argument: str) -> None:
    talk.attach(_path(argument, "/file"))


def _exit(talk: Talk, argument: str) -> None:
    raise EOFError


def _path(argument: str, command: str) -> Path:
    if not argument:
        raise ConfigError(f"{command} takes a path, such as {command} notes.txt")
    return Path(argument).expanduser()


COMMANDS: Final[Mapping[str, Command]] = {
    "/help": Command("shows this", _help),
    "/system": Command("tells the model something first, or shows what it is told", _system, "[TEXT]"),
    "/file": Command("puts a text file behind the next message", _file, "PATH"),
    "/regen": Command("answers the last message again", _regen),
    "/undo": Command("takes the last message and its answer back", _undo),
    "/clear": Command("begins anew", _clear),
    "/save": Command("writes the talk to a JSON file", _save, "FILE"),
    "/load": Command("goes on from a talk in a file", _load, "FILE"),
    "/stats": Command("shows what the last answer cost", _stats),
    "/exit": Command("leaves, as Ctrl-D does", _exit),
}
TOLD: Final[Mapping[str, str]] = {name: command.told for name, command in COMMANDS.items()}
