"""Suggestions inside a word: the prompt's last word is completed, and a way goes on behind it."""

from __future__ import annotations

from collections.abc import Generator
from collections.abc import Sequence as SequenceOf
from dataclasses import replace

from skipstone.errors import ConfigError
from skipstone.runtime.engine import Model, Sequence
from skipstone.runtime.generation import Beginning, begin, borders_of
from skipstone.runtime.suggest.suggestion import Suggestion, SuggestRequest
from skipstone.runtime.suggest.ways import Way
from skipstone.runtime.text import TextStream

__all__ = ["completing_words"]


def completing_words(model: Model, way: Way, *, required: bool = True) -> Way:
    """Return a way that first completes the prompt's last word, where the prompt ends inside one; see `begin`.

    Its score counts the token that does so, by the log probability of the cover where the prompt's bytes are given.
    Raises: ConfigError for a vocabulary without borders, unless `required` is False: then it is the way itself.
    """
    try:
        borders_of(model)
    except ConfigError:
        if required:
            raise
        return way

    last: list[tuple[list[int], Beginning]] = []  # the scores of the last prompt, which may be asked about again

    def behind_border(sequence: Sequence, request: SuggestRequest) -> Generator[None, None, list[Suggestion]]:
        prompt = list(sequence.token_ids)
        known = last[0][1] if last and last[0][0] == prompt else None
        beginning = begin(model, sequence, request.sampling, max_new_tokens=request.max_new_tokens, known=known)
        if beginning is None:
            return (yield from way(sequence, request))
        last[:] = [(prompt, beginning)]
        try:
            yield
            return (yield from _behind(beginning, prompt, sequence, request, way))
        finally:
            sequence.rollback(beginning.start)
            sequence.append(prompt[beginning.start :])

    return behind_border


def _behind(
    beginning: Beginning, prompt: SequenceOf[int], sequence: Sequence, request: SuggestRequest, way: Way
) -> Generator[None, None, list[Suggestion]]:
    """Write drafts behind a cover. Where one token is wanted, which the cover made, the best covers are the drafts."""
    before, num_left = prompt[: beginning.start], request.max_new_tokens - len(beginning.made)
    if not num_left:
        best = beginning.covers.likeliest(beginning.border, request.num_drafts)
        drafts = dict[str, Suggestion]()
        for left, right, logprob in best:
            text = _text(beginning, before, request, left, (right,))
            drafts.setdefault(text, Suggestion(text=text, score=logprob, token_ids=(right,)))
        return sorted(drafts.values(), key=lambda draft: -draft.score)
    suggestions = yield from way(sequence, replace(request, max_new_tokens=num_left))
    return [_whole(suggestion, beginning, before, request) for suggestion in suggestions]


def _whole(
    suggestion: Suggestion, beginning: Beginning, before: SequenceOf[int], request: SuggestRequest
) -> Suggestion:
    """Return the suggestion with what the cover says beyond the prompt."""
    num_tokens, token_ids = len(suggestion.token_ids), (*beginning.made, *suggestion.token_ids)
    score = suggestion.score
    if beginning.made:
        score = (beginning.logprob + score * num_tokens) / (num_tokens + 1)
    text = _text(beginning, before, request, beginning.given, token_ids)
    return Suggestion(text=text, score=score, token_ids=token_ids)


def _text(
    beginning: Beginning,
    before: SequenceOf[int],
    request: SuggestRequest,
    given: SequenceOf[int],
    token_ids: SequenceOf[int],
) -> str:
    """Return what tokens say behind the prompt, without a character that is not whole at the end."""
    stream = TextStream(request.tokenizer, after=before[-1] if before else None)
    stream.hide(beginning.num_hidden)
    for token_id in given:
        stream.push(token_id)
    return "".join(stream.push(token_id) for token_id in token_ids if token_id not in request.stop_ids)
