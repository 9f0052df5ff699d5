"""Benchmarks of the parts, run by `make bench`; on pebble in int4, and on arrays of a common size."""

from __future__ import annotations

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from skipstone.api import load
from skipstone.quant import quantize
from skipstone.runtime.engine import Draft, Feed, Model, Sequence
from skipstone.runtime.sampling import Sampler, SamplingOptions
from skipstone.runtime.text import TextStream

PROMPT = "def read_config(path):\n"


@pytest.fixture(scope="module")
def model() -> Model:
    return load("pebble").runtime


@pytest.fixture
def sequence(model: Model) -> Sequence:
    sequence = model.new_sequence()
    sequence.append(model.tokenizer.encode(PROMPT))
    sequence.commit([int(sequence.extend(Draft.empty())[0].argmax())])
    return sequence


def test_one_decoding_step(benchmark: BenchmarkFixture, sequence: Sequence) -> None:
    length = len(sequence.token_ids)

    def step() -> None:
        sequence.commit([int(sequence.extend(Draft.empty())[0].argmax())])
        sequence.rollback(length)

    benchmark(step)


def test_the_session_alone_in_one_decoding_step(benchmark: BenchmarkFixture, model: Model, sequence: Sequence) -> None:
    sequence.extend(Draft.empty())
    feed = Feed.of([0], rows=range(1), length=sequence.num_cached)
    call = model.new_workspace().call(feed)
    call.run(feed)
    benchmark(call.bindings[0].run)


@pytest.mark.parametrize("num_tokens", [32, 256])
def test_prefill(benchmark: BenchmarkFixture, model: Model, num_tokens: int) -> None:
    sequence = model.new_sequence()
    sequence.append(np.random.default_rng(0).integers(0, 4096, num_tokens).tolist())

    def prefill() -> None:
        sequence.extend(Draft.empty())
        sequence.num_cached = 0

    benchmark(prefill)


@pytest.mark.parametrize("vocab_size", [4096, 151936])
@pytest.mark.parametrize(
    "options", [SamplingOptions(temperature=0.8, top_p=0.9), SamplingOptions()], ids=["top_p", "greedy"]
)
def test_choosing_a_token(benchmark: BenchmarkFixture, vocab_size: int, options: SamplingOptions) -> None:
    sampler = Sampler.from_options(options, stop_ids=(), num_prompt_tokens=0)
    logits = np.random.default_rng(0).normal(0, 3, vocab_size).astype(np.float32)
    benchmark(sampler.choose, logits, [1, 2, 3])


def test_a_token_to_text(benchmark: BenchmarkFixture, model: Model) -> None:
    stream = TextStream(model.tokenizer)
    benchmark(stream.push, model.tokenizer.encode("return")[0])


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantizing_a_million_weights(benchmark: BenchmarkFixture, symmetric: bool) -> None:
    weight = np.random.default_rng(0).normal(size=(1024, 1024)).astype(np.float32)
    benchmark(quantize, weight, bits=4, block_size=32, symmetric=symmetric)
