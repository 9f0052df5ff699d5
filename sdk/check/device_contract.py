"""The decoding contract of a device: what each of our loops needs of it, tried out beside the processor.

A clause holds, or is refused for a capability that the device lacks, with the reason; anything else breaks it.
Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.check.parity import LOGIT_TOLERANCE, Difference, Parity, compare
from skipstone.devices import Capability, Device, open_device
from skipstone.errors import CheckFailed, DeviceError, SkipstoneError
from skipstone.evaluate import divergences, log_softmax
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Blends, Draft, Model, Sequence, exit_stages

__all__ = ["PROCESSOR_TARGET", "Clause", "ContractBundles", "check_clauses"]

Logits: TypeAlias = NDArray[np.float32]
PROCESSOR_TARGET: Final = "ort"
PROMPT: Final = "def mean(values):\n    return sum(values) / len(values)\n\ndef "
NUM_TOKENS: Final = 16
CONTEXT: Final = 128
# How far logits up to 10 may lie from the processor's, by the type of the numbers that the graphs compute with.
TOLERANCES: Final[Mapping[str, float]] = {"float32": LOGIT_TOLERANCE, "float16": 0.05}
# Integers flip at the last bit of what they are rounded from: there distributions are compared, in nats per token.
KL_BOUND: Final = 0.01


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


class _Refused(Exception):
    """The device lacks a capability, and said so where it was asked for it."""


class _Trial:
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
        sequence = self.model.new_sequence(context_length=CONTEXT)
        sequence.append([*(token_ids or self.text)])
        sequence.extend(Draft.empty())
        return sequence

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


def check_clauses(device: Device, bundles: ContractBundles) -> Iterator[Clause]:
    """Yield what becomes of each clause on a device. Raises: DeviceError where it opens no bundle at all."""
    trial = _Trial(device, bundles)
    for name, clause in CLAUSES.items():
        try:
            yield Clause(name, "ok", clause(trial))
        except _Refused as refusal:
            yield Clause(name, "refused", str(refusal))
        except Exception as error:  # whatever a device does wrong, the other clauses are tried too
            yield Clause(name, "failed", " ".join(str(error).split()) or type(error).__name__)


def _memory(trial: _Trial) -> str:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for make in (trial.device.allocate, trial.device.resident, trial.device.zeros):
        buffer, other = make(values.shape, np.float32), make(values.shape, np.float32)
        buffer.write(values)
        buffer.move(np.s_[:, 0:2], np.s_[:, 1:3])  # they overlap
        wanted = np.stack([values[:, 0], values[:, 0], values[:, 1]], axis=1)
        other.write(0)
        other.copy_from(buffer, np.s_[:, :2])
        buffer.view(slice(1, 2)).write(-1)
        found = np.concatenate([buffer.read().ravel(), other.read().ravel(), buffer.flat().read()])
        kept = np.where(np.arange(3)[:, None] < 2, wanted, 0)
        wanted[1] = -1
        if not np.array_equal(found, np.concatenate([wanted.ravel(), kept.ravel(), wanted.ravel()])):
            raise CheckFailed(f"a buffer of {make.__name__} does not hold what was written, moved or copied there")
    return "buffers are written, moved over themselves, copied and read"


def _plain(trial: _Trial) -> str:
    ways = {name: way for name, way in trial.parity.ways.items() if name not in CHAINS}
    return _within(trial, ways)


def _chain(trial: _Trial) -> str:
    if lack := trial.lacks(Capability.SEVERAL_ROWS):
        trial.require_plain(trial.write("auto"), "auto")
        _require_refusal(lambda: trial.write("ngram"))
        raise _Refused(_require_refusal(lambda: trial.read().extend(Draft.chain([1], source="contract")), lack))
    told = _within(trial, {name: trial.parity.ways[name] for name in CHAINS})
    for decode in ("ngram", "auto"):
        trial.require_plain(trial.write(decode), decode)
    return told


def _within(trial: _Trial, ways: Mapping[str, Difference]) -> str:
    parity, bound = trial.parity, trial.tolerance * max(1.0, trial.parity.largest_logit / 10)
    errors = {name: way.max_logit_error for name, way in ways.items()}
    for name, error in errors.items():
        if not error <= bound:
            raise CheckFailed(f"{name}: logits lie {error:.1e} from the processor's, {bound:.1e} is allowed")
    if parity.choice_gap > 2 * bound:
        raise CheckFailed(f"a token of the greedy text is {parity.choice_gap:.1e} less likely than the processor's")
    return f"logits within {max(errors.values()):.1e} of the processor's, fed in {len(errors)} ways"


def _tree(trial: _Trial) -> str:
    draft = Draft((5, 6, 7, 8), "contract", (0, 0, 1, 2))  # 5 and 6 follow the text, 7 follows 5, 8 follows 6
    sequence = trial.read()
    sequence.rollback(len(trial.text))
    if lack := trial.lacks(Capability.SEVERAL_ROWS, Capability.TREE_ATTENTION):
        raise _Refused(_require_refusal(lambda: sequence.extend(draft), lack))
    paths = [[], [5], [6], [5, 7], [6, 8]]
    told = trial.require_behind(sequence.extend(draft), *([*trial.text, *path] for path in paths))
    sequence.commit([6, 8, 9])  # its rows stand behind those that were not taken, and move
    trial.require_behind(sequence.extend(Draft.empty()), [*trial.text, 6, 8, 9])
    trial.require_plain(trial.write("lookahead"), "lookahead")
    return told


def _rollback(trial: _Trial) -> str:
    sequence, kept = trial.read(), trial.text[:-4]
    sequence.commit([5])
    sequence.rollback(len(kept))
    sequence.append([6, 7])
    return trial.require_behind(sequence.extend(Draft.empty()), [*kept, 6, 7])


def _exits(trial: _Trial) -> str:
    told = ""
    if not trial.model.manifest.exits:
        raise _Refused("the bundle has no exits")
    for num_stages in exit_stages(trial.model).values():
        peeked = []
        for model in (trial.model, trial.reference):
            sequence = model.new_sequence(context_length=CONTEXT)
            sequence.append(trial.text)
            sequence.extend(Draft.empty())
            sequence.commit([5])
            peeked.append(sequence.peek([5], num_stages=num_stages).copy())
            found = sequence.extend(Draft.empty()).copy()  # the other stages go on from what the first ones gave
            trial.require_behind(found, [*trial.text, 5])
        told = trial.require_near(peeked[0], peeked[1], f"at the exit after {num_stages} stages")
    if not trial.lacks(Capability.SEVERAL_ROWS):
        trial.require_plain(trial.write("self"), "self")
    return told


def _blends(trial: _Trial) -> str:
    blends = Blends.of([[5, 6], [7, 8]], [[0.75, 0.25], [0.5, 0.5]])
    found, wanted = (
        sequence.extend_by_blends(blends).copy() for sequence in (trial.read(), _read_by(trial.reference, trial.text))
    )
    return trial.require_near(found, wanted, "behind blends")


def _read_by(model: Model, token_ids: SequenceOf[int]) -> Sequence:
    sequence = model.new_sequence(context_length=CONTEXT)
    sequence.append([*token_ids])
    sequence.extend(Draft.empty())
    return sequence


def _cache(trial: _Trial) -> str:
    bundles = trial.bundles
    if "int8" not in trial.model.manifest.cache_types:
        raise _Refused(f"the bundle has no int8 cache (target {trial.model.manifest.target})")
    if lack := trial.lacks(Capability.INT8_CACHE):
        Model(Bundle.open(bundles.numbers), trial.device)  # whose own type is int8: numbers take its place
        raise _Refused(_require_refusal(lambda: trial.open(bundles.numbers, trial.device, "int8"), lack))
    model = trial.open(bundles.numbers, trial.device, "int8")
    return _same_law(trial, model, trial.open(bundles.numbers_of_processor, trial.processor, "int8"))


def _int4(trial: _Trial) -> str:
    try:
        model = trial.open(trial.bundles.int4, trial.device)
    except DeviceError as error:
        if trial.lacks(Capability.INT4):
            raise _Refused(str(error)) from error
        raise
    return _same_law(trial, model, trial.open(trial.bundles.int4_of_processor, trial.processor))


def _same_law(trial: _Trial, model: Model, reference: Model) -> str:
    """Compare the distributions along a text, which is fed row by row behind a prompt."""
    rows = []
    for each in (reference, model):
        sequence, logits = _read_by(each, trial.text[:8]), []
        for token_id in trial.text[8:]:
            sequence.commit([token_id])
            logits.append(sequence.extend(Draft.empty())[0].copy())
        rows.append(log_softmax(np.stack(logits)))
    nats = float(divergences(*rows).mean())
    if not nats <= KL_BOUND:
        raise CheckFailed(f"KL from the processor's distributions is {nats:.4f} a token, {KL_BOUND} is allowed")
    return f"KL from the processor's distributions {nats:.1e} a token"


def _cancel(trial: _Trial) -> str:
    stream = LanguageModel(trial.model).stream(PROMPT, decode="plain", max_new_tokens=NUM_TOKENS)
    begun = [next(stream), next(stream)]
    del stream  # which ends it, as Ctrl-C does
    trial.require_plain([token_id for piece in begun for token_id in piece.token_ids], "a stream that is closed")
    trial.require_plain(trial.write("plain"), "the text after a closed stream")
    return "a closed stream leaves the device ready for the next text"


def _fork(trial: _Trial) -> str:
    sequence = trial.read()
    twin = sequence.fork()
    for text, token_id in ((sequence, 5), (twin, 6)):
        text.commit([token_id])
    trial.require_behind(twin.extend(Draft.empty()), [*trial.text, 6])
    return trial.require_behind(sequence.extend(Draft.empty()), [*trial.text, 5])


def _batch(trial: _Trial) -> str:
    model = LanguageModel(trial.model)
    prompts = [PROMPT, PROMPT[:-4], "import"]
    first, *others = model.generate(prompts, decode="plain", max_new_tokens=NUM_TOKENS)
    trial.require_plain(first.token_ids, "a batch")
    alone = [model.generate(prompt, decode="plain", max_new_tokens=2).token_ids for prompt in prompts[1:]]
    if [made.token_ids[:2] for made in others] != alone:
        raise CheckFailed("a text of a batch is not the one that it is alone")
    return f"{len(prompts)} texts of unlike lengths, each as alone"


def _errors(trial: _Trial) -> str:
    try:
        trial.device.open_session(trial.bundles.numbers / "no such graph.onnx")
    except DeviceError as error:
        return str(error).replace(str(trial.bundles.numbers), "BUNDLE")
    raise CheckFailed("a graph that is not there gave no DeviceError")


def _require_refusal(ask: Callable[[], object], lack: Capability | None = None) -> str:
    """Return what is said where something is asked for that the device cannot. Raises: CheckFailed where it is not."""
    try:
        ask()
    except SkipstoneError as error:
        return str(error)
    raise CheckFailed(f"the device has no {lack}, but does not refuse what needs it")


CHAINS: Final = ("2 rows at once", "7 rows at once")
CLAUSES: Final[Mapping[str, Callable[[_Trial], str]]] = {
    "memory": _memory,
    "plain": _plain,
    "chain": _chain,
    "tree": _tree,
    "rollback": _rollback,
    "exits": _exits,
    "blends": _blends,
    "int8 cache": _cache,
    "int4": _int4,
    "cancel": _cancel,
    "fork": _fork,
    "batch": _batch,
    "errors": _errors,
}
