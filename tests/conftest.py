"""What several test files share: tiny checkpoints as transformers writes them, and the bundles made of them."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import tokenizers
from carved_bundles import carved_by_hand
from command_line import CommandLine
from model_calls import watching
from processes import SharedFolders, shared_folders, use_one_core
from tokenizers import decoders, models, pre_tokenizers, trainers

from skipstone.api import export
from skipstone.exporters.checkpoints import StoredTensors
from skipstone.runtime.bundle import ExpertLevel
from skipstone.runtime.engine import Model

if TYPE_CHECKING:
    from gguf_files import WriteGguf

CORPUS = [
    "def add(first, second):\n    return first + second\n",
    "class Sequence:\n    def __init__(self, tokens):\n        self.tokens = list(tokens)\n",
    "The quick brown fox jumps over the lazy dog. Über naïve €, 猫が好き 🦊.\n",
]
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
# No size divides another, or a block, without a rest; weights are large, so that a mistake shows in the logits.
TINY = {
    "vocab_size": 307,
    "hidden_size": 52,
    "intermediate_size": 76,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
    "tie_word_embeddings": False,
}
# Settings of TINY that no checkpoint of these families has: transformers would refuse them, or half believe them.
NOT_IN_FAMILY = {
    "falcon": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "gpt2": ("head_dim", "num_key_value_heads", "intermediate_size"),
    "gpt_neox": ("head_dim", "num_key_value_heads"),
    "olmoe": ("head_dim",),
    "phi3": ("head_dim",),
    "stablelm": ("head_dim",),
}


class MakeCheckpoint(Protocol):
    def __call__(
        self, model_type: str = ..., *, dtype: str = ..., max_shard_size: str = ..., **config: object
    ) -> Path: ...


class MakeBundle(Protocol):
    def __call__(
        self, checkpoint: Path | str, *, precision: str = ..., exits: str = ..., **options: object
    ) -> Path: ...


def pytest_configure(config: pytest.Config) -> None:
    use_one_core(config)


@pytest.fixture(scope="session", autouse=True)
def quick_disk() -> Iterator[None]:
    """Do not wait for the disk, which takes a second for each bundle when it is busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> SharedFolders:
    """Give folders that all processes of the run share."""
    return shared_folders(tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is cached on disk away from the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPSTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    """Byte-level BPE, 300 tokens: every text round-trips, and most tokens are a single byte."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    text: str = backend.to_str()
    return text


@pytest.fixture(scope="session")
def make_checkpoint(shared_folder: SharedFolders, tokenizer_json: str) -> MakeCheckpoint:
    """Save a random model of one family, its config `TINY` with changes; the same wish gives the same folder."""

    def make(
        model_type: str = "llama", *, dtype: str = "float32", max_shard_size: str = "50GB", **config: object
    ) -> Path:
        def save(folder: Path) -> None:
            model = random_model(model_type, dtype, TINY | config)
            model.save_pretrained(folder, max_shard_size=max_shard_size)
            (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")

        return shared_folder(save, model_type, dtype, max_shard_size, json.dumps(config, sort_keys=True))

    return make


def random_model(model_type: str, dtype: str, config: dict[str, Any]) -> Any:
    """Return a transformers model whose every weight is random, those that start as ones and zeros with the rest."""
    import torch
    import transformers

    torch.manual_seed(0)
    known = {key: value for key, value in config.items() if key not in NOT_IN_FAMILY.get(model_type, ())}
    settings = transformers.AutoConfig.for_model(model_type, **copy.deepcopy(known))  # it may change what it is given
    model = transformers.AutoModelForCausalLM.from_config(settings)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
        elif parameter.dim() == 1:  # gains of norms: some start as ones, some as zeros and are added to one
            parameter.data += torch.empty_like(parameter).uniform_(-0.5, 0.5)
    return model.to(getattr(torch, dtype)).eval()


@pytest.fixture(scope="session")
def make_bundle(shared_folder: SharedFolders) -> MakeBundle:
    """Export a checkpoint, or a bundled model by its name; the same wish gives the same folder."""

    @functools.cache
    def make(checkpoint: Path | str, *, precision: Any = "fp32", exits: str = "none", **options: Any) -> Path:
        def write(folder: Path) -> None:
            export(checkpoint, folder / "out", precision=precision, exits=exits, **options)

        return shared_folder(write, checkpoint, precision, exits, sorted(options.items())) / "out"

    return make


@pytest.fixture(scope="session")
def real_file() -> Path:
    """The file of the real chat model in docs/first-model.md; without it the test is skipped."""
    file = os.environ.get("SKIPSTONE_REAL_MODEL")
    if file is None:
        pytest.skip(
            "SKIPSTONE_REAL_MODEL names no file of SmolLM2-135M-Instruct; docs/first-model.md says how to get it"
        )
    return Path(file)


@pytest.fixture(scope="session")
def write_gguf(tmp_path_factory: pytest.TempPathFactory, make_checkpoint: MakeCheckpoint) -> WriteGguf:
    """Write a GGUF file of one of the models in gguf_files.py, with other settings where wished."""
    from gguf_files import converter

    return converter(make_checkpoint, lambda: tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="session")
def tiny_checkpoint(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Model:
    """A whole model in fp32: Llama, four layers, 256 tokens of context."""
    return Model.open(make_bundle(tiny_checkpoint))


@pytest.fixture(scope="session")
def tiny_stages(tiny_checkpoint: Path, make_bundle: MakeBundle) -> Model:
    """The same model as `tiny`, cut after each layer."""
    return Model.open(make_bundle(tiny_checkpoint, exits="auto"))


@pytest.fixture(scope="session", params=["one stage", "four stages", "windows of 5", "int8 cache"])
def model(
    request: pytest.FixtureRequest,
    tiny: Model,
    tiny_stages: Model,
    make_checkpoint: MakeCheckpoint,
    make_bundle: MakeBundle,
) -> Model:
    """A tiny model: whole, in stages, with layers that see five tokens, or over integers; a file may have another."""
    if request.param == "windows of 5":
        return Model.open(make_bundle(make_checkpoint("mistral", sliding_window=5), exits="2"))
    if request.param == "int8 cache":
        return Model.open(make_bundle(make_checkpoint(), exits="auto", cache="int8"))
    return tiny if request.param == "one stage" else tiny_stages


@pytest.fixture(scope="session", params=["one stage", "four stages"])
def carved(
    request: pytest.FixtureRequest,
    tiny: Model,
    tiny_stages: Model,
    tmp_path_factory: pytest.TempPathFactory,
) -> Model:
    """The same model with four experts in each layer, carved by hand, and levels at half and three quarters of them."""
    bundle = tiny if request.param == "one stage" else tiny_stages
    levels = {"0.5": ExpertLevel(active=(2,) * 4), "0.75": ExpertLevel(active=(3,) * 4, kl=0.1)}
    return Model.open(carved_by_hand(bundle.bundle.path, tmp_path_factory.mktemp("carved") / "bundle", levels=levels))


@pytest.fixture(scope="session")
def with_stop_ids() -> Callable[[Model, Collection[int]], Model]:
    """Return the same model, of which other tokens end a text."""

    def change(model: Model, stop_ids: Collection[int]) -> Model:
        changed = copy.copy(model)
        changed.manifest = replace(model.manifest, stop_ids=tuple(stop_ids))
        return changed

    return change


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> CommandLine:
    """Runs commands of the program in this process."""
    return CommandLine(monkeypatch, capfd)


@pytest.fixture
def read_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[StoredTensors, str, tuple[int, ...]], Any]], None]:
    """Let a function read the weights of checkpoints."""
    return lambda read: monkeypatch.setattr(StoredTensors, "read", read)


@pytest.fixture
def unreadable(read_by: Callable[..., None]) -> None:
    """Fail when a weight is read."""

    def read(self: StoredTensors, name: str, shape: tuple[int, ...]) -> None:
        raise AssertionError(f"{name} was read")

    read_by(read)


@pytest.fixture
def fed() -> Iterator[list[tuple[int, ...]]]:
    """The shapes [B, T] of the tokens of every model call from here on."""
    shapes: list[tuple[int, ...]] = []
    with watching(lambda call, token_ids, lengths, logits: shapes.append(token_ids.shape)):
        yield shapes


@pytest.fixture(scope="session")
def reference_logits() -> Callable[[Path, tuple[int, ...]], Any]:
    """Return what transformers computes from a checkpoint in fp32: logits [T, V] of a prompt of T tokens."""
    import torch
    import transformers

    @functools.cache
    def model(folder: Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @functools.cache
    def logits(folder: Path, token_ids: tuple[int, ...]) -> Any:
        with torch.no_grad():
            return model(folder)(torch.tensor([token_ids])).logits[0].numpy()

    return logits
