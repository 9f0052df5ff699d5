"""Budgets: how they are written, that bundles keep them, and that what matters more gets more bits."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine
from conftest import MakeCheckpoint
from family_cases import CASES

from skipstone.api import export, plan
from skipstone.calibrate import Budget, Documents, LayerGraphs, Windows
from skipstone.calibrate.fit import fit_recipe
from skipstone.calibrate.hessians import _largest
from skipstone.calibrate.options import BLOCK_SIZES, MENU, Sensitive, measured_options
from skipstone.calibrate.sensitivity import measure_sensitivity
from skipstone.calibrate.step_times import StepTimes
from skipstone.calibrate.work_folder import WorkFolder
from skipstone.devices import open_device
from skipstone.errors import ConfigError
from skipstone.quant import Recipe, TensorRecipe
from skipstone.runtime.bundle import Bundle

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3}
SMALL: dict[str, Any] = {**SIZES, "max_position_embeddings": 24, "tie_word_embeddings": True}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = np.random.default_rng(0).choice(["def ", "add", "(one", ", two", ")\n", "return ", "the fox ", "é"], 3000)
    path.write_text("".join(words), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint(**SMALL)


def size(bundle: Path) -> int:
    return sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())


def rules(recipe: Recipe) -> dict[str, TensorRecipe]:
    return {name: rule for name, rule in recipe.rules if name.startswith(("layers.0", "layers.1", "layers.2", "head"))}


@pytest.mark.parametrize(
    ("written", "budget"),
    [
        ("4.5bits", Budget(4.5, "bits")),
        ("100MB", Budget(100, "MB")),
        ("8 ms", Budget(8, "ms")),
        ("1mb", Budget(1, "MB")),
    ],
)
def test_a_budget_is_an_amount_and_a_unit(written: str, budget: Budget) -> None:
    assert Budget.parse(written) == budget


@pytest.mark.parametrize("written", ["", "4.5", "MB", "-1MB", "4.5 bytes", "0ms", "1e3MB", "4,5bits"])
def test_what_is_no_budget_is_refused(written: str) -> None:
    with pytest.raises(ConfigError, match=r"like 4\.5bits, 100MB or 8ms, not"):
        Budget.parse(written)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("megabytes", [0.36, 0.45])
def test_the_bundle_is_no_larger_and_uses_what_it_may(
    megabytes: float, calibrated: bool, checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"calibrate": text} if calibrated else {}
    bundle = export(checkpoint, tmp_path / "out", budget=f"{megabytes}MB", **options)
    assert 0.9 * megabytes < size(bundle) / 1e6 <= megabytes
    assert Bundle.open(bundle).manifest.recipe["name"] == f"{megabytes}MB"


def test_bits_are_those_of_all_matrices_with_their_scales(checkpoint: Path, tmp_path: Path) -> None:
    recipe = fit_recipe(plan(checkpoint), Budget(6.0, "bits"))
    shapes = {"qkv": (128, 128), "o": (128, 64), "gate_up": (512, 128), "down": (128, 256)}
    sizes = {f"layers.{layer}.{part}": shape for layer in range(3) for part, shape in shapes.items()}
    assert 5.5 < recipe.average_bits({**sizes, "head": (307, 128)}) <= 6.0


def test_a_step_costs_what_its_products_and_the_rest_take(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = StepTimes({rule: float(rule.bits) for rule in MENU})
    monkeypatch.setattr(StepTimes, "measure", lambda rules: times)
    monkeypatch.setattr("skipstone.calibrate.fit.step_ms", lambda bundle: 3.0)
    planned = plan(checkpoint)
    fast, slow = (rules(fit_recipe(planned, Budget(amount, "ms"))) for amount in (2.3, 4.0))
    assert sum(rule.bits for rule in fast.values()) < sum(rule.bits for rule in slow.values())


def test_too_little_is_refused_with_the_least_that_is_possible(checkpoint: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"--budget 0\.1MB is below the least that this model takes, 0\.\d+MB"
    ) as caught:
        fit_recipe(plan(checkpoint), Budget(0.1, "MB"))
    assert "\n" not in str(caught.value)


def test_an_export_without_integers_takes_no_budget(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rounds no matrix"):
        export(checkpoint, tmp_path / "out", precision="fp32", budget="4bits")


def test_two_bits_are_taken_without_a_text_only_where_more_do_not_fit(checkpoint: Path) -> None:
    planned = plan(checkpoint)
    assert min(rule.bits for rule in rules(fit_recipe(planned, Budget(4.6, "bits"))).values()) == 4
    assert min(rule.bits for rule in rules(fit_recipe(planned, Budget(3.5, "bits"))).values()) == 2


def test_more_bits_and_smaller_blocks_lose_less() -> None:
    matrix = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    errors = {(one.rule.bits, one.rule.block_size): one.error for one in measured_options("matrix", matrix, None)}
    assert errors[2, 32] > 5 * errors[4, 32] and errors[4, 32] > 50 * errors[8, 32]
    assert errors[2, 128] > errors[2, 64] > errors[2, 32]


def test_rounded_inputs_count_more_in_larger_blocks_with_an_outlier() -> None:
    """One input of 256 is a hundred times the others: in blocks of 32 it spoils 31 of them, in blocks of 128 127."""
    rng = np.random.default_rng(0)
    x, matrix = (rng.normal(size=(rows, 256)).astype(np.float32) for rows in (500, 64))
    x[:, 5] *= 100
    noise = {size: _largest(x, size).mean(axis=0, dtype=np.float64) / (12 * 127**2) for size in BLOCK_SIZES}
    for size in BLOCK_SIZES:
        blocks = x.reshape(500, -1, size)
        step = np.abs(blocks).max(axis=2, keepdims=True) / 127
        moved = (np.rint(blocks / step) * step - blocks).reshape(x.shape) @ matrix.T
        guessed = np.square(matrix).sum(axis=0) @ noise[size]
        assert 0.7 < guessed / np.square(moved).sum(axis=1).mean() < 1.4
    errors = {
        (one.rule.bits, one.rule.block_size): one.error
        for one in measured_options("matrix", matrix, x.T.astype(np.float64) @ x / 500, noise)
    }
    assert errors[8, 64] > 1.4 * errors[8, 32]


def test_a_layer_that_the_model_minds_more_gets_more_bits(
    make_checkpoint: MakeCheckpoint, checkpoint: Path, text: Path, tmp_path: Path
) -> None:
    """The second layer's output counts a hundredth of the others'."""
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(checkpoint, tmp_path / "checkpoint"))
    tensors = load_file(folder / "model.safetensors")
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"model.layers.1.{name}.weight"] *= np.float32(0.01)
    save_file(tensors, folder / "model.safetensors")
    planned = plan(folder)
    windows = Windows.of(planned, Documents.read(text))
    found = measure_sensitivity(
        LayerGraphs(planned, open_device(), tmp_path), windows.calibrate, lambda name: True, WorkFolder(tmp_path, b"")
    )
    kl = {layer: sum(one.kl for name, one in found.items() if name.startswith(f"layers.{layer}")) for layer in range(3)}
    assert kl[1] < 0.1 * min(kl[0], kl[2])
    chosen = rules(fit_recipe(planned, Budget(5.0, "bits"), windows.calibrate))
    bits = {layer: sum(rule.bits for name, rule in chosen.items() if f"layers.{layer}." in name) for layer in range(3)}
    assert bits[1] < min(bits[0], bits[2])


@pytest.mark.parametrize("num_steps", [0, 2, 4, 5])
def test_what_an_interrupted_run_has_measured_is_not_measured_again(
    num_steps: int, checkpoint: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, saved, save = plan(checkpoint), list[bytes](), WorkFolder.save
    tokens = Windows.of(planned, Documents.read(text)).calibrate

    def save_some(folder: WorkFolder, key: bytes, *step: Any) -> None:
        if len(saved) == num_steps:
            raise KeyboardInterrupt
        saved.append(key)
        save(folder, key, *step)

    def measured(folder: str) -> dict[str, Sensitive]:
        graphs = LayerGraphs(planned, open_device(), tmp_path)
        return measure_sensitivity(graphs, tokens, lambda name: True, WorkFolder(tmp_path / folder, b"run"))

    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "save", save_some)
        with contextlib.suppress(KeyboardInterrupt):
            measured("interrupted")
    again = list[bytes]()
    with monkeypatch.context() as patch:
        patch.setattr(WorkFolder, "save", lambda folder, key, *step: (again.append(key), save(folder, key, *step)))
        found = measured("interrupted")
    assert len(saved) + len(again) == 5 and not set(saved) & set(again)
    assert found == measured("whole")


@pytest.mark.parametrize("family", ["gpt2", "gemma3n_text", "olmoe", "falcon, one key-value head"])
def test_families_keep_a_budget_without_a_text(family: str, make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    case = CASES[family]
    checkpoint = make_checkpoint(case.model_type, dtype=case.dtype, **case.config)
    usual = size(export(checkpoint, tmp_path / "usual"))
    bundle = export(checkpoint, tmp_path / "out", budget=f"{0.97 * usual / 1e6:.4f}MB")
    assert size(bundle) <= 0.97 * usual


def test_the_command_takes_a_budget(checkpoint: Path, tmp_path: Path, cli: CommandLine) -> None:
    result = cli("export", checkpoint, "-o", tmp_path / "out", "--budget", "5bits")
    assert result.code == 0 and "out: 5bits, 0." in result.err
    refused = cli("export", checkpoint, "-o", tmp_path / "out", "--force", "--budget", "five")
    assert refused.code == 2 and "--budget takes bits per weight" in refused.err
