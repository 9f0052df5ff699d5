"""A device on trial: the same model on it and on the processor, and what is compared between the two.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.check.parity import LOGIT_TOLERANCE, Parity, compare
from skipstone.devices import Capability, Device, open_device
from skipstone.errors import CheckFailed, SkipstoneError
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Sequence

__all__ = [
    "CONTEXT",
    "NUM_TOKENS",
    "PROCESSOR_TARGET",
    "PROMPT",
    "Clause",
    "ContractBundles",
    "RefusedError",
    "Trial",
    "read_by",
    "require_refusal",
    "rows_of",
]

Logits: TypeAlias = NDArray[np.float32]
PROCESSOR_TARGET: Final = "ort"
PROMPT: Final = "def mean(values):\n    return sum(values) / len(values)\n\ndef "
NUM_TOKENS: Final = 16
CONTEXT: Final = 128
# How far logits up to 10 may lie from the processor's, by the type of the numbers that the graphs compute with.
TOLERANCES: Final[Mapping[str, float]] = {"float32": LOGIT_TOLERANCE, "float16": 0.05}


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractBundles:
    """Bundles of one model: in numbers with exits and both caches, and in int4; each as the processor takes it too."""

    numbers: Path
    int4: Path
    numbers_of_processor: Path
    int4_of_processor: Path

    @classmethod
    def in_folder(cls, folder: Path, *, target: str = PROCESSOR_TARGET) -> ContractBundles:
        """Return where the bundles of a target, and those of the processor, stand below a folder."""
        own, other = folder / target, folder / PROCESSOR_TARGET
        return cls(
            numbers=own / "fp32",
            int4=own / "int4",
            numbers_of_processor=other / "fp32",
            int4_of_processor=other / "int4",
        )


@dataclass(frozen=True, slots=True)
class Clause:
    """What became of one clause, and why."""

    name: str
    verdict: Literal["ok", "refused", "failed"]
    reason: str


class RefusedError(Exception):
    """The device lacks a capability, and said so where it was asked for it."""


class Trial:
    """A device and the processor with the same model, and a text."""

    def __init__(self, device: Device, bundles: ContractBundles) -> None:
        self.device, self.bundles, self.processor = device, bundles, open_device()
        self.model = self.open(bundles.numbers, device)
        self.reference = self.open(bundles.numbers_of_processor, self.processor)
        self.text = self.reference.tokenizer.encode(PROMPT)
        self.tolerance = TOLERANCES[self.model.sessions.cache_layout[0].dtype]

    def open(self, path: Path, device: Device, cache_type: str | None = None) -> Model:
        """Return a bundle on a device, with a cache of numbers where no type is named."""
        bundle = Bundle.open(path)
        return Model(bundle, device, cache_type=cache_type or bundle.manifest.cache_types[0])

    @cached_property
    def parity(self) -> Parity:
        """How far the logits of a text lie from the processor's, fed in several ways."""
        return compare(
            self.model, lambda token_ids: rows_of(self.reference, token_ids), self.text, num_greedy=NUM_TOKENS
        )

    @cached_property
    def plain(self) -> list[int]:
        """The text that plain decoding makes on the device."""
        return self.write("plain")

    def write(self, decode: str) -> list[int]:
        """Return the tokens that a method makes on the device."""
        made = LanguageModel(self.model).generate(PROMPT, decode=decode, max_new_tokens=NUM_TOKENS)
        return [*made.token_ids]

    def lacks(self, *capabilities: Capability) -> Capability | None:
        """Return the first of these capabilities that the device lacks; None where it has all."""
        return next((name for name in capabilities if name not in self.device.capabilities), None)

    def read(self, token_ids: SequenceOf[int] = ()) -> Sequence:
        """Return a text that the device has read to its end."""
        return read_by(self.model, token_ids or self.text)

    def require_near(self, found: Logits, wanted: Logits, what: str) -> str:
        """Return how near logits are, in words. Raises: CheckFailed where they are not near."""
        error = float(np.abs(found - wanted).max())
        bound = self.tolerance * max(1.0, float(np.abs(wanted).max()) / 10)
        if not error <= bound:  # NaN too
            raise CheckFailed(f"{what}: logits lie {error:.1e} from the processor's, {bound:.1e} is allowed")
        return f"logits within {error:.1e} of the processor's"

    def require_behind(self, found: Logits, *texts: SequenceOf[int]) -> str:
        """Return how near the rows of `found` are to what the processor has behind these texts."""
        wanted = np.stack([rows_of(self.reference, text)[-1] for text in texts])
        return self.require_near(found, wanted, "behind a text")

    def require_plain(self, token_ids: SequenceOf[int], decode: str) -> None:
        """Raise CheckFailed for a text that is not plain decoding's, but for tokens that are as likely."""
        pairs = enumerate(zip(token_ids, self.plain, strict=False))
        place = next((place for place, (token_id, own_id) in pairs if token_id != own_id), None)
        if place is None:
            return
        logits = rows_of(self.reference, [*self.text, *self.plain[:place]])[-1]
        gap = float(logits.max() - logits[token_ids[place]])
        if gap > 2 * self.tolerance * max(1.0, float(np.abs(logits).max()) / 10):
            raise CheckFailed(f"{decode} writes another text than plain from token {place} on, {gap:.1e} less likely")


def rows_of(model: Model, token_ids: SequenceOf[int]) -> Logits:
    """Return the logits [T, V] behind each token of a text, read in one call."""
    sequence = model.new_sequence(context_length=CONTEXT)
    sequence.append(list(token_ids[:1]))
    return sequence.extend(Draft.chain(token_ids[1:], source="contract")).copy()


def read_by(model: Model, token_ids: SequenceOf[int]) -> Sequence:
    """Return a text that a model has read to its end."""
    sequence = model.new_sequence(context_length=CONTEXT)
    sequence.append([*token_ids])
    sequence.extend(Draft.empty())
    return sequence


def require_refusal(ask: Callable[[], object], lack: Capability | None = None) -> str:
    """Return what is said where something is asked for that the device cannot. Raises: CheckFailed where it is not."""
    try:
        ask()
    except SkipstoneError as error:
        return str(error)
    raise CheckFailed(f"the device has no {lack}, but does not refuse what needs it")
