"""Texts that an approximate method writes, and what the full model says of each of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate.log_probs import log_softmax
from skipstone.runtime.decoding import Step
from skipstone.runtime.engine import Draft, Model, Sequence
from skipstone.runtime.methods import ApproximateContext, Method
from skipstone.runtime.methods.small_model import Follower
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import windows_of

__all__ = ["NEW_TOKENS", "PROMPT_TOKENS", "Verdict", "judged_text", "new_text", "prompts_of", "sampler_of", "steps_of"]

PROMPT_TOKENS = 64
NEW_TOKENS = 64
ROOM = PROMPT_TOKENS + NEW_TOKENS + 1  # an exact text has room for one token less
DRAWN: Final[Mapping[str, Any]] = {"temperature": 0.8, "top_p": 0.9, "seed": 0}
"""How tokens are drawn where a method needs chance."""
ROWS = 32  # judged in one call: their logits are held in float64
LEAST_LOG_PROB = -100.0  # what one model pads its vocabulary with has no probability in the other


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the full model says of a text, token by token.

    `agrees` [N]: the token is its choice after all tokens before it, by the same noise where it is drawn. `nats` [N]:
    KL(full || used), where used is the law that made the token. `by_less` [N]: less than the full model made it.
    """

    agrees: NDArray[np.bool_]
    nats: NDArray[np.float64]
    by_less: NDArray[np.bool_]


def prompts_of(model: Model, texts: SequenceOf[str], *, most: int) -> list[list[int]]:
    """Return at most `most` prompts of 64 tokens, spread evenly over the texts; each begins as the tokenizer begins.

    Raises: ConfigError when the texts hold none, or prompt and answer exceed the model's context.
    """
    if model.manifest.context_length < ROOM:
        raise ConfigError(f"the model sees {model.manifest.context_length} tokens; judging texts wants at least {ROOM}")
    begin = model.tokenizer.encode("")
    size = PROMPT_TOKENS - len(begin)
    pieces = windows_of(model.tokenizer, texts, size, least=size, add_special_tokens=False)
    if not pieces:
        raise ConfigError(f"the text is shorter than one prompt of {PROMPT_TOKENS} tokens; give more or longer files")
    places = np.linspace(0, len(pieces) - 1, min(most, len(pieces)))
    return [[*begin, *pieces[round(place)]] for place in places]


def new_text(model: Model, prompt: SequenceOf[int], *, exact: bool = False) -> Sequence:
    """Return a sequence that holds a prompt and has room for what follows."""
    sequence = model.new_sequence(context_length=ROOM, exact=exact)
    sequence.append(prompt)
    return sequence


def sampler_of(method: Method) -> Sampler:
    """Return how tokens are chosen where a method is judged: the likeliest, or drawn where it needs chance."""
    if method.chance != "needed":
        return Sampler(greedy=True)
    return Sampler.from_options(SamplingOptions(**DRAWN), stop_ids=(), num_prompt_tokens=PROMPT_TOKENS)


def steps_of(model: Model, method: Method, setting: float, sequence: Sequence) -> Iterator[Step]:
    """Return the loop over one text, greedy where it may be, which runs the method even where it does not pay.

    Stop tokens are ignored, so that all texts are equally long.
    """
    context = ApproximateContext(
        model=model,
        sequence=sequence,
        sampler=sampler_of(method),
        setting=setting,
        max_new_tokens=NEW_TOKENS,
        stop_ids=(),
        forced=True,
    )
    return method.open(context).steps


def judged_text(model: Model, method: Method, setting: float, prompt: SequenceOf[int]) -> Verdict:
    """Write one text and let the full model judge it, in few calls of many rows.

    Both are exact where the bundle can be: then a row's bits do not depend on how many stand beside it, and a text of
    plain decoding agrees with itself to the last bit. Elsewhere rounding shows as some tokens in a thousand.
    The law of a token is the logits of its step, but for a guess that stands though it is not the full model's choice:
    the small model made that one, so the law is what the small model says after the same tokens.
    """
    exact = model.manifest.exact
    token_ids, laws, by_less, lenient = list[int](), list[NDArray[np.float32]](), list[bool](), list[int]()
    for step in steps_of(model, method, setting, new_text(model, prompt, exact=exact)):
        partial = step.depth not in (None, model.manifest.dimensions.num_layers)
        for number, (token_id, law) in enumerate(zip(step.token_ids, step.logits, strict=True)):
            stands = method.drafts is not None and number < step.num_accepted and int(law.argmax()) != token_id
            if stands:
                lenient.append(len(token_ids))
            token_ids.append(token_id)
            laws.append(law.copy())
            by_less.append(partial or stands)
    if lenient:
        for place, law in zip(lenient, _small_model_laws(model, prompt, token_ids, lenient), strict=True):
            laws[place] = law
    agrees, nats = list[bool](), list[float]()
    sampler, history = sampler_of(method), [*prompt]
    for full in _full_logits(new_text(model, prompt, exact=exact), token_ids):
        piece = slice(len(agrees), len(agrees) + len(full))
        wanted, used = log_softmax(full), np.maximum(log_softmax(np.stack(laws[piece])), LEAST_LOG_PROB)
        for row, token_id in zip(full, token_ids[piece], strict=True):
            agrees.append(sampler.choose(row, history) == token_id)
            history.append(token_id)
        nats += (np.exp(wanted) * (wanted - used)).sum(axis=1).tolist()
    return Verdict(np.asarray(agrees), np.asarray(nats), np.asarray(by_less))


def _full_logits(sequence: Sequence, token_ids: SequenceOf[int]) -> Iterator[NDArray[np.float32]]:
    """Yield logits [T, V] that cover all of `token_ids` behind a prompt, each row for one of them."""
    while token_ids:
        piece = token_ids[: min(ROWS, 1 + sequence.draft_room)]
        yield sequence.extend(Draft.chain(piece[:-1], source="text"))
        sequence.commit(piece)
        token_ids = token_ids[len(piece) :]


def _small_model_laws(
    model: Model, prompt: SequenceOf[int], token_ids: SequenceOf[int], places: SequenceOf[int]
) -> NDArray[np.float32]:
    """Return the small model's logits [len(places), V] for the tokens at `places` of what follows the prompt."""
    small = model.draft_model
    assert small is not None, "its guesses stand in the text"
    text = Follower(small, capacity=ROOM, vocab_size=model.manifest.dimensions.vocab_size)
    text.follow(prompt)
    return text.logits(Draft.chain(token_ids[: places[-1]], source="text"))[places]
