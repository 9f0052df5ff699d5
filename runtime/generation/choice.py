"""Which of some given answers follows a prompt: classification, yes or no, multiple choice.

Source: AdaInfer (Fan et al., 2024), its features taken over the answers alone, a threshold in place of its classifier.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.option_types import checked
from skipstone.runtime.engine import Draft, Model, Sequence, exit_stages
from skipstone.runtime.methods import require_number

__all__ = ["Branch", "Choice", "choose", "require_answers", "require_dial"]


@dataclass(frozen=True, slots=True)
class Branch:
    """A place where answers part: the numbers of the answers behind each next token, and the chance of each token.

    The chances sum to 1; so many layers, the `depth`, gave them.
    """

    ways: tuple[tuple[int, ...], ...]
    chances: tuple[float, ...]
    depth: int

    @property
    def best(self) -> int:
        return int(np.argmax(self.chances))

    @property
    def gap(self) -> float:
        """By how much the likeliest token is more probable than the second."""
        second, best = sorted(self.chances)[-2:]
        return best - second


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The chosen one of `answers`, its number `index`, and the places where they part, on the way to it."""

    answers: tuple[str, ...]
    index: int
    branches: tuple[Branch, ...]
    dial: float
    num_layers: int

    @property
    def answer(self) -> str:
        return self.answers[self.index]

    @property
    def depth(self) -> int:
        """How many layers decided: the most that one of the branches took."""
        return max(branch.depth for branch in self.branches)

    @property
    def chances(self) -> dict[str, float | None]:
        """By answer, the product of the chances of its tokens among those of the other answers.

        With first tokens that all differ, the usual case, they sum to 1. None: the answer begins like another one, and
        the choice went elsewhere before they parted; such answers share what is missing from 1.
        """
        found, reached = dict[str, float | None].fromkeys(self.answers), 1.0
        for branch in self.branches:
            for way, chance in zip(branch.ways, branch.chances, strict=True):
                if len(way) == 1:
                    found[self.answers[way[0]]] = reached * chance
            reached *= branch.chances[branch.best]
        return found

    @property
    def approximate(self) -> str | None:
        """When layers are left out; None at the dial's plain end, where all run."""
        return None if self.dial == 1 else f"decides at an exit where the best answer leads by more than {self.dial:g}"

    def to_json(self) -> dict[str, Any]:
        names = ("answer", "index", "chances", "depth", "num_layers", "approximate")
        return {name: getattr(self, name) for name in names}


def choose(model: Model, prompt: str, answers: SequenceOf[str], *, dial: float = 1.0) -> Choice:
    """Return which answer follows the prompt: greedy decoding that may only write one of the answers.

    Prompt and answer are encoded as one text, so it does not matter whether the space between them ends the one or
    begins the other. What all texts share is read once; wherever they part, the likeliest of the possible next tokens
    wins, and nothing is taken back. An answer that is another's beginning competes by the stop tokens.

    `dial` 1 runs all layers. Below, where the likeliest of the tokens leads the second by more than `dial` in
    probability at an exit, the later layers are left out: approximate. Each layer sees a token once at most.
    Raises: ConfigError, CacheFull, both before any work.
    """
    require_answers(answers)
    require_dial(dial)
    if dial < 1 and not model.manifest.exits:
        raise ConfigError(
            f"the bundle has no exits, which the dial {dial:g} wants; take dial 1, which runs all layers, "
            "or make a bundle with `skipstone export CHECKPOINT -o OUT --exits auto`"
        )
    exits = exit_stages(model) if dial < 1 else {}
    texts, sequence = _encode(model, prompt, answers), model.new_sequence()
    for text in texts:  # each must fit, and be of the vocabulary
        sequence.append(text)
        sequence.rollback(0)
    num_layers, left, ahead = model.manifest.dimensions.num_layers, tuple(range(len(answers))), exits
    branches = []
    while len(left) > 1:
        end = _num_shared([texts[number] for number in left])
        sequence.append(texts[left[0]][len(sequence.token_ids) : end])
        branch = _part(sequence, model, ahead, _ways(texts, left, end), dial)
        branches.append(branch)
        # What only the first layers have read goes on from there; once all have, the first exit may decide again.
        reached = 0 if branch.depth == num_layers else branch.depth
        ahead = {depth: num_stages for depth, num_stages in exits.items() if depth >= reached}
        left = branch.ways[branch.best]
    return Choice(
        answers=tuple(answers), index=left[0], branches=tuple(branches), dial=float(dial), num_layers=num_layers
    )


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


