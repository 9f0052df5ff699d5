"""The loop that docs/mobile.md gives to apps makes the tokens of skipstone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import raw_loop
from conftest import MakeBundle, MakeCheckpoint
from raw_loop import Graphs, greedy, ngram

from skipstone.runtime.engine import Draft, Model

PROMPT = list(range(3, 24))


def tokens_of(bundle: Path, prompt: list[int], count: int) -> list[int]:
    """Return what skipstone makes, plainly and greedily, a token a step."""
    model = Model.open(bundle)
    sequence, made = model.new_sequence(), list[int]()
    sequence.append(prompt)
    while len(made) < count and not (made and made[-1] in model.manifest.stop_ids):
        token_id = int(sequence.extend(Draft.empty())[0].argmax())
        sequence.commit([token_id])
        made.append(token_id)
    return made


CASES = {
    "whole": ("llama", {}, {}),
    "stages": ("llama", {}, {"exits": "auto"}),
    "int4": ("llama", {}, {"precision": "int4"}),
    "int8 cache": ("llama", {}, {"cache": "int8"}),
    "windows": ("mistral", {"sliding_window": 5}, {}),
    "two kinds of turns": ("gemma3_text", {}, {}),
    "learned positions": ("gpt2", {}, {}),
    "plain operators": ("llama", {}, {"target": "plain"}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("drafts", [False, True])
def test_the_loop_makes_the_tokens_of_skipstone(
    case: str, drafts: bool, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    family, config, options = CASES[case]
    bundle = make_bundle(make_checkpoint(family, **config), **options)
    graphs = Graphs(bundle, capacity=100)
    made = list(greedy(graphs, PROMPT, 40, ngram if drafts else lambda tokens: []))
    assert made == tokens_of(bundle, PROMPT, 40)


def test_a_long_prompt_is_read_in_pieces(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(make_checkpoint())
    prompt = [3 + place % 200 for place in range(200)]
    made = list(greedy(Graphs(bundle, capacity=240), prompt, 20, ngram))
    assert made == tokens_of(bundle, prompt, 20)


def test_the_loop_imports_nothing_of_skipstone() -> None:
    tree = ast.parse(Path(raw_loop.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not any(module and module.startswith("skipstone") for module in modules)
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert names == {"json", "numpy", "onnxruntime"}
