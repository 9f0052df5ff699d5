"""Models side by side: figures are those of one model at a time, in whatever process they were made."""

from __future__ import annotations

import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from altered_bundles import fit_manifest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from hypothesis import given
from hypothesis import strategies as st

from skipstone.bench.plot import SizePoint, pareto_front
from skipstone.errors import BundleError, ConfigError, DeviceError
from skipstone.evaluate import compare_quality, compare_speed, evaluate, scored_windows, speed_steps
from skipstone.evaluate.gguf_model import GgufModel, is_gguf
from skipstone.evaluate.judge_process import JudgeProcess
from skipstone.evaluate.weights import num_weights
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Model

TEXT = "def add(first, second):\n    return first + second\n\n" * 3 + "The quick brown fox. "
VOCABULARY = 307


@pytest.fixture(scope="module")
def pair(tiny_checkpoint: Path, make_bundle: MakeBundle) -> tuple[Path, Path]:
    """Return a bundle in fp32 and its int4."""
    return make_bundle(tiny_checkpoint), make_bundle(tiny_checkpoint, precision="int4")


def test_figures_are_those_of_one_bundle_at_a_time(pair: tuple[Path, Path]) -> None:
    full, small = map(Model.open, pair)
    windows = [*scored_windows(full.manifest, full.tokenizer, [TEXT], window=40)]
    counts: list[int] = []
    rows = compare_quality([str(pair[1])], windows, reference=str(pair[0]), on_progress=counts.append)
    alone = evaluate(small, [TEXT], reference=full, window=40)
    assert [row.model for row in rows] == [str(pair[0]), str(pair[1])]
    assert sum(counts) == 2 * alone.num_tokens
    assert rows[0].quality.kl is None
    found = rows[1].quality
    assert found.num_tokens == alone.num_tokens
    assert found.perplexity == pytest.approx(alone.perplexity, rel=1e-4)
    assert found.kl == pytest.approx(alone.kl, rel=1e-3)
    assert found.top1_agreement == pytest.approx(alone.top1_agreement)
    assert found.kl_worst is not None and found.kl is not None and found.kl_worst > found.kl


def test_speed_is_measured_where_the_context_has_room(pair: tuple[Path, Path]) -> None:
    steps: list[int] = []
    (speed,) = compare_speed([str(pair[1])], depths=(0, 3000), on_progress=steps.append)
    assert list(speed.tokens_per_s) == [0] and speed.tokens_per_s[0] > 0
    assert 10e6 < speed.peak_memory_bytes < 1e9
    assert sum(steps) <= speed_steps(1, (0, 3000))


def test_what_a_process_raises_is_raised_here(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="skipstone"):
        JudgeProcess(str(tmp_path))
    with JudgeProcess(str(pair[1])) as judge:
        judge._process.kill()
        with pytest.raises(DeviceError, match="signal 9; is there enough memory"):
            judge.fill(4, room=4)


@pytest.mark.parametrize("exits", ["none", "auto"])
def test_weights_are_counted_however_they_are_packed(
    tiny_checkpoint: Path, make_bundle: MakeBundle, exits: str
) -> None:
    counts = {
        num_weights(Bundle.open(make_bundle(tiny_checkpoint, precision=precision, exits=exits)))
        for precision in ("fp32", "int8", "int4", "int4-fast")
    }
    layer = 52 * (64 + 32 + 32) + 64 * 52 + 3 * 52 * 76 + 2 * 52
    assert counts == {4 * layer + 2 * 307 * 52 + 52}


points = st.builds(SizePoint, st.just("a"), st.floats(1, 100), st.floats(0, 1))


@given(st.lists(points, min_size=1, max_size=12))
def test_the_front_holds_just_the_models_that_no_other_beats(models: list[SizePoint]) -> None:
    def beats(one: SizePoint, other: SizePoint) -> bool:
        sizes, kls = one.megabytes <= other.megabytes, one.kl <= other.kl
        return sizes and kls and (one.megabytes, one.kl) != (other.megabytes, other.kl)

    front = pareto_front(models)
    assert set(front) == {one for one in models if not any(beats(other, one) for other in models)}


# GGUF files


