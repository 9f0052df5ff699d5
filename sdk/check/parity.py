"""Whether a bundle computes what its checkpoint does, however its tokens are fed: the comparison of `export --check`.

Shapes: T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate import log_softmax
from skipstone.runtime.engine import Draft, Model, Sequence

__all__ = ["LOGIT_TOLERANCE", "Difference", "Parity", "compare", "sample_tokens"]

Logits: TypeAlias = NDArray[np.float32]
Reference: TypeAlias = Callable[[SequenceOf[int]], Logits]
"""Token ids to the logits [T, V] after each."""

# Of logits up to 10; larger ones may differ by as much of themselves. Two programs in float32 lie 1e-6 to 2e-4 apart,
# the more the deeper the model; what is wrong shows in thousandths at least.
LOGIT_TOLERANCE: Final = 5e-4
# A mean of few rows may lie so many times beyond the bound of the others.
FEW_ROWS_FACTOR: Final = 10
NUM_GREEDY: Final = 64
MOST_TOKENS: Final = 512
LEAST_TOKENS: Final = 48
SAMPLE: Final = """\
The bridge over the river was closed for repairs in the spring of 1987, and nobody had thought of telling the ferryman.
He waited three days, then sold both boats. "What is a crossing worth," he asked, "that nobody crosses?"

def median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2

