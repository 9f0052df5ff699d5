"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skipstone.cli.completion import complete_devices, complete_models
from skipstone.cli.terminal import OutputFormat, notes
from skipstone.errors import ConfigError

if TYPE_CHECKING:
    from skipstone.language_model import LanguageModel
    from skipstone.runtime.engine import CacheName, Room

__all__ = [
    "AllowSpecialOption",
    "BundleArgument",
    "CacheTypeName",
    "CalibrationOption",
    "ClosingOption",
    "ContextOption",
    "DeviceOption",
    "DraftDeviceOption",
    "DraftModelOption",
    "JsonOption",
    "NormalizeName",
    "NormalizeOption",
    "OutputOption",
    "Place",
    "PlotOption",
    "PrefillChoice",
    "PrefillOption",
    "Printing",
    "PromptCacheOption",
    "QuietOption",
    "RequiredTextsOption",
    "TextsOption",
    "numbers",
    "read_text",
    "read_texts",
    "require_drafter",
    "require_lossless",
    "require_suffix",
    "told_context",
]

BundleArgument = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE",
        help="Bundle folder, checkpoint, GGUF file, hub id, or the word pebble.",
        autocompletion=complete_models,
    ),
]
CalibrationOption = Annotated[
    Path | None,
    typer.Option("--calibration", metavar="FILE", help="With --min-agreement: use this calibration, not the kept one."),
]


class NormalizeName(StrEnum):
    none = "none"
    tokens = "tokens"
    bytes = "bytes"


class PrefillChoice(StrEnum):
    auto = "auto"
    int8 = "int8"
    same = "same"


PrefillOption = Annotated[
    PrefillChoice,
    typer.Option("--prefill", help="What reads prompts: graphs in int8, the same as decode, or what the bundle says."),
]
NormalizeOption = Annotated[
    NormalizeName, typer.Option("--normalize", help="Divide each answer's log probability by its length.")
]
AllowSpecialOption = Annotated[
    bool,
    typer.Option("--allow-special", help="Let a message that spells a special token, as <|im_start|>, write it."),
]
ClosingOption = Annotated[bool, typer.Option("--closing", help="Count a stop token behind each answer, too.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        autocompletion=complete_devices,
        help="Where to run: see `skipstone devices`; auto: the best that works.",
    ),
]
DraftDeviceOption = Annotated[
    str | None,
    typer.Option(
        "--draft-device",
        metavar="NAME",
        autocompletion=complete_devices,
        help="Where the draft model runs; default: as --device.",
    ),
]
DraftModelOption = Annotated[
    str | None,
    typer.Option(
        "--draft-model",
        "--drafter",
        metavar="BUNDLE",
        autocompletion=complete_models,
        help="A smaller bundle of the family that drafts.",
    ),
]
OutputOption = Annotated[OutputFormat, typer.Option("--output", "-o", help="How to print the result.")]
PlotOption = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the result to this .png or .svg file.")
]
PromptCacheOption = Annotated[
    Path | None,
    typer.Option("--prompt-cache", metavar="FILE", help="Keep what the prompt begins with there, for later texts."),
]
RequiredTextsOption = Annotated[list[Path], typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable.")]
TextsOption = Annotated[
    list[Path] | None,
    typer.Option("--text", metavar="FILE", help="UTF-8 text; repeatable; default: the prompts of `bench suite`."),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help="Tokens to make room for; default: the model's context, or as much of it as the memory allows.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors on standard error.")]


class CacheTypeName(StrEnum):
    fp32 = "fp32"
    int8 = "int8"


