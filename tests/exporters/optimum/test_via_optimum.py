"""A graph that optimum traced decodes as ours do, and what it cannot do is refused by name.

optimum itself does not run beside the transformers of these tests. Here torch traces the same models into the layout
that optimum writes; only the tests marked `with_optimum` need optimum, in an environment that has it.
"""

from __future__ import annotations

import copy
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from conftest import MakeCheckpoint
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from numpy.typing import NDArray

from skipstone.bench import benchmark
from skipstone.errors import CheckFailed, CheckpointError, ConfigError, SkipstoneError, UnsupportedModel
from skipstone.exporters import ExportOptions
from skipstone.exporters.optimum import plan as via_optimum
from skipstone.exporters.optimum import plan_wrapped
from skipstone.language_model import LanguageModel
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Feed, Model, Prefix, Sequence, WrappedCall, save_prefix
from skipstone.runtime.generation import Generation, GenerationOptions, stream, stream_batch
from tests.runtime.engine.test_sequence import Machine

Logits = NDArray[np.float32]
ReferenceLogits = Callable[[Path, tuple[int, ...]], Logits]
FP32 = Recipe.named("fp32")
OPTIONS = ExportOptions(recipe=FP32)
TOKEN_IDS = tuple(np.random.default_rng(0).integers(3, 300, size=30).tolist())
PROMPT = "def add(first"
# Learned positions and Gemm nodes; positions turned in pairs, which the config names in the older way; slopes, and no
# input for positions.
FAMILIES: dict[str, dict[str, object]] = {
    "opt": {"num_hidden_layers": 2, "word_embed_proj_dim": 52, "ffn_dim": 76, "dropout": 0.0},
    "gptj": {"num_hidden_layers": 2, "rotary_dim": 8, "intermediate_size": None},
    "bloom": {"num_hidden_layers": 2, "seq_length": 256, "intermediate_size": None},
}
with_optimum = pytest.mark.skipif(find_spec("optimum") is None, reason="optimum is not installed")


