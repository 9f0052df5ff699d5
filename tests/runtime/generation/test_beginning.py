"""Texts that begin inside a word: the law over bytes is the source's, and what follows is right in every way."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence as SequenceOf
from functools import cache
from typing import Any

import numpy as np
import pytest
import tokenizers
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers

import skipstone
from skipstone.language_model import LanguageModel
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.generation.beginning import Covers, begin, borders_of, judge_covers
from skipstone.runtime.sampling import SamplingOptions, logprob_of
from skipstone.runtime.text import Border, Borders, Tokenizer

# A toy vocabulary and a source of letters that remembers one

LETTERS, LENGTH, LEAD = "abc", 7, 0
FIRST = {"a": 0.5, "b": 0.3, "c": 0.2}
NEXT = {"a": [0.1, 0.6, 0.3], "b": [0.5, 0.2, 0.3], "c": [0.25, 0.35, 0.4]}


def toy() -> Tokenizer:
    pairs = [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "a"), ("c", "ab"), ("bc", "a"), ("abc", "abc")]
    tokens = ["<s>", *LETTERS, *dict.fromkeys(a + b for a, b in pairs)]
    backend = tokenizers.Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, pairs))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<s>"])
    return Tokenizer(backend)


TOY = toy()


def chance(text: str) -> float:
    """The probability that the source's text begins so."""
    steps = (NEXT[before][LETTERS.index(letter)] for before, letter in itertools.pairwise(text))
    return FIRST[text[0]] * math.prod(steps)


@cache
def chance_by_tokens() -> dict[tuple[int, ...], float]:
    """The probability of each beginning of a text, as tokens, by enumeration of all texts."""
    chances: dict[tuple[int, ...], float] = defaultdict(float)
    for letters in itertools.product(LETTERS, repeat=LENGTH):
        token_ids = TOY.encode("".join(letters))
        for length in range(len(token_ids) + 1):
            chances[tuple(token_ids[:length])] += chance("".join(letters))
    return chances


def row_behind(token_ids: SequenceOf[int]) -> NDArray[np.float32]:
    """The logits that a perfect model of the source's tokens gives."""
    path, chances = tuple(token_id for token_id in token_ids if token_id != LEAD), chance_by_tokens()
    law = np.array([chances.get((*path, token_id), 0.0) for token_id in range(TOY.vocab_size)])
    with np.errstate(divide="ignore"):
        return np.log(law / max(chances.get(path, 0.0), 1e-300) + 1e-30).astype(np.float32)


class ToySequence:
    """As much of a sequence as covers are judged by; it takes no trees."""

    takes_trees, draft_room = False, 64

    def __init__(self, token_ids: SequenceOf[int]) -> None:
        self.token_ids = list(token_ids)

    def append(self, token_ids: SequenceOf[int]) -> None:
        self.token_ids += token_ids

    def rollback(self, length: int) -> None:
        del self.token_ids[length:]

    def extend(self, draft: Draft) -> NDArray[np.float32]:
        return np.stack([row_behind([*self.token_ids, *draft.token_ids[:size]]) for size in range(len(draft) + 1)])

    commit = append


def toy_covers(text: str) -> tuple[Border, Covers]:
    token_ids = TOY.encode(text)
    border = Borders(TOY, size=TOY.vocab_size).find(token_ids)
    assert border is not None
    sequence = ToySequence(token_ids[: border.start])
    return border, judge_covers(sequence, border, lead=LEAD, most=LENGTH)  # type: ignore[arg-type]


def law_of_next_letter(weights: dict[tuple[int, ...], float], size: int) -> dict[str, float]:
    """What follows the first `size` letters, by tokens with their probabilities."""
    law: Counter[str] = Counter()
    for path, weight in weights.items():
        spelled = TOY.decode(path)
        if len(spelled) > size:
            law[spelled[size]] += weight
        else:
            row = np.exp(row_behind(path).astype(np.float64))
            for token_id, share in enumerate(row / row.sum()):
                if share > 1e-12:
                    law[TOY.decode([token_id])[0]] += weight * share
    total = sum(law.values())
    return {letter: law[letter] / total for letter in LETTERS}


def distance(a: dict[str, float], b: dict[str, float]) -> float:
    return sum(abs(a[letter] - b[letter]) for letter in LETTERS) / 2


