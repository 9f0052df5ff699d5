"""How commands are declared: options as dataclasses, help in panels, and groups with a command by default."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import ModuleType
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

__all__ = ["DefaultGroup", "OldSwitch", "PanelCommand", "add_command", "command_group", "unfold"]


def unfold(run: Callable[..., None]) -> Callable[..., None]:
    """Return `run` with the options of each dataclass among its parameters in place of that parameter.

    The fields of such a dataclass are annotated as options are; its `panel` is their heading in the help text. They
    come after the options that belong to the command alone.
    """
    declared = inspect.signature(run, eval_str=True).parameters.values()
    folded: dict[str, Any] = {
        parameter.name: parameter.annotation for parameter in declared if is_dataclass(parameter.annotation)
    }
    own = (parameter for parameter in declared if parameter.name not in folded)
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    parameters += [option for kind in folded.values() for option in _options_of(kind)]

    def unfolded(**values: Any) -> None:
        for name, kind in folded.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        run(**values)

    unfolded.__doc__, unfolded.__annotations__ = run.__doc__, {}
    unfolded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return unfolded


def _options_of(kind: Any) -> list[inspect.Parameter]:
    hints, parameters = get_type_hints(kind, include_extras=True), []
    for field in fields(kind):
        value_type, option = get_args(hints[field.name])
        option = copy(option)
        option.rich_help_panel = getattr(kind, "panel", None)
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation = Annotated[value_type, option]  # type: ignore[valid-type]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return parameters


class PanelCommand(TyperCommand):
    """A command whose help text shows its options in panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each panel, in the order in which they first come."""
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            panel = "Arguments" if isinstance(parameter, TyperArgument) else "Options"
            if record := parameter.get_help_record(ctx):
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or panel, []).append(record)
        for panel, records in panels.items():
            if records:
                with formatter.section(panel):
                    formatter.write_dl(records)


@dataclass(frozen=True, slots=True)
class OldSwitch:
    """An option that chose what a command does, before subcommands did: that subcommand, and the option's new name."""

    command: str
    now: str | None = None


class DefaultGroup(TyperGroup):
    """A group whose first argument may be left out: then its default command runs. Old switches still work."""

    default: ClassVar[str]
    old: ClassVar[Mapping[str, OldSwitch]] = {}

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command that is meant in front of arguments that begin with none."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = self._with_command(args)
        return super().parse_args(ctx, args)

    def _with_command(self, args: list[str]) -> list[str]:
        given = next((name for name in (arg.partition("=")[0] for arg in args) if name in self.old), None)
        if given is None:
            return [self.default, *args]
        switch = self.old[given]
        if not {"-q", "--quiet"} & {*args}:
            sys.stderr.write(
                f"skipstone: `{self.name} {given}` is now `{self.name} {switch.command}`; the old spelling ends with "
                "the next version\n"
            )
        renamed = ((arg, *arg.partition("=")) for arg in args)
        kept = [
            arg if name != given else f"{switch.now}{sign}{value}"
            for arg, name, sign, value in renamed
            if name != given or switch.now is not None
        ]
        return [switch.command, *kept]


def add_command(app: typer.Typer, module: ModuleType) -> None:
    """Add the command of a module: its NAME, its EXAMPLES and what it runs."""
    app.command(name=module.NAME, epilog=module.EXAMPLES, cls=PanelCommand)(module.run)


def command_group(
    kind: type[DefaultGroup],
    *modules: ModuleType,
    help_text: str,
    examples: str,
    metavar: str = "[COMMAND] BUNDLE ...",
) -> typer.Typer:
    """Return a group of the commands in `modules`."""
    group = typer.Typer(cls=kind, help=help_text, epilog=examples, subcommand_metavar=metavar, rich_markup_mode=None)
    for module in modules:
        add_command(group, module)
    return group