def trace(checkpoint: Path, folder: Path) -> None:
    """Write the model in `checkpoint` to `folder` in optimum's layout, as its function `main_export` does."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, attn_implementation="eager")
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    names = [f"{layer}.{kind}" for layer in range(layers) for kind in ("key", "value")]
    pasts, presents = ([f"{word}.{name}" for name in names] for word in ("past_key_values", "present"))
    inputs = ["input_ids", "attention_mask", "position_ids"]
    if "position_ids" not in type(model).forward.__code__.co_varnames:
        inputs.remove("position_ids")

    class Traced(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, *given: Any) -> tuple[Any, ...]:
            cache = transformers.DynamicCache(
                list(zip(given[len(inputs) :: 2], given[len(inputs) + 1 :: 2], strict=True))
            )
            made = self.model(**dict(zip(inputs, given, strict=False)), past_key_values=cache, use_cache=True)
            return made.logits, *(part for layer in made.past_key_values.layers for part in (layer.keys, layer.values))

    tokens = {
        "input_ids": torch.ones(1, 3, dtype=torch.int64),
        "attention_mask": torch.ones(1, 8, dtype=torch.int64),
        "position_ids": torch.arange(5, 8)[None],
    }
    head_size = model.config.hidden_size // heads
    free = {"input_ids": {0: "B", 1: "T"}, "attention_mask": {0: "B", 1: "S"}, "position_ids": {0: "B", 1: "T"}}
    free |= {name: {0: "B", 2: "P"} for name in pasts} | {name: {0: "B", 2: "S"} for name in presents}
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every branch
        torch.onnx.export(
            Traced(),
            (*(tokens[name] for name in inputs), *(torch.randn(1, heads, 5, head_size) for _ in names)),
            folder / "model.onnx",
            input_names=[*inputs, *pasts],
            output_names=["logits", *presents],
            dynamic_axes=free | {"logits": {0: "B", 1: "T"}},
            opset_version=18,
            dynamo=False,
        )


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path, Path], None]:
    """Stand in for optimum; a checkpoint is traced once."""
    made: dict[Path, Path] = {}

    def run(checkpoint: Path, folder: Path) -> None:
        if checkpoint not in made:
            made[checkpoint] = tmp_path_factory.mktemp("traced") / "out"
            trace(checkpoint, made[checkpoint])
        shutil.copytree(made[checkpoint], folder)

    return run


@pytest.fixture(scope="session")
def wrap(tmp_path_factory: pytest.TempPathFactory, traced: Callable[[Path, Path], None]) -> Callable[..., Path]:
    """Wrap a checkpoint with its own graph or that of another, which `change` may change first; return the bundle."""

    def make(
        checkpoint: Path,
        recipe: Recipe = FP32,
        *,
        traced_from: Path | None = None,
        change: Callable[[Path], None] = lambda folder: None,
        check: Callable[[Path], dict[str, object]] | None = None,
    ) -> Path:
        def run(source: Path, folder: Path) -> None:
            traced(traced_from or source, folder)
            change(folder)

        target = tmp_path_factory.mktemp("wrapped") / "out"
        with pytest.MonkeyPatch.context() as patch:
            for name, stand_in in {"require_optimum": lambda: None, "run_optimum": run}.items():
                patch.setattr(via_optimum, name, stand_in)
            try:
                plan = plan_wrapped(checkpoint, ExportOptions(recipe=recipe))
                plan.write(target, command="skipstone export", check=check)
            except SkipstoneError:
                assert list(target.parent.iterdir()) == [], "nothing is left of what failed"
                raise
        return target

    return make


@pytest.fixture(scope="session", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(request.param, **FAMILIES[request.param])


@pytest.fixture(scope="session")
def opt(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("opt", **FAMILIES["opt"])


@pytest.fixture(scope="session")
def wrapped(wrap: Callable[..., Path], checkpoint: Path) -> Model:
    return Model.open(wrap(checkpoint))


@pytest.fixture(scope="session")
def wrapped_opt(wrap: Callable[..., Path], opt: Path) -> Model:
    return Model.open(wrap(opt))


def chain(token_ids: tuple[int, ...]) -> Draft:
    return Draft.chain(token_ids, source="test")


def logits_of(model: Model) -> Logits:
    """Return logits [T, V] after each of TOKEN_IDS, in one call."""
    sequence = model.new_sequence()
    sequence.append(TOKEN_IDS[:1])
    return sequence.extend(chain(TOKEN_IDS[1:])).copy()


def assert_close(found: Logits, wanted: Logits) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


# The same logits, the same text


def test_a_text_gives_the_logits_of_transformers(
    wrapped: Model, checkpoint: Path, reference_logits: ReferenceLogits
) -> None:
    assert_close(logits_of(wrapped), reference_logits(checkpoint, TOKEN_IDS))


@pytest.mark.parametrize("num_rows", [1, 7])
def test_rows_behind_a_cache_give_the_logits_of_transformers(
    wrapped: Model, checkpoint: Path, reference_logits: ReferenceLogits, num_rows: int
) -> None:
    wanted, sequence = reference_logits(checkpoint, TOKEN_IDS), wrapped.new_sequence()
    sequence.append(TOKEN_IDS[:3])
    assert_close(sequence.extend(Draft.empty()), wanted[2:3])
    for start in range(3, len(TOKEN_IDS), num_rows):
        rows = TOKEN_IDS[start : start + num_rows]
        sequence.append(rows[:1])
        assert_close(sequence.extend(chain(rows[1:])), wanted[start : start + len(rows)])
        if len(rows) > 1:
            sequence.commit(rows[1:])


def test_any_order_of_operations_keeps_the_logits_of_the_text(wrapped_opt: Model) -> None:
    run_state_machine_as_test(
        lambda: Machine(wrapped_opt, exact=False), settings=settings(max_examples=10, deadline=None)
    )


def test_a_prompt_longer_than_a_piece_gives_the_same_logits(
    wrapped_opt: Model, opt: Path, reference_logits: ReferenceLogits
) -> None:
    sequence = Sequence.open(wrapped_opt.spares, len(TOKEN_IDS), prefill_chunk=8)
    sequence.append(TOKEN_IDS)
    assert_close(sequence.extend(Draft.empty()), reference_logits(opt, TOKEN_IDS)[-1:])


def test_a_prompt_from_a_file_gives_the_same_text(wrapped_opt: Model, tmp_path: Path) -> None:
    sequence, plain = (Sequence.open(wrapped_opt.spares, 80, prefill_chunk=8) for _ in range(2))
    for text in (sequence, plain):
        text.append(TOKEN_IDS)
    plain.extend(Draft.empty())
    model = copy.copy(wrapped_opt)
    model.prefill_chunk = 8
    save_prefix(tmp_path / "file", plain, len(TOKEN_IDS) - 1)
    assert Prefix.open(tmp_path / "file", model).fill(sequence) == (len(TOKEN_IDS) - 2) // 8 * 8
    options = GenerationOptions(max_new_tokens=20, decode="plain", logprobs=2)
    plain.rollback(0)
    plain.append(TOKEN_IDS)
    texts = [Generation.join(list(stream(wrapped_opt, text, options))) for text in (plain, sequence)]
    assert texts[0].logprobs == texts[1].logprobs


@pytest.mark.parametrize("decode", ["auto", "ngram", "recycle", "jacobi"])
def test_every_drafter_of_chains_gives_the_text_of_plain_decoding(wrapped_opt: Model, decode: str) -> None:
    model = LanguageModel(wrapped_opt)
    plain = model.generate(PROMPT, decode="plain", max_new_tokens=40)
    assert model.generate(PROMPT, decode=decode, max_new_tokens=40).token_ids == plain.token_ids
    warm = {"temperature": 0.8, "seed": 3, "max_new_tokens": 40}
    assert (
        model.generate(PROMPT, decode=decode, **warm).token_ids
        == model.generate(PROMPT, decode="plain", **warm).token_ids
    )


def test_several_samples_and_a_chat_go_on_from_one_cache(wrapped_opt: Model) -> None:
    model = LanguageModel(wrapped_opt)
    options = {"temperature": 0.8, "max_new_tokens": 6}
    found = [sample.token_ids for sample in model.samples(PROMPT, 3, seed=5, **options)]
    assert found == [model.generate(PROMPT, seed=seed, **options).token_ids for seed in (5, 6, 7)]
    assert found == [sample.token_ids for sample in model.samples(PROMPT, 3, first=3, seed=5, **options)]
    chat, plain = model.chat(), GenerationOptions(max_new_tokens=6)
    answers = [Generation.join(list(chat.stream(text, plain))).text for text in ("one", "two")]
    assert [message["content"] for message in chat.messages] == ["one", answers[0], "two", answers[1]]


@pytest.mark.parametrize("way", ["auto", "branch", "beam", "diverse", "contrast"])
def test_every_exact_way_suggests(wrapped_opt: Model, way: str) -> None:
    model = LanguageModel(wrapped_opt)
    options = {"max_new_tokens": 5, "complete_words": False}
    found = model.suggest(PROMPT, method=way, **options)
    assert len({suggestion.token_ids for suggestion in found}) == 3
    if way == "branch":
        assert model.generate(PROMPT, max_new_tokens=5).token_ids in {suggestion.token_ids for suggestion in found}


def test_its_speed_is_measured(wrapped_opt: Model) -> None:
    result = benchmark(wrapped_opt.bundle.path, prompt_tokens=8, new_tokens=4, runs=1)
    assert result.precision == "fp32"
    assert result.decode_tokens_per_s > 0


# The bundle


def test_the_manifest_says_what_the_graph_and_the_settings_say(wrapped: Model, checkpoint: Path) -> None:
    manifest, config = wrapped.manifest, json.loads((checkpoint / "config.json").read_text())
    assert (manifest.graph, manifest.family, manifest.exact) == ("optimum", config["model_type"], False)
    d = manifest.dimensions
    assert (d.vocab_size, d.hidden_size, d.num_layers, d.num_heads, d.num_kv_heads, d.head_size) == (
        307,
        52,
        2,
        4,
        4,
        13,
    )
    assert d.intermediate_size == (76 if manifest.family == "opt" else 4 * 52)
    assert (manifest.context_length, manifest.bos_id, manifest.stop_ids) == (256, 1, (2,))
    assert manifest.provenance.source == str(checkpoint)
    assert manifest.provenance.command == "skipstone export"
    assert set(manifest.files) >= {"stage-00.onnx", "weights.bin", "tokenizer.json"}
    wrapped.bundle.verify()
    assert Bundle.open(wrapped.bundle.path).manifest == manifest


def test_a_check_sees_the_bundle_before_it_is_shown(wrap: Callable[..., Path], opt: Path) -> None:
    found = Bundle.open(wrap(opt, check=lambda folder: {"num_logits": logits_of(Model.open(folder)).size}))
    assert found.manifest.check == {"num_logits": len(TOKEN_IDS) * 307}
    found.verify()

    def refuse(folder: Path) -> dict[str, object]:
        raise CheckFailed("not the same")

    with pytest.raises(CheckFailed):
        wrap(opt, check=refuse)


def test_weights_in_files_of_their_own_give_the_same_bundle(
    wrap: Callable[..., Path], opt: Path, wrapped_opt: Model
) -> None:
    def split(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        onnx.save_model(
            model,
            folder / "model.onnx",
            save_as_external_data=True,
            location="model.onnx_data",
            size_threshold=100,
            convert_attribute=True,
        )

    assert_close(logits_of(Model.open(wrap(opt, change=split))), logits_of(wrapped_opt))


@pytest.mark.parametrize(
    ("precision", "bits", "error"), [("int8", [8] * 13, 0.03), ("int4", [8, 8, 8, 4, 4, 4] * 2 + [8], 0.2)]
)
def test_products_are_stored_as_the_recipe_says(
    wrap: Callable[..., Path], opt: Path, wrapped_opt: Model, precision: str, bits: list[int], error: float
) -> None:
    bundle = wrap(opt, Recipe.named(precision, group_size=32))
    wanted = logits_of(wrapped_opt)
    assert np.abs(logits_of(Model.open(bundle)) - wanted).max() < error * np.abs(wanted).max()
    products = [node for node in ir.load(bundle / "stage-00.onnx").graph if node.op_type == "MatMulNBits"]
    assert [node.attributes.get_int("bits") for node in products] == bits, "queries, keys, values and the head at 8"
    sizes = [Bundle.open(path).manifest.files["weights.bin"].size for path in (bundle, wrapped_opt.bundle.path)]
    assert sizes[0] < 0.7 * sizes[1]


# What it cannot do


def test_what_a_wrapped_graph_cannot_do_is_refused_by_name(wrapped_opt: Model) -> None:
    model = LanguageModel(wrapped_opt)
    with pytest.raises(ConfigError, match="this bundle cannot be exact"):
        model.generate(PROMPT, exact=True)
    with pytest.raises(ConfigError, match="no batch"):
        next(stream_batch(wrapped_opt, [[3], [4]], GenerationOptions()))
    with pytest.raises(ConfigError, match="one text at a time, got a cache for 2"):
        WrappedCall(wrapped_opt.sessions, wrapped_opt.new_cache(batch=2), Feed.of([3], rows=range(1)))
    with pytest.raises(ConfigError, match="lookahead needs drafts that branch"):
        model.generate(PROMPT, decode="lookahead")
    sequence = wrapped_opt.new_sequence()
    assert not sequence.takes_trees
    sequence.append([3, 4])
    with pytest.raises(ConfigError, match="optimum made the graph"):
        sequence.extend(Draft((5, 6), "test", (0, 0)))


@pytest.mark.parametrize(
    ("options", "draft_model", "message"),
    [
        ({"ffn_width": "8", "draft_head": 64}, None, "ffn-width 8"),
        ({"lora": "folder"}, None, "lora folder"),
        ({"draft_head": 64}, None, "draft-head 64"),
        ({"exit_adapters": "none"}, None, "exit-adapters none"),
        ({}, "small", "draft-model small"),
    ],
)
def test_an_option_that_would_change_the_graph_is_refused_by_name(
    options: dict[str, Any], draft_model: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{message} does not go with optimum, whose graph stays as it is"):
        plan_wrapped("no such folder", ExportOptions.of(**options), draft_model=draft_model)


Edit = Callable[[onnx.ModelProto], None]


def rename(old: str, new: str) -> Edit:
    """Return what gives an input or output, and all that stands for it, another name."""

    def edit(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    return edit


def drop_output(name: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.output.remove(next(value for value in model.graph.output if value.name == name))

    return edit


def drop_caches(model: onnx.ModelProto) -> None:
    for value in [value for value in model.graph.input if value.name.startswith("past")]:
        model.graph.input.remove(value)


def shape_past(*sizes: int | str, dtype: int = onnx.TensorProto.FLOAT) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        at = next(i for i, value in enumerate(model.graph.input) if value.name == "past_key_values.1.key")
        new = onnx.helper.make_tensor_value_info("past_key_values.1.key", dtype, sizes)
        del model.graph.input[at]
        model.graph.input.insert(at, new)

    return edit


def give_back_the_past(model: onnx.ModelProto) -> None:
    """Let a layer give back the cache that it was given, without the new rows."""
    rename("present.1.key", "longer")(model)
    next(value for value in model.graph.output if value.name == "longer").name = "present.1.key"
    model.graph.node.append(node("Identity", "past_key_values.1.key", "present.1.key"))


def end_with(*nodes: onnx.NodeProto) -> Edit:
    """Return what puts nodes from `whole` to `logits` at the end."""

    def edit(model: onnx.ModelProto) -> None:
        rename("logits", "whole")(model)
        next(value for value in model.graph.output if value.name == "whole").name = "logits"
        model.graph.node.extend(nodes)

    return edit


def node(op_type: str, inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return onnx.helper.make_node(op_type, inputs.split(), [output], **attributes)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename("logits", "hidden"), "has no logits"),
        (rename("input_ids", "inputs_embeds"), "wants inputs_embeds"),
        (rename("attention_mask", "use_cache_branch"), "wants use_cache_branch"),
        (rename("past_key_values.1.value", "past_key_values.9.value"), r"wants past_key_values\.9\.value"),
        (drop_output("present.1.value"), r"has no present\.1\.value"),
        (drop_caches, r"has no past_key_values\.0\.key"),
        (shape_past("B", 4, "P"), r"past_key_values\.1\.key.*4 dimensions are wanted"),
        (shape_past("B", "P", 4, 13), "the one numbered 1 fixed"),
        (shape_past("B", 4, "P", 12), r"other sizes.*\(4, 12\), \(4, 13\)"),
        (shape_past("B", 4, "P", 13, dtype=onnx.TensorProto.FLOAT16), "FLOAT16, only FLOAT"),
        (give_back_the_past, "cannot read a text in pieces: after 8 tokens a cache holds 0 rows"),
        (
            end_with(
                node("Shape", "input_ids", "sizes"),
                node("Cast", "sizes", "numbers", to=1),
                node("ReduceMax", "numbers", "most"),
                node("Mul", "whole most", "logits"),
            ),
            "in pieces other logits than in one, off by .* of the largest where 1e-03 is allowed",
        ),
        (
            end_with(node("Sub", "whole whole", "zeros"), node("Div", "zeros zeros", "logits")),
            "logits that are no numbers",
        ),
    ],
)
def test_a_graph_in_another_layout_is_refused_by_name(
    wrap: Callable[..., Path], opt: Path, edit: Edit, message: str
) -> None:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "model.onnx")
        edit(model)
        onnx.save_model(model, folder / "model.onnx")

    with pytest.raises(UnsupportedModel, match=message):
        wrap(opt, change=change)


def test_a_graph_that_is_no_decoder_is_refused_with_what_came_out(wrap: Callable[..., Path], opt: Path) -> None:
    def split(folder: Path) -> None:
        (folder / "model.onnx").rename(folder / "encoder_model.onnx")

    with pytest.raises(UnsupportedModel, match=r"makes encoder_model\.onnx of .*; one model\.onnx is wanted"):
        wrap(opt, change=split)


def with_settings(opt: Path, folder: Path, **changes: object) -> Path:
    """Return a copy of a checkpoint with other settings in config.json, which alone counts; None leaves one out."""
    shutil.copytree(opt, folder, ignore=shutil.ignore_patterns("generation_config.json"))
    config = json.loads((folder / "config.json").read_text()) | changes
    known = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(known))
    return folder


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"max_position_embeddings": None}, CheckpointError, "context length: add one of max_position_embeddings"),
        ({"num_attention_heads": None}, CheckpointError, "number of heads: add one of num_attention_heads"),
        ({"bos_token_id": 307}, CheckpointError, "bos_token_id 307 is not a token of the model"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, UnsupportedModel, "rope type 'dynamic' changes"),
        ({"rope_parameters": {"rope_type": "longrope"}}, UnsupportedModel, "rope type 'longrope' changes"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(
    wrap: Callable[..., Path],
    opt: Path,
    tmp_path: Path,
    changes: dict[str, object],
    error: type[SkipstoneError],
    message: str,
) -> None:
    changed = with_settings(opt, tmp_path / "changed", **changes)
    with pytest.raises(error, match=message):
        wrap(changed, traced_from=opt)


def test_settings_that_an_older_transformers_overlooks_are_refused(
    wrap: Callable[..., Path], opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = with_settings(opt, tmp_path / "changed", rope_parameters={"rope_type": "default", "rope_theta": 5.0})
    older = tmp_path / "packages" / "transformers-4.57.6.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: transformers\nVersion: 4.57.6\n")
    monkeypatch.syspath_prepend(older.parent)
    with pytest.raises(UnsupportedModel, match=r"transformers 4\.57\.6 of optimum overlooks"):
        wrap(changed)


# The process that optimum runs in

FAKE = """
import shutil
def main_export(name, output, task, dtype, library_name, do_validation, trust_remote_code):
    assert (task, dtype, library_name) == ("text-generation-with-past", "fp32", "transformers")
    assert not trust_remote_code
    {body}
