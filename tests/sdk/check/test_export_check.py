"""`export --check`: its figures go with the bundle, and a bundle that is not right does not appear."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeCheckpoint
from gguf_files import WHOLE_BLOCKS, WriteGguf
from lora_adapters import saved, trained
from numpy.typing import NDArray
from packed_checkpoints import TARGETS, write_gptq

from skipstone.api import export, plan
from skipstone.check import KEPT_KL_BOUND, ExportCheck, TransformersReference
from skipstone.errors import CheckFailed, ConfigError, SkipstoneError, UnsupportedModel
from skipstone.exporters.checkpoints import StoredTensors, open_checkpoint
from skipstone.exporters.optimum import WrappedPlan
from skipstone.quant import Recipe
from skipstone.runtime.bundle import Bundle

MISREADING = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def misread(read_by: Callable[..., None]) -> Callable[[float], None]:
    """Let the export read one matrix `factor` times as large as it is; transformers reads it right."""
    read = StoredTensors.read

    def install(factor: float) -> None:
        def reading(self: StoredTensors, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
            return read(self, name, shape) * np.float32(factor if name == MISREADING else 1)

        read_by(reading)

    return install


def assert_nothing_written(folder: Path) -> None:
    assert not [path for path in folder.iterdir() if "out" in path.name]


# Figures


@pytest.mark.parametrize("exits", ["none", "2"])
def test_the_figures_go_into_the_manifest_and_into_inspect(
    exits: str, cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    import transformers

    done = cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--precision", "fp32", "--exits", exits, "--check")
    assert (done.code, done.out) == (0, "")
    line = r"check: 48 tokens and 64 greedy ones, fed in 6 ways: logits within \S+ of transformers \(bound 5e-04\)\n"
    assert re.search(line, done.err)
    bundle = Bundle.open(tmp_path / "out")
    bundle.verify()
    figures: Any = bundle.manifest.check
    assert (figures["transformers"], figures["kl_bound"]) == (transformers.__version__, 0.0)
    assert (figures["num_tokens"], figures["num_greedy"], figures["past_window"]) == (48, 64, None)
    assert len(figures["ways"]) == 6
    error = max(way["max_logit_error"] for way in figures["ways"].values())
    assert 0 < error < 1e-4
    shown = cli("inspect", tmp_path / "out").out
    assert f"logits within {error:.1e} of transformers {transformers.__version__}, KL 0.0000 nats per token" in shown
    assert json.loads(cli("inspect", tmp_path / "out", "--json").out)["manifest"]["check"] == figures


def test_a_checked_bundle_is_the_one_that_is_written_unchecked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    checked, unchecked = (
        Bundle.open(export(tiny_checkpoint, tmp_path / str(check), precision="fp32", check=check)).manifest
        for check in (True, False)
    )
    assert unchecked.check is None
    assert checked.files == unchecked.files


def test_without_a_check_inspect_says_so(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    cli("export", tiny_checkpoint, "-o", tmp_path / "out")
    assert "no, exported without --check" in cli("inspect", tmp_path / "out").out


def test_a_recipe_that_rounds_is_held_to_its_bound(
    cli: CommandLine, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    done = cli(
        "export", make_checkpoint(initializer_range=0.1), "-o", tmp_path / "out", "--check", "--precision", "int4"
    )
    assert re.search(r"KL 0\.0\d\d\d \(bound 0\.1\), [\d.]+ % of top choices kept, logits within", done.err), done
    figures: Any = Bundle.open(tmp_path / "out").manifest.check
    assert figures["kl_bound"] == 0.1
    assert 0 < max(way["kl"] for way in figures["ways"].values()) < 0.1


def test_quiet_says_nothing_and_checks_all_the_same(cli: CommandLine, tiny_checkpoint: Path, tmp_path: Path) -> None:
    done = cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--precision", "fp32", "--check", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert Bundle.open(tmp_path / "out").manifest.check is not None


# What can be checked

SMALL = {"num_hidden_layers": 2}
GEMMA3N = {
    **SMALL,
    "vocab_size_per_layer_input": 307,
    "hidden_size_per_layer_input": 12,
    "laurel_rank": 6,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "activation_sparsity_pattern": [0.5, 0.0],
    "sliding_window": 30,
}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "experts": ("mixtral", {**SMALL, "num_local_experts": 4}, {}),
    "learned positions": ("gpt2", {**SMALL, "n_inner": 76}, {}),
    "windows": ("mistral", {**SMALL, "sliding_window": 30}, {}),
    "narrower": ("llama", SMALL, {"ffn_width": "40"}),
    "as wide as stored": ("gpt2", {**SMALL, "n_inner": 76}, {"ffn_width": "76"}),
    "narrower, with biases": ("gpt_neox", SMALL | {"hidden_size": 64}, {"ffn_width": "40"}),
    "narrower, layer by layer": ("gemma3n_text", GEMMA3N, {"ffn_width": "40,64"}),
    "exits": ("qwen2", SMALL, {"exits": "1"}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_right_bundle_passes(name: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    model_type, config, options = FAMILIES[name]
    checkpoint = make_checkpoint(model_type, **config)
    export(checkpoint, tmp_path / "out", precision="fp32", check=True, **options)
    figures: Any = Bundle.open(tmp_path / "out").manifest.check
    assert figures["past_window"] in (None, True)


@pytest.mark.parametrize("way", ["gguf", "gguf of integers", "gptq", "lora", "lora and narrower", "drafter"])
def test_whatever_the_weights_come_from_they_can_be_checked(
    way: str, make_checkpoint: MakeCheckpoint, write_gguf: WriteGguf, tmp_path: Path
) -> None:
    source, options, base = Path(), dict[str, Any](), make_checkpoint(**WHOLE_BLOCKS)
    match way:
        case "gguf":
            source = write_gguf("llama, whole blocks")
        case "gguf of integers":
            source = write_gguf("llama, whole blocks", kind="Q8_0")
        case "gptq":
            source = write_gptq(tmp_path / "gptq", base)
        case "lora" | "lora and narrower":
            source, options = base, {"lora": saved(trained(base, target_modules=TARGETS), tmp_path / "adapter")}
            options |= {"ffn_width": "40"} if "narrower" in way else {}
        case "drafter":
            source, options = base, {"drafter": make_checkpoint(num_hidden_layers=1, hidden_size=32)}
    export(source, tmp_path / "out", precision="fp32", check=True, **options)
    figures: Any = Bundle.open(tmp_path / "out").manifest.check
    assert figures["kl_bound"] == (KEPT_KL_BOUND if way in ("gguf of integers", "gptq") else 0)


def test_a_bundle_without_the_adapter_is_not_taken_for_one_with_it(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    base = make_checkpoint(**WHOLE_BLOCKS)
    adapter = saved(trained(base, target_modules=TARGETS), tmp_path / "adapter")
    with_adapter = ExportCheck(plan(base, precision="fp32", lora=adapter))
    export(base, tmp_path / "out", precision="fp32")
    with pytest.raises(CheckFailed, match="logits within"):
        with_adapter(tmp_path / "out")


# What fails


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.001), ("int8", 3.0), ("int4", 30.0)])
def test_a_bundle_that_is_not_right_is_not_written(
    precision: str,
    factor: float,
    cli: CommandLine,
    misread: Callable[[float], None],
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    misread(factor)
    done = cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--precision", precision, "--check")
    assert (done.code, done.out) == (2, "")
    message = rf"skipstone: the bundle of {tiny_checkpoint} computes something else and was not written: 48 tokens .*\n"
    assert re.fullmatch(message, done.err)
    assert_nothing_written(tmp_path)
    assert cli("export", tiny_checkpoint, "-o", tmp_path / "out", "--precision", precision).code == 0


def test_a_failed_check_leaves_the_bundle_that_was_there(
    misread: Callable[[float], None], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    export(tiny_checkpoint, tmp_path / "out", precision="int8")
    misread(1.5)
    with pytest.raises(CheckFailed, match="try a higher --precision, or leave --check out"):
        export(tiny_checkpoint, tmp_path / "out", precision="fp32", force=True, check=True)
    kept = Bundle.open(tmp_path / "out")
    kept.verify()
    assert kept.manifest.recipe["name"] == "int8"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_context_too_short_for_the_check_is_said(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the check needs a context of 67 tokens"):
        export(make_checkpoint(max_position_embeddings=66), tmp_path / "out", check=True)
    assert_nothing_written(tmp_path)


# What is refused before any work


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize("missing", [("torch",), ("transformers",), ("torch", "transformers")])
def test_without_transformers_a_check_is_refused_before_anything_is_fetched_or_read(
    missing: tuple[str, ...], cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    message = f"--check compares with transformers, and {' and '.join(missing)} is not installed: pip install torch"
    for source in (tiny_checkpoint, tmp_path / "nowhere", "owner/name"):
        done = cli("export", source, "-o", tmp_path / "out", "--check")
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"skipstone: {message}") and done.err.count("\n") == 1
        with pytest.raises(ConfigError, match=message):
            export(source, tmp_path / "out", check=True)
    assert_nothing_written(tmp_path)


def test_without_transformers_an_export_needs_no_check(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert cli("export", tiny_checkpoint, "-o", tmp_path / "out").code == 0


@pytest.mark.usefixtures("unreadable")
@pytest.mark.parametrize(
    ("model_type", "config", "widths", "message"),
    [
        ("llama", SMALL, "40,64", "transformers has one FFN width for a llama; leave --check out"),
        ("gpt2", SMALL | {"n_inner": 76}, "40", "--check cannot narrow a gpt2 of transformers; leave it out"),
        ("falcon", SMALL | {"hidden_size": 64, "ffn_hidden_size": 76}, "40", "cannot narrow a falcon"),
        ("phi3", SMALL | {"hidden_size": 64}, "40", "cannot narrow a phi3"),
    ],
)
def test_a_narrower_model_that_transformers_does_not_have_is_refused_before_a_weight_is_read(
    model_type: str, config: dict[str, Any], widths: str, message: str, make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        export(make_checkpoint(model_type, **config), tmp_path / "out", ffn_width=widths, check=True)
    assert_nothing_written(tmp_path)


def test_a_taken_place_is_refused_first(tiny_checkpoint: Path, tmp_path: Path) -> None:
    export(tiny_checkpoint, tmp_path / "out")
    with pytest.raises(SkipstoneError, match="out exists: pass --force to replace it"):
        export(tmp_path / "nowhere", tmp_path / "out", check=True)


# The reference


def test_no_code_of_a_checkpoint_runs_and_nobody_is_asked(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "strange"))
    (folder / "strange.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    code = {"AutoConfig": "strange.Config", "AutoModelForCausalLM": "strange.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "strange", "auto_map": code}))
    wrapped = WrappedPlan(checkpoint=open_checkpoint(folder), recipe=Recipe.named("fp32"))
    with pytest.raises(UnsupportedModel, match=rf"transformers cannot load {folder}: \S"):
        TransformersReference(wrapped)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_reference_computes_in_float32_whatever_is_stored(dtype: str, make_checkpoint: MakeCheckpoint) -> None:
    import torch

    made = TransformersReference(plan(make_checkpoint("qwen2", dtype=dtype, **SMALL)))
    logits = made([5, 6, 7])
    assert (logits.dtype, logits.shape) == (np.float32, (3, 307))
    assert {parameter.dtype for parameter in made.model.parameters()} == {torch.float32}
