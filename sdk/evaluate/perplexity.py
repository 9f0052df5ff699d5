"""How well a bundle predicts a text, and how close it stays to a reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from skipstone.errors import ConfigError
from skipstone.evaluate.log_probs import divergences, log_softmax
from skipstone.option_types import checks_arguments
from skipstone.runtime.bundle import Manifest
from skipstone.runtime.engine import Draft, Model
from skipstone.runtime.text import Tokenizer, first_tokens, windows_of

__all__ = ["WINDOW", "EvalResult", "evaluate", "score", "scored_windows"]

WINDOW = 1024
ROWS = 128  # of a call


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """Quality on a text of `num_tokens` scored tokens. `kl` is KL(reference || bundle) in nats per token."""

    num_tokens: int
    num_bytes: int
    perplexity: float
    bits_per_byte: float
    kl: float | None = None
    top1_agreement: float | None = None


@checks_arguments
def evaluate(
    model: Model,
    texts: SequenceOf[str],
    *,
    reference: Model | None = None,
    max_tokens: int | None = None,
    window: int = WINDOW,
    on_progress: Callable[[int], None] = lambda num_tokens: None,
) -> EvalResult:
    """Return how well `model` predicts `texts`, in windows of at most `window` tokens that do not overlap.

    Each window starts with the model's own first token, so that every token of the text is scored.
    Raises: ConfigError when a text is empty or the reference has another vocabulary.
    """
    if not texts or (max_tokens is not None and max_tokens < 1):
        raise ConfigError(f"at least one text and one token of it are wanted, got max_tokens {max_tokens}; give more")
    if reference and not _same_vocabulary(reference, model, texts[0]):
        raise ConfigError("the reference has another tokenizer; compare bundles of one checkpoint")
    nats, num_tokens, num_bytes = 0.0, 0, 0
    kls: list[NDArray[np.float64]] = []
    agreements: list[NDArray[np.bool_]] = []
    for token_ids in scored_windows(model.manifest, model.tokenizer, texts, max_tokens=max_tokens, window=window):
        num_bytes += len(model.tokenizer.decode(token_ids[1:], skip_special_tokens=False).encode())
        others = score(reference, token_ids) if reference else None
        for targets, logits in score(model, token_ids):
            log_probs = log_softmax(logits)
            nats -= float(np.take_along_axis(log_probs, targets[:, None], 1).sum())
            num_tokens += len(targets)
            if others is not None:
                wanted = log_softmax(next(others)[1])
                kls.append(divergences(wanted, log_probs))
                agreements.append(wanted.argmax(axis=1) == log_probs.argmax(axis=1))
            on_progress(len(targets))
    return EvalResult(
        num_tokens=num_tokens,
        num_bytes=num_bytes,
        perplexity=float(np.exp(nats / num_tokens)),
        bits_per_byte=nats / np.log(2) / num_bytes,
        kl=float(np.concatenate(kls).mean()) if kls else None,
        top1_agreement=float(np.concatenate(agreements).mean()) if agreements else None,
    )


def _same_vocabulary(first: Model, second: Model, text: str) -> bool:
    sizes = {one.manifest.dimensions.vocab_size for one in (first, second)}
    return len(sizes) == 1 and first.tokenizer.encode(text) == second.tokenizer.encode(text)


def scored_windows(
    manifest: Manifest,
    tokenizer: Tokenizer,
    texts: SequenceOf[str],
    *,
    max_tokens: int | None = None,
    window: int = WINDOW,
) -> Iterator[list[int]]:
    """Yield token ids of each window, a starting token first; at most `max_tokens` scored tokens in all.

    Raises: ConfigError for a text of less than two tokens, and a window without room for one behind the first.
    """
    starts = [manifest.bos_id] if manifest.bos_id is not None else list(manifest.stop_ids[:1])
    size = min(window, manifest.context_length) - len(starts)
    if size < 1 or window < 2:
        raise ConfigError(f"a window of {window} tokens scores none; give at least 2")
    for token_ids in first_tokens(_text_windows(tokenizer, texts, size), max_tokens):
        if len(token_ids) + len(starts) > 1:
            yield [*starts, *token_ids]


def _text_windows(tokenizer: Tokenizer, texts: SequenceOf[str], size: int) -> Iterator[list[int]]:
    for text in texts:
        windows = windows_of(tokenizer, [text], size, least=1, add_special_tokens=False)
        if sum(map(len, windows)) < 2:
            raise ConfigError("a text to evaluate needs at least two tokens")
        yield from windows


def score(model: Model, token_ids: SequenceOf[int]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (targets [N], logits [N, V]) that cover every token but the first; logits are valid until the next step.

    Known text is the perfect draft: every guess is accepted. Raises: CacheFull when the text exceeds the context.
    """
    sequence = model.new_sequence()
    sequence.require_room(len(token_ids))
    sequence.append(token_ids[:1])
    start = 1
    while start < len(token_ids):
        targets = token_ids[start : start + min(ROWS, 1 + sequence.draft_room)]
        yield np.asarray(targets), sequence.extend(Draft.chain(targets[:-1], source="text"))
        sequence.commit(targets)
        start += len(targets)