PROMPTS = ["".join(letters) for size in (1, 2, 3, 4) for letters in itertools.product(LETTERS, repeat=size)]


def cover_weights(text: str) -> dict[tuple[int, ...], float]:
    border, covers = toy_covers(text)
    before = tuple(TOY.encode(text)[: border.start])
    paths = [(covers.lefts[number], int(right)) for number, right in zip(covers.of_left, covers.rights, strict=True)]
    return {
        (*before, *left, right): math.exp(score)
        for (left, right), score in zip(paths, covers.scores, strict=True)
        if border.is_cover(left, right)
    }


@pytest.mark.parametrize("text", PROMPTS)
def test_the_law_of_the_next_byte_is_the_sources(text: str) -> None:
    source = {letter: chance(text + letter) / chance(text) for letter in LETTERS}
    assert distance(law_of_next_letter(cover_weights(text), len(text)), source) < 1e-6


def test_covers_have_all_the_mass_of_the_texts_that_begin_with_the_prompt() -> None:
    for text in PROMPTS:
        assert sum(cover_weights(text).values()) == pytest.approx(chance(text), rel=1e-5)


def test_neither_the_prompts_own_tokens_nor_healing_has_that_law() -> None:
    bare = healed = 0.0
    for text in PROMPTS:
        source = {letter: chance(text + letter) / chance(text) for letter in LETTERS}
        token_ids = tuple(TOY.encode(text))
        bare = max(bare, distance(law_of_next_letter({token_ids: 1.0}, len(text)), source))
        end = TOY.decode(token_ids[-1:])
        row = np.exp(row_behind(token_ids[:-1]))
        weights = {
            (*token_ids[:-1], token_id): float(row[token_id])
            for token_id in range(1, TOY.vocab_size)
            if TOY.decode([token_id]).startswith(end) and row[token_id] > 1e-9
        }
        if weights:
            healed = max(healed, distance(law_of_next_letter(weights, len(text)), source))
    assert bare > 0.1
    assert healed > 0.1


def test_covers_are_drawn_as_likely_as_they_are() -> None:
    border, covers = toy_covers("cab")
    weights = cover_weights("cab")
    total, num_draws = sum(weights.values()), 4000
    drawn = Counter(
        (*left, right)
        for seed in range(num_draws)
        for left, right, _ in [covers.choose(border, SamplingOptions(temperature=1.0, seed=seed))]
    )
    likely = {path: weight / total for path, weight in weights.items() if weight / total > 0.005}
    assert len(likely) > 2
    surprise = sum((drawn[path] - num_draws * share) ** 2 / (num_draws * share) for path, share in likely.items())
    assert surprise < len(likely) + 5 * math.sqrt(2 * len(likely))
    assert (*covers.choose(border, SamplingOptions())[0], covers.choose(border, SamplingOptions())[1]) == max(
        weights, key=lambda path: weights[path]
    )


# A model


def judged(model: Model, text: str, **options: bool) -> tuple[Border, Covers]:
    sequence = model.new_sequence(**options)
    sequence.append(model.tokenizer.encode(text))
    border = borders_of(model).find(sequence.token_ids)
    assert border is not None
    sequence.rollback(border.start)
    return border, judge_covers(sequence, border, lead=model.manifest.bos_id, most=20)


@pytest.mark.parametrize("text", ["def add(first, secon", "def", "class Sequence:\n    def __in"])
def test_scores_are_those_of_the_tokens_one_by_one_in_a_tree_and_without(tiny: Model, text: str) -> None:
    border, covers = judged(tiny, text)
    _, in_chains = judged(tiny, text, exact=True)
    np.testing.assert_allclose(covers.scores, in_chains.scores, atol=1e-4)
    before = tiny.tokenizer.encode(text)[: border.start] or [tiny.manifest.bos_id]
    for place in range(0, len(covers.scores), max(1, len(covers.scores) // 10)):
        sequence, score = tiny.new_sequence(), 0.0
        sequence.append(before)
        for token_id in (*covers.lefts[covers.of_left[place]], int(covers.rights[place])):
            score += logprob_of(sequence.extend(Draft.empty())[0], token_id)
            sequence.commit([token_id])
        assert covers.scores[place] == pytest.approx(score, abs=1e-4)


@pytest.fixture(scope="module")
def pebble() -> LanguageModel:
    return skipstone.load("pebble", threads=1)


@pytest.mark.parametrize(
    ("prompt", "begins"),
    [("impor", "t "), ("import os\nimpor", "t "), ("def f(x):\n    retu", "rn "), ("for i in rang", "e(")],
)
def test_a_word_is_completed(pebble: LanguageModel, prompt: str, begins: str) -> None:
    made = pebble.generate(prompt, max_new_tokens=4, complete_words=True)
    assert made.text.startswith(begins)
    assert not pebble.generate(prompt, max_new_tokens=4).text.startswith(begins)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}])