def _encode(model: Model, prompt: str, answers: SequenceOf[str]) -> list[list[int]]:
    """Return the token ids of the prompt with each answer."""
    if not prompt:
        raise ConfigError("the prompt is empty; give at least one character")
    texts = [model.tokenizer.encode(prompt + answer) for answer in answers]
    for number, text in enumerate(texts):
        if text in texts[:number]:
            one, other = answers[texts.index(text)], answers[number]
            raise ConfigError(f"the answers {one!r} and {other!r} are the same to the tokenizer; leave one out")
    ends = [answer for answer, text in zip(answers, texts, strict=True) if _is_beginning(text, texts)]
    if ends and not model.manifest.stop_ids:
        raise ConfigError(f"the answer {ends[0]!r} begins another, and the model has no stop token to end it with")
    if not _num_shared(texts):
        raise ConfigError(
            f"no token of the prompt {prompt!r} stands before all answers, as its end and an answer's beginning make "
            "one token; put a space between them, or give a longer prompt"
        )
    return texts


def _is_beginning(text: list[int], texts: list[list[int]]) -> bool:
    return any(other[: len(text)] == text and len(other) > len(text) for other in texts)


def _num_shared(texts: list[list[int]]) -> int:
    """Return how many first tokens all texts share."""
    first, last = min(texts), max(texts)  # in order, these two differ the earliest
    return next(
        (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first)
    )


def _ways(texts: SequenceOf[SequenceOf[int]], left: SequenceOf[int], end: int) -> Mapping[int | None, tuple[int, ...]]:
    """Return the answers behind each possible next token at place `end`; None is that the text ends there."""
    found: dict[int | None, tuple[int, ...]] = {}
    for number in left:
        token_id = texts[number][end] if len(texts[number]) > end else None
        found[token_id] = (*found.get(token_id, ()), number)
    return found


def _part(
    sequence: Sequence, model: Model, exits: Mapping[int, int], ways: Mapping[int | None, tuple[int, ...]], dial: float
) -> Branch:
    """Ask the exits, then all layers, until one is sure enough; exits are numbers of layers to numbers of stages."""
    stop_ids, behind = model.manifest.stop_ids, tuple(ways.values())
    for num_layers, num_stages in exits.items():
        logits = sequence.peek(sequence.token_ids[sequence.num_cached :], num_stages=num_stages)
        branch = Branch(behind, _chances(logits, [*ways], stop_ids), num_layers)
        if branch.gap > dial:
            return branch
    logits = sequence.extend(Draft.empty())[0]
    return Branch(behind, _chances(logits, [*ways], stop_ids), model.manifest.dimensions.num_layers)


def _chances(
    logits: NDArray[np.float32], token_ids: SequenceOf[int | None], stop_ids: SequenceOf[int]
) -> tuple[float, ...]:
    """Return the probability of each token among these, by logits [V]; None is the stop tokens together."""
    exact = logits.astype(np.float64)
    stop = np.logaddexp.reduce(exact[list(stop_ids)]) if None in token_ids else 0.0
    scores = np.array([stop if token_id is None else exact[token_id] for token_id in token_ids])
    weights = np.exp(scores - scores.max())
    return tuple((weights / weights.sum()).tolist())