class CacheChoiceName(StrEnum):
    fp32 = "fp32"
    int8 = "int8"
    auto = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a model runs, and what it keeps of texts."""

    device: DeviceOption = "cpu"
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="CPU threads; default: as many as are fastest now, see --max-threads."),
    ] = None
    max_threads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Most CPU threads to take; default: the physical cores.")
    ] = None
    cache: Annotated[
        CacheChoiceName | None,
        typer.Option(
            "--cache",
            help="Type of the cache; texts may differ by it. auto: the quicker one here. Default: the bundle's own.",
        ),
    ] = None
    verify_files: Annotated[
        bool, typer.Option("--verify-files", help="Compare every byte of the bundle with its manifest first.")
    ] = False

    @property
    def cache_name(self) -> CacheName | None:
        """The type of cache that is asked for. Raises: ConfigError where one is to be chosen."""
        if self.cache is CacheChoiceName.auto:
            raise ConfigError("--cache auto chooses for one bundle and its texts; name fp32 or int8 here")
        named: dict[CacheChoiceName | None, CacheName] = {CacheChoiceName.fp32: "fp32", CacheChoiceName.int8: "int8"}
        return named.get(self.cache)

    @property
    def fixed_threads(self) -> int | None:
        """The number of threads of commands that compare. Raises: ConfigError where a bound is given instead."""
        if self.max_threads is not None:
            raise ConfigError("--max-threads lets the number of threads change, so nothing compares; give --threads")
        return self.threads

    def folder(self, bundle: str) -> Path:
        """Return the folder of a bundle by its name, with every byte compared where that is asked for."""
        from skipstone.cli.naming import bundle_folder
        from skipstone.runtime.bundle import Bundle

        path = bundle_folder(bundle)
        if self.verify_files:
            Bundle.open(path).verify()
        return path

    def load(
        self, bundle: str, *, decode: str | None = None, num_tokens: int | None = None, **options: Any
    ) -> LanguageModel:
        """Return the model of a bundle, there; options are those of `skipstone.load`.

        By `decode` and the `num_tokens` of a text, where they are known, its type of cache is chosen, if it is to be.
        """
        from skipstone.api import load
        from skipstone.devices import DEFAULT_DEVICE
        from skipstone.runtime.bundle import MeasuringWatch, measured_by

        if self.cache is CacheChoiceName.auto:
            options |= {"cache": "auto", "expected_decode": decode, "expected_tokens": num_tokens}
        else:
            options |= {"cache": self.cache_name}
        if options.get("draft_model") is not None:
            options["draft_model"] = self.folder(options["draft_model"])
        folder = self.folder(bundle)
        with measured_by(MeasuringWatch(_tell_measuring)):
            model = load(folder, device=self.device, threads=self.threads, max_threads=self.max_threads, **options)
        told = model.runtime.device_told
        if told is not None and model.runtime.device.name != DEFAULT_DEVICE:  # to fall back there is a warning
            notes().print(told)
        if (told := model.runtime.draft_device_told) is not None:
            notes().print(f"small model: {told}")
        return model

    def load_reference(self, bundle: str) -> LanguageModel:
        """Return the model of a bundle that others are compared with, there; its cache is fp32."""
        return replace(self, cache=CacheChoiceName.fp32).load(bundle)


@dataclass(frozen=True, slots=True, kw_only=True)
class Printing:
    """What is printed of a result."""

    as_json: JsonOption = False
    quiet: QuietOption = False


def _tell_measuring(what: str) -> None:
    """Say on a terminal that the device is measured, which takes a second or so."""
    if (console := notes()).is_terminal:
        console.print(f"measuring this device once: {what}")


def told_context(context: int | None, room: Room, *, quiet: bool) -> int:
    """Return the context that was asked for, else what there is room for; say so where that is not the model's own."""
    if context is not None:
        return context
    if room.told is not None:
        notes(quiet=quiet).print(room.told)
    return room.num_tokens


def require_drafter(decodes: str | Sequence[str], drafter: str | None, draft_device: str | None = None) -> None:
    """Raise ConfigError for a small model, or a place for it, that none of the decoding methods would use."""
    from skipstone.runtime.methods import MethodChoice

    given = {"--draft-model names a small model": drafter, "--draft-device is where a small model runs": draft_device}
    told = [what for what, value in given.items() if value is not None]
    names = [decodes] if isinstance(decodes, str) else [*decodes]
    choices = [MethodChoice.parse(name) for name in names]
    if not told or any(method.uses_draft_model for choice in choices for method in choice.considered):
        return
    todo = "leave it out" if all(choice.stands_alone for choice in choices) else "add model"
    raise ConfigError(f"{told[0]}, which --decode {','.join(names)} does not use; {todo}")


def require_suffix(decode: str, suffix_memory: Path | None) -> None:
    """Raise ConfigError for a memory that the decoding method would not use."""
    from skipstone.runtime.methods import MethodChoice

    if suffix_memory is None:
        return
    choice = MethodChoice.parse(decode)
    if not any(method.remembers for method in choice.considered):
        todo = "leave it out" if choice.stands_alone else "add suffix"
        raise ConfigError(f"--suffix-memory is for the suffix drafter, which --decode {decode} does not use; {todo}")


def require_lossless(names: Iterable[str], command: str) -> None:
    """Raise ConfigError for an approximate method among those given to a command that runs none."""
    from skipstone.runtime.methods import approximate_methods

    approximate = [name for name, method in approximate_methods().items() if method.only_writes]
    for name in map(str.strip, names):
        if name in approximate:
            raise ConfigError(
                f"--decode {name} is approximate, which generate and eval run; {command} takes auto, plain and drafters"
            )


def numbers(option: str, given: Sequence[str]) -> tuple[float, ...]:
    """Return the numbers of a repeatable option, one or several apart by commas. Raises: ConfigError for no number."""
    try:
        return tuple(float(number) for value in given for number in value.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} takes numbers, such as 0.5 or 0.5,1,2; got {','.join(given)}") from error


def read_texts(paths: Sequence[Path] | None) -> list[str]:
    """Return the texts of files, without any the prompts of the suite. Raises: ConfigError as `read_text`."""
    from skipstone.bench import bench_texts

    return [read_text(path) for path in paths or ()] or bench_texts()


def read_text(path: Path) -> str:
    """Return the text of a file. Raises: ConfigError when it cannot be read, is no UTF-8 or is empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not text:
        raise ConfigError(f"{path} is empty; give a text of some thousand words")
    return text
