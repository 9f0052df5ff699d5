"""What people have, and how they bring it: each way into a bundle from the command line, and on to a text."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import CommandLine
from conftest import MakeBundle, MakeCheckpoint
from gguf_files import WHOLE_BLOCKS, WriteGguf
from lora_adapters import saved, trained
from packed_checkpoints import TARGETS, write_gptq

import skipstone
from skipstone.runtime.bundle import Bundle
from tests.exporters.optimum.test_via_optimum import FAKE, FAMILIES, trace

PROMPT = "def add(first"


@pytest.fixture(scope="session")
def base(make_checkpoint: MakeCheckpoint) -> Path:
    """A Llama of two layers, whose matrices are whole blocks."""
    return make_checkpoint(**WHOLE_BLOCKS)


@pytest.fixture(scope="session")
def gptq_folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gptq(tmp_path_factory.mktemp("packed") / "gptq", base)


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(trained(base, target_modules=TARGETS), tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def place(base: Path, gptq_folder: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a checkpoint, one of integers, an adapter."""
    for name, folder in {"base": base, "gptq": gptq_folder, "adapter": adapter}.items():
        (tmp_path / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(cli: CommandLine, place: Path, command: str) -> str:
    """Export into `out`, make a text with the bundle, and return what was said on the way."""
    outcome = cli("export", *command.split(), "-o", "out")
    assert (outcome.code, outcome.out) == (0, ""), outcome
    bundle = Bundle.open(place / "out")
    bundle.verify()
    assert bundle.manifest.provenance.command == f"skipstone export {command} -o out"
    text = cli("generate", "out", "-p", PROMPT, "-n", 12)
    assert text.code == 0, text
    assert text.out == skipstone.load(place / "out").generate(PROMPT, max_new_tokens=12).text + "\n"
    return outcome.err


def refused(cli: CommandLine, place: Path, command: str) -> str:
    """Return the one line that an export ends with."""
    outcome = cli("export", *command.split(), "-o", "out")
    assert (outcome.code, outcome.out) == (2, ""), outcome
    assert outcome.err.startswith("skipstone: ") and outcome.err.count("\n") == 1
    assert not [path for path in place.iterdir() if "out" in path.name]
    return outcome.err


def text_of(bundle: Path) -> str:
    return skipstone.load(bundle).generate(PROMPT, max_new_tokens=12, decode="plain").text


# GGUF


def test_a_gguf_file_gives_the_text_of_its_checkpoint(
    cli: CommandLine, place: Path, write_gguf: WriteGguf, base: Path, make_bundle: MakeBundle
) -> None:
    write_gguf("llama, whole blocks").rename(place / "model.gguf")
    made(cli, place, "model.gguf --precision fp32")
    assert text_of(place / "out") == text_of(make_bundle(base))
    facts = cli("inspect", "out").out
    assert "model.gguf" in facts and "llama" in facts


def test_a_gguf_file_of_integers_keeps_them(cli: CommandLine, place: Path, write_gguf: WriteGguf) -> None:
    write_gguf("llama, whole blocks", kind="Q8_0").rename(place / "model.gguf")
    assert "16 matrices keep their integers; int4 is for the others\n" in made(cli, place, "model.gguf")
    assert "int4, 16 matrices as in the checkpoint" in cli("inspect", "out").out


def test_a_gguf_file_may_have_exits_and_a_drafter(
    cli: CommandLine, place: Path, write_gguf: WriteGguf, make_checkpoint: MakeCheckpoint
) -> None:
    write_gguf("llama, whole blocks").rename(place / "model.gguf")
    (place / "small").symlink_to(make_checkpoint(num_hidden_layers=1, hidden_size=32))
    made(cli, place, "model.gguf --precision int8 --exits 1 --drafter small")
    manifest = Bundle.open(place / "out").manifest
    assert (manifest.exits, manifest.draft_model) == ((1,), "drafter")


def test_the_program_exports_a_gguf_file(place: Path, write_gguf: WriteGguf) -> None:
    write_gguf("llama, whole blocks", kind="Q4_0").rename(place / "model.gguf")
    program = Path(sys.executable).with_name("skipstone")
    done = subprocess.run([program, "export", "model.gguf", "-o", "out"], capture_output=True, text=True, check=True)
    assert done.stdout == "" and "16 matrices keep their integers" in done.stderr
    Bundle.open(place / "out").verify()


# GPTQ


def test_a_gptq_folder_keeps_its_integers(cli: CommandLine, place: Path) -> None:
    said = made(cli, place, "gptq --precision fp32")
    assert "14 matrices keep their integers; fp32 is for the others\n" in said
    assert "fp32, 14 matrices as in the checkpoint" in cli("inspect", "out").out


# LoRA


def test_an_adapter_gives_the_text_of_the_merged_model(cli: CommandLine, place: Path, base: Path) -> None:
    import torch

    made(cli, place, "base --lora adapter --precision fp32")
    bundle = skipstone.load(place / "out")
    result = bundle.generate(PROMPT, max_new_tokens=12, decode="plain")
    merged = trained(base, target_modules=TARGETS)
    prompt = bundle.encode(PROMPT)
    with torch.no_grad():
        logits = merged(torch.tensor([[*prompt, *result.token_ids]])).logits[0]
    assert result.token_ids == tuple(logits[len(prompt) - 1 : -1].argmax(dim=1).tolist())


def test_an_adapter_goes_with_narrow_ffns_and_a_drafter_of_its_own(
    cli: CommandLine, place: Path, make_checkpoint: MakeCheckpoint
) -> None:
    (place / "small").symlink_to(make_checkpoint(num_hidden_layers=1, hidden_size=32))
    made(cli, place, "base --lora adapter --ffn-width 40,64 --drafter small --drafter-precision fp32")
    manifest = Bundle.open(place / "out").manifest
    assert (manifest.dimensions.intermediate_size, manifest.draft_model) == (64, "drafter")


# Optimum


@pytest.fixture
def opt(make_checkpoint: MakeCheckpoint) -> Path:
    return make_checkpoint("opt", **FAMILIES["opt"])


@pytest.fixture
def optimum(opt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package `optimum` that gives the graph of OPT, which torch traces here, whatever it is asked for."""
    trace(opt, tmp_path / "traced")
    package = tmp_path / "packages" / "optimum" / "exporters" / "onnx"
    package.mkdir(parents=True)
    body = f"shutil.copytree({str(tmp_path / 'traced')!r}, output)"
    (package / "__init__.py").write_text(FAKE.format(body=body))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "optimum"]:
        del sys.modules[name]


@pytest.mark.usefixtures("optimum")
def test_a_family_without_a_table_is_exported_by_optimum_and_checked(cli: CommandLine, place: Path, opt: Path) -> None:
    (place / "opt").symlink_to(opt)
    assert "or let optimum export it: --via optimum" in refused(cli, place, "opt")
    assert "logits within" in made(cli, place, "opt --via optimum --precision fp32 --check")
    facts = cli("inspect", "out").out
    assert "opt" in facts and "of transformers" in facts


@pytest.mark.skipif(find_spec("optimum") is not None, reason="optimum is installed")
def test_without_optimum_the_package_to_install_is_named(cli: CommandLine, place: Path) -> None:
    for source in ("base", "no-such-folder", "owner/name"):
        assert "pip install 'skipstone[optimum]'" in refused(cli, place, f"{source} --via optimum")


# Refusals

COMBINATIONS = {
    "base --via optimum --exits auto": "exits auto does not go with optimum, whose graph stays as it is: leave it out",
    "base --via optimum --exits 1": "exits 1 does not go with optimum",
    "base --via optimum --drafter gptq": "draft-model gptq does not go with optimum",
    "base --via optimum --drafter-precision int8": "draft-model int8 does not go with optimum",
    "base --via optimum --lora adapter": "lora adapter does not go with optimum",
    "base --via optimum --ffn-width 8": "ffn-width 8 does not go with optimum",
    "base --via onnx": "'--via': 'onnx' is not one of 'optimum'",
    "base --drafter-precision int8": "the draft model's precision is int8, but there is no draft model",
    "gptq --lora adapter": "an adapter cannot be added to 'model.layers.0.mlp.down_proj.weight', which is stored as",
    "gptq --ffn-width 40": "down_proj.weight is stored as integers, whose blocks cannot be cut",
    "base --lora nowhere": "nowhere has no adapter_config.json: pass the folder of a PEFT adapter",
    "base --lora base": "base has no adapter_config.json",
    "adapter": "adapter has no config.json: pass the folder of a Hugging Face checkpoint",
    "missing.gguf": "missing.gguf: cannot be read: No such file or directory",
    "garbage.gguf": "garbage.gguf: not a GGUF file: pass one, or the folder of a checkpoint",
    "garbage.gguf --revision main": "revision 'main' does not apply to the local file garbage.gguf: leave it out",
    "garbage.bin": "garbage.bin is a file: pass the folder that holds config.json and the weights",
    "base --lora garbage.bin": "garbage.bin has no adapter_config.json",
}


@pytest.mark.parametrize("command", COMBINATIONS)
def test_what_does_not_go_together_is_refused_by_name(cli: CommandLine, place: Path, command: str) -> None:
    for name in ("garbage.gguf", "garbage.bin"):
        (place / name).write_bytes(b"nothing that we know")
    assert COMBINATIONS[command] in refused(cli, place, command)


def test_via_optimum_takes_no_gguf_file(cli: CommandLine, place: Path, write_gguf: WriteGguf, optimum: None) -> None:
    write_gguf("llama, whole blocks").rename(place / "model.gguf")
    message = "optimum reads folders in the format of Hugging Face, and model.gguf is a file"
    assert message in refused(cli, place, "model.gguf --via optimum")
