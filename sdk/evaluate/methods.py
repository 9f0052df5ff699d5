"""What an approximate method costs in quality and brings in speed, at several settings of its dial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from functools import partial

import numpy as np

from skipstone.evaluate.judged_texts import NEW_TOKENS, judged_text, new_text, prompts_of, sampler_of, steps_of
from skipstone.evaluate.play import Played, play
from skipstone.option_types import checks_arguments
from skipstone.runtime.decoding import PlainDrafter, Step, decode
from skipstone.runtime.decoding.verify import match
from skipstone.runtime.engine import Model
from skipstone.runtime.methods import Method
from skipstone.runtime.sampling import Sampler

__all__ = ["DialQuality", "evaluate_dial"]

MOST_TOKENS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DialQuality:
    """One setting of an approximate method, on texts of 64 tokens: greedy ones, or drawn where it needs chance.

    Of their `num_tokens`: `agreement` is the share that are the full model's choice after what stands before them,
    `kl` is KL(full || used) in nats per token, `by_less` the share that less than the full model made. `exact_match` is
    the share of texts that are plain decoding's, `times_plain` their speed over its, each from the prompt on.
    """

    setting: float
    num_tokens: int
    by_less: float
    agreement: float
    kl: float
    exact_match: float
    tokens_per_s: float
    times_plain: float


@checks_arguments
def evaluate_dial(
    model: Model,
    method: Method,
    texts: SequenceOf[str],
    *,
    settings: SequenceOf[float] | None = None,
    max_tokens: int = MOST_TOKENS,
    on_progress: Callable[[float], None] = lambda share: None,
) -> list[DialQuality]:
    """Return quality and speed for each setting, by default those of the method, on continuations of `texts`.

    About `max_tokens` are written at each setting, twice: once for speed, once to be judged. The method runs even where
    it does not pay, so that its quality is seen. `on_progress` gets the share that is done. Raises: ConfigError for a
    setting outside of the dial, for a model that lacks what the method needs, and for too short a text.
    """
    chosen = method.dial.settings if settings is None else tuple(settings)
    for setting in chosen:
        method.require(setting)
    prompts = prompts_of(model, texts, most=max(1, round(max_tokens / NEW_TOKENS)))
    total = (len(prompts) + 1) * (len(chosen) + 1) + len(prompts) * len(chosen)
    progress = _Progress(total, on_progress)

    def write(setting: float, prompt: SequenceOf[int]) -> Iterator[Step]:
        return steps_of(model, method, setting, new_text(model, prompt))

    writers = [partial(_plain_steps, model, sampler_of(method)), *(partial(write, setting) for setting in chosen)]
    plain, *played = play(writers, prompts, on_text=progress.advance)
    return [
        _quality(model, method, setting, prompts, text, plain, progress)
        for setting, text in zip(chosen, played, strict=True)
    ]


@dataclass(slots=True)
class _Progress:
    """Counts texts, and tells the share of all."""

    total: int
    tell: Callable[[float], None]
    done: int = 0

    def advance(self) -> None:
        self.done += 1
        self.tell(self.done / self.total)


def _plain_steps(model: Model, sampler: Sampler, prompt: SequenceOf[int]) -> Iterator[Step]:
    sequence = new_text(model, prompt)
    accept = match(sampler, sequence.token_ids)
    return decode(sequence, drafter=PlainDrafter(), accept=accept, max_new_tokens=NEW_TOKENS, stop_ids=())


def _quality(
    model: Model,
    method: Method,
    setting: float,
    prompts: SequenceOf[SequenceOf[int]],
    played: Played,
    plain: Played,
    progress: _Progress,
) -> DialQuality:
    verdicts = []
    for prompt in prompts:
        verdicts.append(judged_text(model, method, setting, prompt))
        progress.advance()
    agrees = np.concatenate([verdict.agrees for verdict in verdicts])
    return DialQuality(
        setting=setting,
        num_tokens=len(agrees),
        by_less=float(np.concatenate([verdict.by_less for verdict in verdicts]).mean()),
        agreement=float(agrees.mean()),
        kl=float(np.concatenate([verdict.nats for verdict in verdicts]).mean()),
        exact_match=played.exact_match(plain),
        tokens_per_s=played.tokens_per_s,
        times_plain=played.tokens_per_s / plain.tokens_per_s,
    )
