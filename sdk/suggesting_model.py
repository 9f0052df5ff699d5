"""What a model suggests: several short drafts of what follows a prompt, now or while a text is typed."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from skipstone.errors import ConfigError
from skipstone.messages import require_fitting
from skipstone.ngrams import ngrams_for
from skipstone.option_types import checks_arguments
from skipstone.options import sampling_options
from skipstone.runtime.costs import CacheChoice, known_curve
from skipstone.runtime.engine import CLOSED, Model, Sequence
from skipstone.runtime.suggest import (
    Suggestion,
    SuggestRequest,
    Way,
    WayChoice,
    choose_way,
    completing_words,
    finish,
    require_ngrams_used,
    way_named,
)
from skipstone.runtime.text import NgramStore, Spelling
from skipstone.suggester import Suggester

__all__ = ["SuggestingModel"]


class SuggestingModel:
    """The part of a `LanguageModel` that suggests."""

    def __init__(self, model: Model, *, cache_choice: CacheChoice | None = None) -> None:
        """`cache_choice` says why the model has its type of cache; None where it was not chosen by its cost."""
        self._model: Model | None = model
        self.cache_choice = cache_choice

    @property
    def runtime(self) -> Model:
        """The model without the API around it. Raises: ConfigError where it is closed."""
        if self._model is None:
            raise ConfigError(CLOSED)
        return self._model

    def close(self) -> None:
        """Free the model's memory; whatever is asked of it then raises ConfigError. Twice is once.

        A call of the model that runs in another thread ends first, and the text there ends with that error. What
        `with skipstone.load(...) as model:` does at its end. Raises: ConfigError inside a call of this thread, where a
        signal's handler may be.
        """
        if self._model is not None:
            self._model.close()
            self._model = None

    def __enter__(self) -> Self:
        self.runtime.sessions.gate.require_open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @checks_arguments
    def encode(self, prompt: str | SequenceOf[int]) -> list[int]:
        """Return the token ids of a prompt, which may be given as such. Raises: ConfigError when it is empty, or for an
        id that is no token; CacheFull for a text of more bytes than the model sees."""
        if not isinstance(prompt, str):
            return self._checked_ids(prompt)
        require_fitting(self.runtime, prompt)
        token_ids = self.runtime.tokenizer.encode(prompt)
        if not prompt or not token_ids:  # a start token alone is no prompt either
            raise ConfigError("the prompt is empty; give at least one character")
        return token_ids

    def spell(self, token_id: int) -> bytes:
        """Return the bytes that a token spells, which need not be whole characters; of a special token its name."""
        tokenizer = self.runtime.tokenizer
        if token_id in tokenizer.special_ids:
            return (tokenizer.piece(token_id) or "").encode()
        try:
            return self.runtime.shared.get("spelling", lambda: Spelling(tokenizer)).of(token_id)
        except ConfigError:  # a vocabulary of another kind
            return tokenizer.decode([token_id]).encode()

    def _checked_ids(self, token_ids: SequenceOf[int]) -> list[int]:
        """Return ids that are given. Raises: ConfigError as `encode`."""
        num_tokens = self.runtime.manifest.dimensions.vocab_size
        if not token_ids:
            raise ConfigError("the prompt is empty; give at least one token")
        unknown = [token_id for token_id in token_ids if not 0 <= token_id < num_tokens]
        if unknown:
            raise ConfigError(f"the prompt holds {unknown[0]}, which is no token; ids are 0 to {num_tokens - 1}")
        return list(token_ids)

    @checks_arguments
    def suggest(
        self,
        prompt: str,
        *,
        num_drafts: int = 3,
        max_new_tokens: int = 10,
        method: str = "auto",
        ngrams: str | Path | NgramStore | None = None,
        complete_words: bool | None = None,
        context_length: int | None = None,
        **sampling: Any,
    ) -> list[Suggestion]:
        """Return several short drafts of what follows a prompt, distinct and the best first.

        `method` is `auto` or a way by name. `ngrams` is a store of `skipstone ngrams` for superposed drafts, or the
        word `pebble` for that of its code. `sampling` are options of `SamplingOptions`;
        drafts are greedy by default. A prompt may end inside a word, which drafts then complete first, unless
        `complete_words` is False; None: where the vocabulary allows it. Raises: ConfigError, CacheFull, BundleError for
        another file, all before any work.
        """
        way = self.way(method, ngrams=ngrams, complete_words=complete_words)
        sequence = self._read_for_drafts(prompt, max_new_tokens, context_length)
        request = self.suggest_request(num_drafts=num_drafts, max_new_tokens=max_new_tokens, ngrams=ngrams, **sampling)
        sequence.require_room(request.max_new_tokens)
        return finish(way(sequence, request))

    def _read_for_drafts(self, prompt: str, max_new_tokens: int, context_length: int | None) -> Sequence:
        """Return a sequence that holds the prompt, with room for drafts."""
        token_ids = self.encode(prompt)
        if context_length is None:
            context_length = self.runtime.room(num_tokens=len(token_ids) + max_new_tokens).num_tokens
        sequence = self.runtime.new_sequence(context_length=context_length)
        sequence.append(token_ids)
        return sequence

    @checks_arguments
    def choose_way(
        self,
        prompt: str,
        *,
        num_drafts: int = 3,
        max_new_tokens: int = 10,
        ngrams: str | Path | NgramStore | None = None,
        context_length: int | None = None,
        **sampling: Any,
    ) -> WayChoice:
        """Return which way `suggest` takes for a prompt by the method `auto`, and why, without a model call.

        Raises: as `suggest`.
        """
        sequence = self._read_for_drafts(prompt, max_new_tokens, context_length)
        request = self.suggest_request(num_drafts=num_drafts, max_new_tokens=max_new_tokens, ngrams=ngrams, **sampling)
        sequence.require_room(request.max_new_tokens)
        return choose_way(sequence, request)

    @checks_arguments
    def suggester(
        self,
        *,
        num_drafts: int = 3,
        max_new_tokens: int = 10,
        method: str = "auto",
        ngrams: str | Path | NgramStore | None = None,
        complete_words: bool | None = None,
        context_length: int | None = None,
        **sampling: Any,
    ) -> Suggester:
        """Return an object that suggests while a text is typed: `suggest` for each key, its cache kept between them.

        Options are those of `suggest`. Raises: ConfigError.
        """
        way = self.way(method, ngrams=ngrams, complete_words=complete_words)
        request = self.suggest_request(num_drafts=num_drafts, max_new_tokens=max_new_tokens, ngrams=ngrams, **sampling)
        return Suggester(self.runtime, way, request, context_length=context_length)

    def way(
        self,
        method: str = "auto",
        *,
        ngrams: str | Path | NgramStore | None = None,
        complete_words: bool | None = None,
    ) -> Way:
        """Return what makes drafts, by its name. Raises: ConfigError for an unknown one, and for n-grams in vain."""
        way = way_named(method)
        if ngrams is not None:
            require_ngrams_used(method)
        return way if complete_words is False else completing_words(self.runtime, way, required=complete_words is True)

    def suggest_request(
        self,
        *,
        num_drafts: int = 3,
        max_new_tokens: int = 10,
        ngrams: str | Path | NgramStore | None = None,
        **sampling: Any,
    ) -> SuggestRequest:
        """Return what `suggest` asks for, by name. Raises: ConfigError, BundleError."""
        request = SuggestRequest(
            tokenizer=self.runtime.tokenizer,
            num_drafts=num_drafts,
            max_new_tokens=max_new_tokens,
            stop_ids=self.runtime.manifest.stop_ids,
            sampling=sampling_options(recommended=self.runtime.manifest.sampling, **sampling),
            ngrams=ngrams_for(self.runtime, ngrams),
            costs=known_curve(self.runtime),
        )
        request.sampling.require_vocabulary(self.runtime.manifest.dimensions.vocab_size)
        return request
