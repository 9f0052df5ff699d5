"""Which of some given answers follows a prompt: classification, yes or no, multiple choice.

Source: AdaInfer (Fan et al., 2024) for the exits, its features taken over the answers alone, a threshold in place of
its classifier; the scores are those of the LM Evaluation Harness (Gao et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.option_types import checked
from skipstone.runtime.engine import Model, Sequence, exit_stages
from skipstone.runtime.generation.judge import Path, rows_behind
from skipstone.runtime.methods import require_number

__all__ = ["Choice", "Normalize", "choose", "require_answers", "require_dial"]

Normalize: TypeAlias = Literal["none", "tokens", "bytes"]
Following: TypeAlias = Mapping[Path, Collection[int]]
"""Tokens behind the prompt -> those that may follow."""
Judged: TypeAlias = Mapping[Path, Mapping[int, float]]
"""Tokens behind the prompt -> the log probability of each that may follow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen one of `answers`, its number `index`, and `scores`, the log probability of each by `depth` layers.

    With `normalize` a score is divided by the answer's tokens or bytes; with `closing` it has a stop token behind it.
    """

    answers: tuple[str, ...]
    scores: tuple[float, ...]
    depth: int
    dial: float
    num_layers: int
    normalize: Normalize = "none"
    closing: bool = False

    @property
    def index(self) -> int:
        """The number of the answer with the best score; of equal ones the first."""
        return int(np.argmax(self.scores))

    @property
    def answer(self) -> str:
        return self.answers[self.index]

    @property
    def chances(self) -> dict[str, float]:
        """The answers' scores as probabilities that sum to 1."""
        weights = np.exp(np.array(self.scores) - max(self.scores))
        return dict(zip(self.answers, (weights / weights.sum()).tolist(), strict=True))

    @property
    def lead(self) -> float:
        """By how much the best answer is more probable than the second."""
        second, best = sorted(self.chances.values())[-2:]
        return best - second

    @property
    def approximate(self) -> str | None:
        """When layers are left out; None at the dial's plain end, where all run."""
        return None if self.dial == 1 else f"decides at an exit where the best answer leads by more than {self.dial:g}"

    def to_json(self) -> dict[str, Any]:
        names = (
            *("answer", "index", "chances", "scores", "normalize", "closing"),
            *("depth", "num_layers", "approximate"),
        )
        return {name: getattr(self, name) for name in names} | {"scores": list(self.scores)}


def choose(
    model: Model,
    prompt: str,
    answers: SequenceOf[str],
    *,
    dial: float = 1.0,
    normalize: Normalize = "none",
    closing: bool = False,
) -> Choice:
    """Return which answer is the likeliest continuation of the prompt: the one with the largest log probability.

    Prompt and answer are encoded as one text, so it does not matter whether the space between them ends the one or
    begins the other. An answer's probability is that of its tokens, whatever follows them, so one that begins another
    is never less likely. `closing`: the text must end behind the answer, by any stop token. `normalize` divides the
    logarithm by the answer's `tokens` or `bytes`, so that long answers are not at a disadvantage.

    `dial` 1 runs all layers. Below, where the best answer leads the second by more than `dial` in probability at an
    exit, the later layers are left out: approximate. What all texts share is read once.
    Raises: ConfigError, CacheFull, both before any work.
    """
    require_answers(answers)
    require_dial(dial)
    checked("normalize", normalize, Normalize)
    if dial < 1 and not model.manifest.exits:
        raise ConfigError(
            f"the bundle has no exits, which the dial {dial:g} wants; take dial 1, which runs all layers, "
            "or make a bundle with `skipstone export CHECKPOINT -o OUT --exits auto`"
        )
    if closing and not model.manifest.stop_ids:
        raise ConfigError("closing ends each answer by a stop token, and the model has none; leave it out")
    sequence, num_layers = model.new_sequence(), model.manifest.dimensions.num_layers
    tails = _encode(model, sequence, prompt, answers)
    sizes = _sizes(answers, tails, normalize, closing=closing)
    stop_ids = model.manifest.stop_ids if closing else ()
    following = _following(tails, stop_ids)
    for depth, num_stages in [*(exit_stages(model).items() if dial < 1 else ()), (num_layers, None)]:
        if num_stages is None:
            judged = _judged_by_all(sequence, following)
        else:
            judged = _judged_at_exit(sequence, following, num_stages)
        choice = Choice(
            answers=tuple(answers),
            scores=tuple(score / size for score, size in zip(_scores(tails, stop_ids, judged), sizes, strict=True)),
            depth=depth,
            dial=float(dial),
            num_layers=num_layers,
            normalize=normalize,
            closing=closing,
        )
        if choice.lead > dial:
            break
    return choice


