"""The bundled models and the recipe that made them.

The golden tokens change with the weights and the default recipe: print them anew with
`skipstone generate pebble -p "for key, value in " -n 20 --cache fp32 --json`. Of this prompt every choice is clear: no
other token comes within a quarter of a nat, so rounding does not change it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

import skipstone
from skipstone.bundled import BUNDLED
from skipstone.runtime.engine import Draft, Model

EXAMPLE = Path(__file__).parents[2] / "examples" / "pebble"
GOLDEN = [1781, 8, 264, 14, 1111, 63, 1111, 63, 1111, 63, 1111, 289, 262, 275, 14, 1111, 63, 1111, 63, 1111]


@pytest.fixture
def recipe_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


@pytest.mark.parametrize(("name", "limit"), [("pebble", 20e6), ("pebble-mini", 3e6)])
def test_the_bundled_checkpoints_stay_small(name: str, limit: float) -> None:
    with safe_open(BUNDLED[name] / "model.safetensors", "numpy") as file:
        assert sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys()) <= limit  # noqa: SIM118


def test_both_models_together_take_less_than_fifty_megabytes() -> None:
    assert sum(file.stat().st_size for folder in BUNDLED.values() for file in folder.iterdir()) < 50e6


@pytest.mark.parametrize("name", list(BUNDLED))
def test_transformers_reads_the_checkpoint_and_agrees_with_its_bundle(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    skipstone.export(name, tmp_path / "bundle", precision="fp32")
    sequence = Model.open(tmp_path / "bundle").new_sequence()
    sequence.append(list(range(100, 140)))
    ours = sequence.extend(Draft.empty())[0]
    theirs = AutoModelForCausalLM.from_pretrained(BUNDLED[name], dtype=torch.float32)
    with torch.no_grad():
        wanted = theirs(torch.arange(100, 140)[None]).logits[0, -1].numpy()
    assert np.abs(ours - wanted).max() < 1e-4


def test_pebble_writes_the_golden_tokens() -> None:
    model = skipstone.load("pebble", cache="fp32")
    result = model.generate("for key, value in ", max_new_tokens=20, decode="plain")
    assert list(result.token_ids) == GOLDEN


def test_the_held_out_modules_are_the_same_for_ever(recipe_modules: None) -> None:
    import corpus  # type: ignore[import-not-found]

    names = ["abc.py", "argparse.py", "asyncio/base_events.py", "json/decoder.py", "test/test_json/test_dump.py"]
    assert [corpus.is_held_out(name) for name in names] == [False] * len(names)
    assert 0.01 < np.mean([corpus.is_held_out(f"module_{index}.py") for index in range(4000)]) < 0.05


def test_training_that_was_interrupted_ends_with_the_same_weights(recipe_modules: None) -> None:
    import model  # type: ignore[import-not-found]
    import train  # type: ignore[import-not-found]

    shape = model.Shape(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1
    )
    recipe = train.Recipe(tokens=6 * 64, step_tokens=64, window=16, long_window=32, long_from=0.5, warmup_steps=2)
    stream = np.random.default_rng(0).integers(0, 4096, 500).astype(np.uint16)

    def trainer() -> train.Trainer:
        torch.manual_seed(0)
        return train.Trainer(model.Pebble(shape), recipe, stream, None, compiled=False)

    whole, first, second = trainer(), trainer(), trainer()
    losses = [whole.step() for _ in range(6)]
    for _ in range(3):
        first.step()
    second.restore(first.state())
    assert [second.step() for _ in range(3)] == losses[3:]
    assert len(set(losses)) == 6


def test_the_loss_of_the_head_is_cross_entropy_and_so_is_its_gradient(recipe_modules: None) -> None:
    import loss  # type: ignore[import-not-found]

    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2100, 8, generator=generator, requires_grad=True)
    weight = torch.randn(50, 8, generator=generator, requires_grad=True)
    targets = torch.randint(0, 50, (2100,), generator=generator)
    soft = torch.softmax(torch.randn(2100, 50, generator=generator), dim=-1)
    for teacher, mix in ((None, 0.0), (soft, 0.8)):
        ours = loss.head_loss(hidden, weight, targets, teacher, mix)
        log_probs = torch.log_softmax(hidden @ weight.T, dim=-1)
        wanted = -(1 - mix) * log_probs[torch.arange(2100), targets].mean()
        if teacher is not None:
            wanted = wanted - mix * (teacher * log_probs).sum(dim=-1).mean()
        assert torch.allclose(ours, wanted, atol=1e-5)
        for got, true in zip(
            torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(wanted, (hidden, weight)), strict=True
        ):
            assert torch.allclose(got, true, atol=1e-6)


def test_the_recipe_weights_deeper_exits_more(recipe_modules: None) -> None:
    import train

    shares = [train.exit_weights(layer, 8, 0.5) for layer in (2, 4, 6)]
    assert all(early + full == pytest.approx(1) for early, full in shares)
    assert [early for early, _ in shares] == sorted(early for early, _ in shares)
    assert shares[1][0] == pytest.approx(3 / 20.5)
