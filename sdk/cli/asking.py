"""What a prompt of the command line is to a model: a question of a user where it was taught to chat, else a text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import typer

from skipstone.cli.options import AllowSpecialOption
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.language_model import LanguageModel
    from skipstone.runtime.generation import Generation

__all__ = ["AskingFlags", "Put", "joined"]

NO_TEMPLATE: Final = "has no chat template, so it continues texts and is told nothing first"


@dataclass(frozen=True, slots=True, kw_only=True)
class AskingFlags:
    """How a prompt is put to a model that has a chat template."""

    panel: ClassVar[str] = "Prompt"
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="What a chat model is told first.")] = (
        None
    )
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the bare text, also with a model that was taught to chat.")
    ] = False
    allow_special: AllowSpecialOption = False

    def require_possible(self, *, complete_words: bool) -> None:
        """Raise ConfigError for flags that contradict each other."""
        if self.raw and self.allow_special:
            raise ConfigError("--raw continues the bare text, special tokens and all; leave --allow-special out")
        if self.raw and self.system is not None:
            raise ConfigError("--raw continues the bare text, so nobody reads --system; leave one of them out")
        if complete_words and self.system is not None:
            raise ConfigError("--complete-words ends a word of a text, and --system asks a question; leave one out")

    def put(self, model: LanguageModel, name: str, text: str, *, complete_words: bool) -> Put:
        """Return a prompt as the model takes it.

        Raises: ConfigError for a system prompt without a template, an empty text, and what the template refuses.
        """
        has_template = model.runtime.chat_template is not None
        if self.system is not None and not has_template:
            raise ConfigError(f"{name} {NO_TEMPLATE}; leave --system out")
        if self.raw or complete_words or not has_template:
            return Put(model=model, prompt=text, is_question=False)
        from skipstone.messages import checked_messages, encode_messages, written_end

        question = text.rstrip("\n")
        if not question:
            raise ConfigError("the prompt is empty; give at least one character")
        told = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = checked_messages([*told, {"role": "user", "content": question}])
        return Put(
            model=model,
            prompt=encode_messages(model.runtime, messages),
            stop=written_end(model.runtime),
            is_question=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """A prompt as a model takes it: text, or the tokens of a question, whose answer ends at `stop` too."""

    model: LanguageModel
    prompt: str | list[int]
    stop: tuple[str, ...] = ()
    is_question: bool

    def why_empty(self, made: Generation) -> str | None:
        """Return why a text is empty and what to do; None for one that is not."""
        if made.text.strip() or made.finish_reason in ("cancelled", "loop"):
            return None
        what = "the answer is empty" if self.is_question else "the text is empty"
        if made.finish_reason == "unsure":
            return f"{what}: the chance of the first token is below --stop-below; lower it"
        if made.finish_reason == "length":
            return f"{what}: its {len(made.token_ids)} tokens show nothing but white space; ask for more with -n"
        last = made.token_ids[-1] if made.token_ids else -1
        if last not in self.model.runtime.manifest.stop_ids:
            return f"{what}: it meets a --stop text at once"
        todo = "" if self.is_question else "give a longer prompt, or "
        return f"{what}: the model ends it at once with {self.model.spell(last).decode()}; {todo}add --min-new-tokens 8"


def joined(instruction: str, document: str) -> str:
    """Return one prompt of what was asked for and the document that came on standard input."""
    return f"{instruction}\n\n{document}" if document.strip() else instruction