def require_answers(answers: SequenceOf[str]) -> None:
    """Raise ConfigError for answers between which there is no choice."""
    answers = checked("answers", answers, tuple[str, ...])
    if len(answers) < 2:
        raise ConfigError(f"a choice wants at least two answers, got {len(answers)}")
    if "" in answers:
        raise ConfigError("an answer is empty; give each at least one character")
    repeated = [answer for answer in dict.fromkeys(answers) if answers.count(answer) > 1]
    if repeated:
        raise ConfigError(f"the answer {repeated[0]!r} is given twice; give each once")


def require_dial(dial: float) -> None:
    """Raise ConfigError for a threshold that is no difference of probabilities."""
    require_number("the dial of a choice", dial)
    if not 0 <= dial <= 1:
        raise ConfigError(f"the dial of a choice, the lead of the best answer, must be between 0 and 1, got {dial:g}")


# Texts


def _encode(model: Model, sequence: Sequence, prompt: str, answers: SequenceOf[str]) -> list[Path]:
    """Let the sequence hold what prompt and all texts share; return the tokens of each text behind that.

    Raises: ConfigError, CacheFull.
    """
    if not prompt:
        raise ConfigError("the prompt is empty; give at least one character")
    alone, texts = model.tokenizer.encode(prompt), [model.tokenizer.encode(prompt + answer) for answer in answers]
    for number, text in enumerate(texts):
        if text in texts[:number]:
            one, other = answers[texts.index(text)], answers[number]
            raise ConfigError(f"the answers {one!r} and {other!r} are the same to the tokenizer; leave one out")
        sequence.append(text)  # each must fit, and be of the vocabulary
        sequence.rollback(0)
    start = _num_shared([alone, *texts])
    if not start:
        raise ConfigError(
            f"no token of the prompt {prompt!r} stands before all answers, as its end and an answer's beginning make "
            "one token; put a space between them, or give a longer prompt"
        )
    for answer, text in zip(answers, texts, strict=True):
        if len(text) == start:
            raise ConfigError(f"the answer {answer!r} adds no token to the prompt; leave it out")
    sequence.append(texts[0][:start])
    return [tuple(text[start:]) for text in texts]


def _num_shared(texts: list[list[int]]) -> int:
    """Return how many first tokens all texts share."""
    first, last = min(texts), max(texts)  # in order, these two differ the earliest
    return next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )


def _sizes(
    answers: SequenceOf[str], tails: SequenceOf[Path], normalize: Normalize, *, closing: bool
) -> tuple[int, ...]:
    """Return what the score of each answer is divided by."""
    if normalize == "tokens":
        return tuple(len(tail) + closing for tail in tails)
    return tuple(len(answer.encode()) if normalize == "bytes" else 1 for answer in answers)


# Scores


def _following(tails: SequenceOf[Path], stop_ids: SequenceOf[int]) -> dict[Path, set[int]]:
    """Return the tokens that are judged behind each beginning of an answer, in an order that puts parents first."""
    following: dict[Path, set[int]] = {}
    for tail in tails:
        for length, token_id in enumerate(tail):
            following.setdefault(tail[:length], set()).add(token_id)
        if stop_ids:
            following.setdefault(tail, set()).update(stop_ids)
    return dict(sorted(following.items()))


def _scores(tails: SequenceOf[Path], stop_ids: SequenceOf[int], judged: Judged) -> list[float]:
    """Return the log probability of each answer, with a stop token behind it where there are `stop_ids`."""
    scores = [sum(judged[tail[:length]][token_id] for length, token_id in enumerate(tail)) for tail in tails]
    if not stop_ids:
        return scores
    ends = [np.logaddexp.reduce([judged[tail][token_id] for token_id in stop_ids]) for tail in tails]
    return [score + float(end) for score, end in zip(scores, ends, strict=True)]


# Logits


def _log_probs(logits: NDArray[np.float32], token_ids: Iterable[int]) -> dict[int, float]:
    """Return the log probability of some tokens, by logits [V]."""
    row = logits.astype(np.float64) - logits.max()
    total = math.log(np.exp(row).sum())
    return {token_id: float(row[token_id]) - total for token_id in token_ids}


def _judged_at_exit(sequence: Sequence, following: Following, num_stages: int) -> Judged:
    """Return log probabilities by the first stages; of the text they read only what they have not seen."""
    waiting = sequence.token_ids[sequence.num_cached :]
    return {
        path: _log_probs(sequence.peek([*waiting, *path], num_stages=num_stages), token_ids)
        for path, token_ids in following.items()
    }


def _judged_by_all(sequence: Sequence, following: Following) -> Judged:
    """Return log probabilities by all layers."""
    rows = rows_behind(sequence, list(following), source="choice")
    return {path: _log_probs(row, following[path]) for path, row in rows}
