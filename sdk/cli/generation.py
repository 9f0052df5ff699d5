"""The fields of GenerationOptions and SamplingOptions as options of the command line, each spelled once.

Their defaults stay in the runtime: what was not given is None or False here, and is not passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import typer

from skipstone.cli.completion import complete_methods
from skipstone.cli.options import (
    CalibrationOption,
    DraftDeviceOption,
    DraftModelOption,
    require_drafter,
    require_suffix,
)
from skipstone.errors import ConfigError

__all__ = ["DecodingFlags", "DraftFlags", "LengthFlags", "SamplingFlags", "given"]


OF_LOADING: Final = ("draft_model", "draft_device", "suffix_memory")
"""What `load` takes of the options of decoding."""


class RuleName(StrEnum):
    match = "match"
    rejection = "rejection"
    k_seq = "k-seq"


class SamplingName(StrEnum):
    greedy = "greedy"
    model = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthFlags:
    """Where a text ends."""

    panel: ClassVar[str] = "Length"
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", "-n", metavar="N", min=1, help="Most tokens to make; default: 128, chat 256."),
    ] = None
    min_new_tokens: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Fewest tokens to make, before a stop token may come.")
    ] = None
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End before this text or special token; repeatable.")
    ] = None
    stop_below: Annotated[
        float | None, typer.Option(metavar="P", help="End where the text's chance falls below P: approximate.")
    ] = None
    stop_loops: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="End a text that repeats up to N tokens for ever; 0: off; answers 32."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftFlags:
    """Which lossless method writes a text, and with what."""

    panel: ClassVar[str] = "Decoding"
    decode: Annotated[
        str,
        typer.Option(
            metavar="METHOD",
            autocompletion=complete_methods,
            help="auto, plain, or drafters, the cheapest first: ngram,model.",
        ),
    ] = "auto"
    draft_model: DraftModelOption = None
    draft_device: DraftDeviceOption = None
    suffix_memory: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Remember texts for the suffix drafter in this file.")
    ] = None

    def for_loading(self) -> dict[str, Any]:
        """Return what `load` takes of them. Raises: ConfigError for what the method does not use."""
        require_suffix(self.decode, self.suffix_memory)
        require_drafter(self.decode, self.draft_model, self.draft_device)
        return {name: getattr(self, name) for name in OF_LOADING}


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingFlags:
    """How drafts are verified, and how far an approximate method may go."""

    panel: ClassVar[str] = "Decoding"
    verify: Annotated[
        RuleName | None,
        typer.Option(metavar="RULE", help="For drafts: match keeps the text; rejection, k-seq its law."),
    ] = None
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--no-exact",
            help="By default drafts end where exact ones are dear. --exact: exact to the end; --no-exact: near ties.",
        ),
    ] = None
    min_agreement: Annotated[
        float | None, typer.Option(metavar="A", help="Approximate: share of tokens as the full model's, say 0.98.")
    ] = None
    dial: Annotated[
        float | None, typer.Option(metavar="X", help="Approximate: set the method's dial, not --min-agreement.")
    ] = None
    active: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Approximate: --decode active with this share of the experts.")
    ] = None
    calibration: CalibrationOption = None
    complete_words: Annotated[
        bool, typer.Option("--complete-words", help="Where the prompt ends inside a word, begin by ending that word.")
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFlags:
    """How a token is chosen from the logits."""

    panel: ClassVar[str] = "Sampling"
    sampling: Annotated[
        SamplingName | None,
        typer.Option(metavar="NAME", help="Start from greedy, the default, or model, as it recommends; chat: model."),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(metavar="X", min=0.0, help="Above 0 draws by chance; 0 takes the likeliest.")
    ] = None
    top_k: Annotated[int | None, typer.Option(metavar="K", min=0, help="Keep the K likeliest tokens; 0 is off.")] = None
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Keep the likeliest up to this probability; 1 is off.")
    ] = None
    min_p: Annotated[
        float | None, typer.Option(metavar="P", help="Drop those below this share of the likeliest; 0 is off.")
    ] = None
    typical: Annotated[
        float | None, typer.Option(metavar="P", help="Keep the most typical up to this probability; 1 is off.")
    ] = None
    top_h: Annotated[
        float | None, typer.Option(metavar="A", help="Keep the likeliest up to this share of the entropy.")
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Above 1 discourages tokens of prompt and answer.")
    ] = None
    presence_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Taken once from the logits of tokens in the answer.")
    ] = None
    frequency_penalty: Annotated[
        float | None, typer.Option(metavar="X", help="Taken for each time that they are in the answer.")
    ] = None
    no_repeat_ngram: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Never write N tokens in a row again; 0 is off.")
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Same seed, same text; a chat adds 1 each turn; default: drawn."),
    ] = None


def given(*flags: LengthFlags | DraftFlags | DecodingFlags | SamplingFlags) -> dict[str, Any]:
    """Return the options that were given, for `generation_options`."""
    values = {field.name: getattr(group, field.name) for group in flags for field in fields(group)}
    for name in OF_LOADING:
        values.pop(name, None)
    for name in ("verify", "sampling"):
        if isinstance(values.get(name), StrEnum):
            values[name] = values[name].value
    if (share := values.pop("active", None)) is not None:
        values |= _with_active(values, share)
    return {name: value for name, value in values.items() if value is not None and value is not False and value != []}


def _with_active(values: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Return the method and the dial that --active stands for. Raises: ConfigError beside others."""
    from skipstone.runtime.methods import MethodChoice
    from skipstone.runtime.methods.experts import ACTIVE

    asked = MethodChoice.parse(values["decode"])
    if asked.methods != (ACTIVE,) and not asked.methods[0].joins:
        raise ConfigError(f"--active is the dial of {ACTIVE.name}, got --decode {values['decode']}; leave one out")
    if values.get("dial") is not None or values.get("min_agreement") is not None:
        raise ConfigError("--active sets the dial, as --dial and --min-agreement do; give one of them")
    return {"decode": ACTIVE.name, "dial": share}
