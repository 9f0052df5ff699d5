"""The decoding contract of a device: what each of our loops needs of it, tried out beside the processor.

A clause holds, or is refused for a capability that the device lacks, with the reason; anything else breaks it.
Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import numpy as np

from skipstone.check.contract_trial import (
    CONTEXT,
    NUM_TOKENS,
    PROMPT,
    Clause,
    ContractBundles,
    RefusedError,
    Trial,
    read_by,
    require_refusal,
)
from skipstone.check.parity import Difference
from skipstone.devices import Capability, Device
from skipstone.errors import CheckFailed, DeviceError
from skipstone.evaluate import divergences, log_softmax
from skipstone.language_model import LanguageModel
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Blends, Draft, Model, exit_stages

__all__ = ["check_clauses"]

# Integers flip at the last bit of what they are rounded from: there distributions are compared, in nats per token.
KL_BOUND: Final = 0.01


def check_clauses(device: Device, bundles: ContractBundles) -> Iterator[Clause]:
    """Yield what becomes of each clause on a device. Raises: DeviceError where it opens no bundle at all."""
    trial = Trial(device, bundles)
    for name, clause in CLAUSES.items():
        try:
            yield Clause(name, "ok", clause(trial))
        except RefusedError as refusal:
            yield Clause(name, "refused", str(refusal))
        except Exception as error:  # whatever a device does wrong, the other clauses are tried too
            yield Clause(name, "failed", " ".join(str(error).split()) or type(error).__name__)


def _memory(trial: Trial) -> str:
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


def _plain(trial: Trial) -> str:
    ways = {name: way for name, way in trial.parity.ways.items() if name not in CHAINS}
    return _within(trial, ways)


def _chain(trial: Trial) -> str:
    if lack := trial.lacks(Capability.SEVERAL_ROWS):
        trial.require_plain(trial.write("auto"), "auto")
        require_refusal(lambda: trial.write("ngram"))
        raise RefusedError(require_refusal(lambda: trial.read().extend(Draft.chain([1], source="contract")), lack))
    told = _within(trial, {name: trial.parity.ways[name] for name in CHAINS})
    for decode in ("ngram", "auto"):
        trial.require_plain(trial.write(decode), decode)
    return told


def _within(trial: Trial, ways: Mapping[str, Difference]) -> str:
    parity, bound = trial.parity, trial.tolerance * max(1.0, trial.parity.largest_logit / 10)
    errors = {name: way.max_logit_error for name, way in ways.items()}
    for name, error in errors.items():
        if not error <= bound:
            raise CheckFailed(f"{name}: logits lie {error:.1e} from the processor's, {bound:.1e} is allowed")
    if parity.choice_gap > 2 * bound:
        raise CheckFailed(f"a token of the greedy text is {parity.choice_gap:.1e} less likely than the processor's")
    return f"logits within {max(errors.values()):.1e} of the processor's, fed in {len(errors)} ways"


def _tree(trial: Trial) -> str:
    draft = Draft((5, 6, 7, 8), "contract", (0, 0, 1, 2))  # 5 and 6 follow the text, 7 follows 5, 8 follows 6
    sequence = trial.read()
    sequence.rollback(len(trial.text))
    if lack := trial.lacks(Capability.SEVERAL_ROWS, Capability.TREE_ATTENTION):
        raise RefusedError(require_refusal(lambda: sequence.extend(draft), lack))
    paths = [[], [5], [6], [5, 7], [6, 8]]
    told = trial.require_behind(sequence.extend(draft), *([*trial.text, *path] for path in paths))
    sequence.commit([6, 8, 9])  # its rows stand behind those that were not taken, and move
    trial.require_behind(sequence.extend(Draft.empty()), [*trial.text, 6, 8, 9])
    trial.require_plain(trial.write("lookahead"), "lookahead")
    return told


def _rollback(trial: Trial) -> str:
    sequence, kept = trial.read(), trial.text[:-4]
    sequence.commit([5])
    sequence.rollback(len(kept))
    sequence.append([6, 7])
    return trial.require_behind(sequence.extend(Draft.empty()), [*kept, 6, 7])


def _exits(trial: Trial) -> str:
    told = ""
    if not trial.model.manifest.exits:
        raise RefusedError("the bundle has no exits")
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


def _blends(trial: Trial) -> str:
    blends = Blends.of([[5, 6], [7, 8]], [[0.75, 0.25], [0.5, 0.5]])
    found, wanted = (
        sequence.extend_by_blends(blends).copy() for sequence in (trial.read(), read_by(trial.reference, trial.text))
    )
    return trial.require_near(found, wanted, "behind blends")


def _cache(trial: Trial) -> str:
    bundles = trial.bundles
    if "int8" not in trial.model.manifest.cache_types:
        raise RefusedError(f"the bundle has no int8 cache (target {trial.model.manifest.target})")
    if lack := trial.lacks(Capability.INT8_CACHE):
        Model(Bundle.open(bundles.numbers), trial.device)  # whose own type is int8: numbers take its place
        raise RefusedError(require_refusal(lambda: trial.open(bundles.numbers, trial.device, "int8"), lack))
    model = trial.open(bundles.numbers, trial.device, "int8")
    return _same_law(trial, model, trial.open(bundles.numbers_of_processor, trial.processor, "int8"))


def _int4(trial: Trial) -> str:
    try:
        model = trial.open(trial.bundles.int4, trial.device)
    except DeviceError as error:
        if trial.lacks(Capability.INT4):
            raise RefusedError(str(error)) from error
        raise
    return _same_law(trial, model, trial.open(trial.bundles.int4_of_processor, trial.processor))


def _same_law(trial: Trial, model: Model, reference: Model) -> str:
    """Compare the distributions along a text, which is fed row by row behind a prompt."""
    rows = []
    for each in (reference, model):
        sequence, logits = read_by(each, trial.text[:8]), []
        for token_id in trial.text[8:]:
            sequence.commit([token_id])
            logits.append(sequence.extend(Draft.empty())[0].copy())
        rows.append(log_softmax(np.stack(logits)))
    nats = float(divergences(*rows).mean())
    if not nats <= KL_BOUND:
        raise CheckFailed(f"KL from the processor's distributions is {nats:.4f} a token, {KL_BOUND} is allowed")
    return f"KL from the processor's distributions {nats:.1e} a token"


def _cancel(trial: Trial) -> str:
    stream = LanguageModel(trial.model).stream(PROMPT, decode="plain", max_new_tokens=NUM_TOKENS)
    begun = [next(stream), next(stream)]
    del stream  # which ends it, as Ctrl-C does
    trial.require_plain([token_id for piece in begun for token_id in piece.token_ids], "a stream that is closed")
    trial.require_plain(trial.write("plain"), "the text after a closed stream")
    return "a closed stream leaves the device ready for the next text"


def _fork(trial: Trial) -> str:
    sequence = trial.read()
    twin = sequence.fork()
    for text, token_id in ((sequence, 5), (twin, 6)):
        text.commit([token_id])
    trial.require_behind(twin.extend(Draft.empty()), [*trial.text, 6])
    return trial.require_behind(sequence.extend(Draft.empty()), [*trial.text, 5])


def _batch(trial: Trial) -> str:
    model = LanguageModel(trial.model)
    prompts = [PROMPT, PROMPT[:-4], "import"]
    first, *others = model.generate(prompts, decode="plain", max_new_tokens=NUM_TOKENS)
    trial.require_plain(first.token_ids, "a batch")
    alone = [model.generate(prompt, decode="plain", max_new_tokens=2).token_ids for prompt in prompts[1:]]
    if [made.token_ids[:2] for made in others] != alone:
        raise CheckFailed("a text of a batch is not the one that it is alone")
    return f"{len(prompts)} texts of unlike lengths, each as alone"


def _errors(trial: Trial) -> str:
    try:
        trial.device.open_session(trial.bundles.numbers / "no such graph.onnx")
    except DeviceError as error:
        return str(error).replace(str(trial.bundles.numbers), "BUNDLE")
    raise CheckFailed("a graph that is not there gave no DeviceError")


CHAINS: Final = ("2 rows at once", "7 rows at once")
CLAUSES: Final[Mapping[str, Callable[[Trial], str]]] = {
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
