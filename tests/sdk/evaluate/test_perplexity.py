"""Quality figures: perplexity is that of torch, and a bundle compared with itself has lost nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MakeBundle, MakeCheckpoint
from numpy.typing import NDArray

from skipstone.errors import CacheFull, ConfigError
from skipstone.evaluate import evaluate, score
from skipstone.runtime.engine import Draft, Model

Logits = NDArray[np.float32]
Reference = Callable[[Path, tuple[int, ...]], Logits]
TEXT = "def add(first, second):\n    return first + second\n\n" * 12 + "The quick brown fox. "
SHORT = "class Sequence:"


def windows_of(model: Model, texts: list[str], starts: list[int], size: int = 256) -> list[list[int]]:
    """Cut texts as the result should be: pieces that fill the context with their starting token before them."""
    room = size - len(starts)
    found = []
    for text in texts:
        token_ids = model.tokenizer.encode(text, add_special_tokens=False)
        found += [[*starts, *token_ids[at : at + room]] for at in range(0, len(token_ids), room)]
    return found


def nats_of(reference: Reference, checkpoint: Path, window: list[int]) -> list[float]:
    """Return torch's cross entropy of every token but the first."""
    logits = torch.from_numpy(reference(checkpoint, tuple(window)))[:-1]
    losses: list[float] = torch.nn.functional.cross_entropy(
        logits.double(), torch.tensor(window[1:]), reduction="none"
    ).tolist()
    return losses


@pytest.mark.parametrize("stages", [False, True])
def test_perplexity_is_that_of_torch(
    tiny: Model, tiny_stages: Model, tiny_checkpoint: Path, reference_logits: Reference, stages: bool
) -> None:
    texts = [TEXT, SHORT]
    windows = windows_of(tiny, texts, [1])
    assert len(windows) > 2 and len(windows[0]) == 256
    nats = [loss for window in windows for loss in nats_of(reference_logits, tiny_checkpoint, window)]
    found = evaluate(tiny_stages if stages else tiny, texts)
    assert found.num_tokens == len(nats) == sum(len(window) - 1 for window in windows)
    assert found.num_bytes == sum(len(text.encode()) for text in texts)
    assert found.perplexity == pytest.approx(np.exp(np.mean(nats)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(np.sum(nats) / np.log(2) / found.num_bytes, rel=1e-4)
    assert found.kl is None and found.top1_agreement is None


def test_without_a_starting_token_the_first_token_is_not_scored(
    tiny: Model, tiny_checkpoint: Path, reference_logits: Reference
) -> None:
    model = copy.copy(tiny)
    model.manifest = replace(tiny.manifest, bos_id=None, stop_ids=())
    (window,) = windows_of(tiny, [SHORT], [])
    found = evaluate(model, [SHORT])
    assert found.num_tokens == len(window) - 1
    assert found.perplexity == pytest.approx(
        np.exp(np.mean(nats_of(reference_logits, tiny_checkpoint, window))), rel=1e-4
    )


def test_a_model_without_a_first_token_starts_with_its_last(
    tiny: Model, tiny_checkpoint: Path, reference_logits: Reference
) -> None:
    model = copy.copy(tiny)
    model.manifest = replace(tiny.manifest, bos_id=None)
    (window,) = windows_of(tiny, [SHORT], [2])
    wanted = np.exp(np.mean(nats_of(reference_logits, tiny_checkpoint, window)))
    assert evaluate(model, [SHORT]).perplexity == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("max_tokens", [1, 7, 300])
def test_no_more_tokens_are_scored_than_asked_for(tiny: Model, max_tokens: int) -> None:
    counts: list[int] = []
    found = evaluate(tiny, [SHORT, TEXT], max_tokens=max_tokens, on_progress=counts.append)
    assert found.num_tokens == sum(counts) == max_tokens


def test_a_bundle_compared_with_itself_has_lost_nothing(tiny: Model) -> None:
    found = evaluate(tiny, [TEXT, SHORT], reference=tiny)
    assert (found.kl, found.top1_agreement) == (0.0, 1.0)


def test_divergence_and_agreement_are_those_of_the_logits(
    tiny: Model, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    quantized = Model.open(make_bundle(tiny_checkpoint, precision="int4"))
    (window,) = windows_of(tiny, [SHORT], [1])
    log_p, log_q = (
        torch.log_softmax(torch.cat([torch.tensor(logits).double() for _, logits in score(model, window)]), dim=1)
        for model in (tiny, quantized)
    )
    found = evaluate(quantized, [SHORT], reference=tiny)
    wanted = torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    assert found.kl == pytest.approx(float(wanted), rel=1e-6) and found.kl > 0
    assert found.top1_agreement == pytest.approx(float((log_p.argmax(1) == log_q.argmax(1)).double().mean()))


def test_every_token_but_the_first_is_scored_once_in_order(tiny: Model) -> None:
    token_ids = np.random.default_rng(0).integers(3, 300, size=256).tolist()
    targets, logits = [], []
    for some, rows in score(tiny, token_ids):
        assert len(some) == len(rows) <= 128
        targets += some.tolist()
        logits.append(rows.copy())
    assert targets == token_ids[1:]
    sequence = tiny.new_sequence()
    sequence.append(token_ids[:-1])
    np.testing.assert_allclose(sequence.extend(Draft.empty())[0], np.concatenate(logits)[-1], rtol=0, atol=1e-4)


def test_a_text_beyond_the_context_cannot_be_scored(tiny: Model) -> None:
    with pytest.raises(CacheFull):
        next(score(tiny, [5] * 257))


@pytest.mark.parametrize("text", ["", "a"])
def test_a_text_without_two_tokens_is_refused(tiny: Model, text: str) -> None:
    with pytest.raises(ConfigError, match="at least two tokens"):
        evaluate(tiny, [text])


def test_a_reference_with_another_vocabulary_is_refused(
    tiny: Model, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    other = Model.open(make_bundle(make_checkpoint(vocab_size=311)))
    with pytest.raises(ConfigError, match="compare bundles of one checkpoint"):
        evaluate(tiny, [SHORT], reference=other)