class FakeLlama:
    """llama.cpp as far as it is asked for: the logits behind a token are a row of a table."""

    table = np.random.default_rng(0).normal(size=(VOCABULARY, VOCABULARY)).astype(np.float32)

    def __init__(self, path: str, *, n_ctx: int, logits_all: bool, **options: object) -> None:
        self.room, self.logits_all, self.model = n_ctx, logits_all, "model"
        self.scores = np.zeros((n_ctx, VOCABULARY), np.float32)
        self.num_tokens = 0

    def n_vocab(self) -> int:
        return VOCABULARY

    def reset(self) -> None:
        self.num_tokens = 0

    def close(self) -> None:
        self.room = 0

    def eval(self, token_ids: list[int]) -> None:
        end = self.num_tokens + len(token_ids)
        assert end <= self.room
        if self.logits_all:
            self.scores[self.num_tokens : end] = self.table[token_ids]
        self.num_tokens = end


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("llama_cpp")
    module.__spec__ = ModuleSpec("llama_cpp", loader=None)
    module.Llama = FakeLlama
    module.llama_model_size, module.llama_model_n_params = lambda model: 700, lambda model: 1000
    module.llama_model_n_ctx_train = lambda model: 2048
    monkeypatch.setitem(sys.modules, "llama_cpp", module)


@pytest.mark.usefixtures("llama_cpp")
def test_a_gguf_file_gives_the_rows_behind_each_token(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert is_gguf(str(tmp_path / "a.gguf")) and not is_gguf("a-bundle")
    model = GgufModel(tmp_path / "a.gguf", threads=1)
    assert (model.num_bytes, model.bits_per_weight, model.context_length) == (4, 5.6, 2048)
    for size in (30, 900, 20):  # the second does not fit into the context that is open
        window = np.random.default_rng(size).integers(0, VOCABULARY, size).tolist()
        model.begin(window)
        rows = np.concatenate([model.logits(7), model.logits(size - 8)])
        np.testing.assert_array_equal(rows, FakeLlama.table[window[:-1]])
    assert model.fill(600, room=20) > 0 and model.decode(20) > 0


def test_without_llama_cpp_a_gguf_file_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipstone.evaluate.gguf_model.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install llama-cpp-python"):
        is_gguf("model.GGUF")


# the command


def test_the_table_has_a_row_for_each_model(cli: CommandLine, pair: tuple[Path, Path], tmp_path: Path) -> None:
    text, picture = tmp_path / "text.txt", tmp_path / "sizes.svg"
    text.write_text(TEXT, encoding="utf-8")
    words = ("eval", pair[1], "--reference", pair[0], "--text", text, "--window", 40, "--no-speed", "--plot", picture)
    outcome = cli(*words)
    assert outcome.code == 0, outcome.err
    head, _, first, second, _, last = outcome.out.splitlines()
    assert "tokens/s" not in head and "peak MB" in head
    assert "(reference)" in first and pair[1].name in second
    assert last.startswith("84 tokens, threads: ")
    assert picture.read_text(encoding="utf-8").startswith("<?xml")


def test_several_models_as_json(cli: CommandLine, pair: tuple[Path, Path], tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    outcome = cli("eval", *pair, "--text", text, "--no-speed", "--max-tokens", 30, "--json")
    models = json.loads(outcome.out)["models"]
    assert [model["model"] for model in models] == [str(path) for path in pair]
    assert all(model["num_tokens"] == 30 and model["peak_memory_bytes"] > 0 for model in models)


def test_chats_are_shown_as_the_template_does(cli: CommandLine, pair: tuple[Path, Path], tmp_path: Path) -> None:
    chats, shown = tmp_path / "chats.jsonl", tmp_path / "shown.txt"
    message = {"role": "user", "content": "return self"}
    chats.write_text(json.dumps({"text": TEXT}) + "\n" + json.dumps({"messages": [message]}), encoding="utf-8")
    refused = cli("eval", pair[0], "--text", chats)
    assert refused.code == 2 and "no chat template" in refused.err
    bundle = tmp_path / "bundle"
    shutil.copytree(pair[0], bundle)
    template = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    (bundle / "chat_template.jinja").write_text(template, encoding="utf-8")
    fit_manifest(bundle)
    shown.write_text("<user>return self", encoding="utf-8")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    outcome = cli("eval", bundle, "--text", chats, "--json")
    assert outcome.out == cli("eval", bundle, "--text", tmp_path / "text.txt", "--text", shown, "--json").out


def test_models_that_cannot_be_compared_are_refused(
    cli: CommandLine, pair: tuple[Path, Path], make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    other = make_bundle(make_checkpoint(vocab_size=311))
    outcome = cli("eval", pair[0], other, "--text", text, "--no-speed")
    assert outcome.code == 2 and "several vocabularies" in outcome.err
    outcome = cli("eval", pair[0], "--text", text, "--plot", tmp_path / "a.png")
    assert outcome.code == 2 and "add --reference" in outcome.err