"""


@pytest.fixture
def fake_optimum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install a package `optimum` whose `main_export` does what it is told."""

    def install(body: str) -> None:
        folder = tmp_path / "packages" / "optimum" / "exporters" / "onnx"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(FAKE.format(body=body))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
        monkeypatch.syspath_prepend(tmp_path / "packages")

    yield install
    for name in [name for name in sys.modules if name.split(".")[0] == "optimum"]:
        del sys.modules[name]


def test_optimum_runs_in_a_process_of_its_own(
    fake_optimum: Callable[[str], None],
    traced: Callable[[Path, Path], None],
    opt: Path,
    tmp_path: Path,
    reference_logits: ReferenceLogits,
) -> None:
    traced(opt, tmp_path / "made")
    fake_optimum(f"shutil.copytree({str(tmp_path / 'made')!r}, output); assert name == {str(opt)!r}")
    plan_wrapped(opt, OPTIONS).write(tmp_path / "out")
    assert_close(logits_of(Model.open(tmp_path / "out")), reference_logits(opt, TOKEN_IDS))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "raise ValueError('opt is not known. Please open an issue')",
            "cannot export .*: ValueError: opt is not known$",
        ),
        ("import os; os._exit(9)", "cannot export .*: its process ended with 9"),
        ("pass", "optimum makes no graph of"),
    ],
)
def test_what_optimum_says_is_the_reason(
    fake_optimum: Callable[[str], None], opt: Path, tmp_path: Path, body: str, message: str
) -> None:
    fake_optimum(body)
    with pytest.raises(UnsupportedModel, match=message):
        plan_wrapped(opt, OPTIONS).write(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_a_missing_optimum_is_named_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"pip install 'skipstone\[optimum\]'"):
        plan_wrapped("no such folder", OPTIONS)


@with_optimum
def test_what_optimum_makes_gives_the_logits_of_transformers(
    checkpoint: Path, tmp_path: Path, reference_logits: ReferenceLogits
) -> None:
    plan_wrapped(checkpoint, OPTIONS).write(tmp_path / "out")
    assert_close(logits_of(Model.open(tmp_path / "out")), reference_logits(checkpoint, TOKEN_IDS))