@pytest.mark.parametrize("decode", ["auto", "ngram", "suffix,recycle", "lookahead", "jacobi"])
def test_every_method_begins_with_the_same_word(pebble: LanguageModel, decode: str, sampling: dict[str, float]) -> None:
    for prompt in ("import os\nimpor", "x = 1"):
        options: dict[str, Any] = {"max_new_tokens": 12, "complete_words": True, **sampling}
        plain = pebble.generate(prompt, decode="plain", **options)
        options["exact"] = False if decode == "lookahead" else None  # it drafts trees
        assert pebble.generate(prompt, decode=decode, **options).token_ids == plain.token_ids


def test_samples_and_batches_give_what_each_gives_alone(pebble: LanguageModel) -> None:
    options = {"max_new_tokens": 5, "complete_words": True}
    for made in pebble.samples("def f(x):\n    ret", 3, temperature=1.0, seed=5, **options):
        alone = pebble.generate("def f(x):\n    ret", temperature=1.0, seed=made.stats.seed, **options)
        assert made.token_ids == alone.token_ids
    prompts = ["import os\nimpor", "x = 1", "class Foo:\n    def __in"]
    together = pebble.generate(prompts, exact=False, decode="plain", **options)
    alone = [pebble.generate(prompt, exact=False, decode="plain", **options) for prompt in prompts]
    assert [made.text for made in together] == [made.text for made in alone]
    assert together[0].text.startswith("t ")


def test_tokens_text_and_limits_agree(pebble: LanguageModel) -> None:
    prompt = "import os\nimpor"
    whole = pebble.generate(prompt, max_new_tokens=8, complete_words=True, logprobs=0)
    assert len(whole.token_ids) == len(whole.logprobs) == whole.stats.new_tokens == 8
    assert pebble.runtime.tokenizer.decode(whole.token_ids) == "impor" + whole.text
    for size in (1, 2, 3):
        made = pebble.generate(prompt, max_new_tokens=size, complete_words=True)
        assert made.token_ids == whole.token_ids[:size]
        assert whole.text.startswith(made.text)
    assert pebble.generate(prompt, max_new_tokens=8, complete_words=True, stop=["t"]).text == ""
    assert pebble.generate(prompt, max_new_tokens=8, complete_words=True, stop=["impor"]).text == whole.text
    assert pebble.generate(prompt, max_new_tokens=8, complete_words=True, stop_below=0.999).finish_reason == "unsure"
    least = pebble.generate(prompt, max_new_tokens=8, min_new_tokens=8, complete_words=True)
    assert len(least.token_ids) == 8


def test_banned_tokens_complete_no_word(pebble: LanguageModel) -> None:
    (word,) = pebble.runtime.tokenizer.encode("import")
    made = pebble.generate("import os\nimpor", max_new_tokens=2, complete_words=True, banned_ids=(word,))
    assert word not in made.token_ids


def test_a_full_context_still_holds_the_text(pebble: LanguageModel) -> None:
    prompt = "import os\nimpor"
    room = len(pebble.encode(prompt)) + 6
    made = pebble.generate(prompt, max_new_tokens=6, complete_words=True, context_length=room)
    assert made.text.startswith("t ")
    assert len(made.token_ids) == 6


def test_what_is_no_word_changes_nothing(pebble: LanguageModel) -> None:
    sequence = pebble.runtime.new_sequence()
    sequence.append([*pebble.encode("import os\n"), *pebble.runtime.manifest.stop_ids])
    token_ids = list(sequence.token_ids)
    assert begin(pebble.runtime, sequence, SamplingOptions(), max_new_tokens=4) is None
    assert sequence.token_ids == token_ids
    sequence.check()