Übrigens: 12 €, naïve café, 猫が好き.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far the logits of some rows are from the reference: the largest difference, and KL(reference || bundle) in
    nats per token; `agreement` is the share of rows with the same most probable token."""

    num_rows: int
    max_logit_error: float
    kl: float
    agreement: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """What a comparison over `num_tokens` found, by the way in which they were fed.

    `choice_gap` is how much less probable than its own choice, in logits, the reference finds any token of the greedy
    text. `largest_logit` is that of the reference, without sign. `past_window` says whether the text was longer than
    the windows of the model; None where it has none.
    """

    num_tokens: int
    num_greedy: int
    largest_logit: float
    choice_gap: float
    past_window: bool | None
    ways: dict[str, Difference]

    @property
    def max_logit_error(self) -> float:
        """The largest of all ways; NaN where one has it, as in `kl`."""
        return float(np.max([way.max_logit_error for way in self.ways.values()]))

    @property
    def kl(self) -> float:
        """The largest of all ways with enough rows for a mean."""
        return float(np.max([way.kl for way in self._means()]))

    @property
    def agreement(self) -> float:
        """The smallest of these ways."""
        return min(way.agreement for way in self._means())

    def _means(self) -> list[Difference]:
        most = max(way.num_rows for way in self.ways.values())
        return [way for way in self.ways.values() if 2 * way.num_rows >= most]

    @property
    def tolerance(self) -> float:
        """How far logits in float32 may lie apart."""
        return LOGIT_TOLERANCE * max(1.0, self.largest_logit / 10)

    def holds(self, kl_bound: float) -> bool:
        """Whether the bundle is right: its logits for a bound of 0, which is float32; else their distributions."""
        if kl_bound == 0:
            return self.max_logit_error <= self.tolerance and self.choice_gap <= 2 * self.tolerance
        return self.kl <= kl_bound and all(way.kl <= FEW_ROWS_FACTOR * kl_bound for way in self.ways.values())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Parity:
        """Return what `to_json` wrote; `data` may hold more."""
        ways = {name: Difference(**way) for name, way in data["ways"].items()}
        return cls(ways=ways, **{field.name: data[field.name] for field in fields(cls) if field.name != "ways"})


def sample_tokens(model: Model) -> list[int]:
    """Return tokens of a built-in text, longer than the windows of the model where these are below 512 tokens."""
    windows = [layer.window for layer in model.manifest.cache if layer.window]
    room = model.manifest.context_length - NUM_GREEDY - 1
    wanted = min(room, max(LEAST_TOKENS, min(min(windows, default=0) + LEAST_TOKENS // 2, MOST_TOKENS)))
    found = model.tokenizer.encode(SAMPLE)
    if wanted < 2 or not found:
        raise ConfigError(
            f"the check needs a context of {NUM_GREEDY + 3} tokens and a tokenizer that knows letters, "
            f"found {model.manifest.context_length} and {len(found)} tokens of its text"
        )
    return (found * (wanted // len(found) + 1))[:wanted]


def compare(model: Model, reference: Reference, token_ids: SequenceOf[int], *, num_greedy: int = NUM_GREEDY) -> Parity:
    """Return how far the logits of `model` are from the reference's: for a prompt, for one in pieces, for 1, 2 and 7
    rows behind a cache, and along a greedy text of `num_greedy` tokens.

    Cost: five passes over the text on the bundle, two on the reference.
    """
    text = [*token_ids]
    wanted = _wanted(model, reference, text)
    ways = {
        "prompt": _difference(np.concatenate([*_rows(model, text, len(text))]), wanted),
        "in pieces": _difference(*_in_pieces(model, text, wanted)),
    }
    for size in (1, 2, 7):
        found = np.concatenate([*_rows(model, text, size)])
        ways["row by row" if size == 1 else f"{size} rows at once"] = _difference(found, wanted)
    continued, found = _greedy(model, text, num_greedy)
    wanted_text = _wanted(model, reference, continued)[len(text) - 1 : -1]
    ways["greedy text"] = _difference(found, wanted_text)
    chosen = np.take_along_axis(wanted_text, np.array(continued[len(text) :])[:, None], 1)[:, 0]
    windows = [layer.window for layer in model.manifest.cache if layer.window]
    return Parity(
        num_tokens=len(text),
        num_greedy=num_greedy,
        largest_logit=float(max(np.abs(wanted).max(), np.abs(wanted_text).max())),
        choice_gap=float((wanted_text.max(axis=1) - chosen).max()),
        past_window=len(text) > min(windows) if windows else None,
        ways=ways,
    )


def _wanted(model: Model, reference: Reference, text: SequenceOf[int]) -> Logits:
    """Return the logits after each token, each as if the text ended there: some models turn longer texts otherwise.

    The first token beyond the manifest's border has a text of its own, which tells when the border is lower.
    """
    border = model.manifest.long_rope_from
    if border is None or border >= len(text):
        return reference(text)
    texts = (text[:border], text[: border + 1], text)
    return np.concatenate([reference(part)[start:] for part, start in zip(texts, (0, border, border + 1), strict=True)])


def _difference(found: Logits, wanted: Logits) -> Difference:
    log_p, log_q = log_softmax(wanted), log_softmax(found)
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean()
    return Difference(
        num_rows=len(found),
        max_logit_error=float(np.abs(found - wanted).max()),
        kl=float(np.maximum(kl, 0)),  # rounding may take it below
        agreement=float((wanted.argmax(axis=1) == found.argmax(axis=1)).mean()),
    )


def _rows(model: Model, text: SequenceOf[int], size: int) -> Iterator[Logits]:
    """Yield logits after each token of the text, fed in calls of `size` rows."""
    sequence, start = model.new_sequence(), 0
    sequence.append(text[:1])
    while start < len(text):
        end = start + min(size, 1 + sequence.draft_room)
        yield sequence.extend(Draft.chain(text[start + 1 : end], source="parity")).copy()
        if coming := text[start + 1 : end + 1]:  # what was drafted, and the next token as the model's own
            sequence.commit(coming)
        start = end


def _in_pieces(model: Model, text: SequenceOf[int], wanted: Logits) -> tuple[Logits, Logits]:
    """Return the logits after each third of the text, as found and as wanted."""
    ends = sorted({max(1, len(text) * third // 3) for third in (1, 2, 3)})
    sequence, found = model.new_sequence(), []
    for end in ends:
        sequence.append(text[len(sequence.token_ids) : end])
        found.append(sequence.extend(Draft.empty()).copy())
    return np.concatenate(found), wanted[[end - 1 for end in ends]]


def _greedy(model: Model, text: SequenceOf[int], num_tokens: int) -> tuple[list[int], Logits]:
    """Return the text with its most probable continuation, and the logits [num_tokens, V] that chose it."""
    sequence: Sequence = model.new_sequence()
    sequence.append(text)
    found = []
    for _ in range(num_tokens):
        found.append(sequence.extend(Draft.empty()).copy())
        sequence.commit([int(found[-1].argmax())])
    return sequence.token_ids, np.concatenate(found)
