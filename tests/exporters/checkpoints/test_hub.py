"""Checkpoints from the hub, without a network: what is asked for, and one sentence for each way to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import filter_repo_objects
from safetensors.numpy import save_file

from skipstone.errors import CheckpointError
from skipstone.exporters.checkpoints import fetch, is_hub_id, open_checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SETTINGS = {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}


class FakeHub:
    """Stands for snapshot_download: keeps the library's own filter and counts what is fetched."""

    def __init__(self, folder: Path, files: set[str]) -> None:
        self.folder, self.files = folder, files
        self.fetched: set[str] = set()
        self.revisions: list[str | None] = []

    def __call__(self, repo_id: str, *, revision: str | None, **patterns: Any) -> str:
        assert repo_id == "owner/name"
        self.revisions.append(revision)
        wanted = set(filter_repo_objects(self.files, **patterns))
        self.fetched |= wanted
        for name in wanted:
            (self.folder / name).touch()
        return str(self.folder)


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., str]], None]:
    """Let a function answer in place of the hub."""
    return lambda download: monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


@pytest.fixture
def hub_with(tmp_path: Path, answer: Callable[[Callable[..., str]], None]) -> Callable[[set[str]], FakeHub]:
    def make(files: set[str]) -> FakeHub:
        fake = FakeHub(tmp_path, files)
        answer(fake)
        return fake

    return make


@pytest.fixture
def hub_failing(answer: Callable[[Callable[..., str]], None]) -> Callable[[Exception], None]:
    def make(error: Exception) -> None:
        def fail(*args: object, **options: object) -> str:
            raise error

        answer(fail)

    return make


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the real library, which must not use the network."""
    for name, value in {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": True}.items():
        monkeypatch.setattr(constants, name, value)
    return tmp_path


def put_into(cache: Path) -> Path:
    snapshot = cache / "models--owner--name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    refs = cache / "models--owner--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text('{"model_type": "llama"}')
    (snapshot / "tokenizer.json").write_text("{}")
    return snapshot


@pytest.mark.parametrize("text", ["owner/name", "Qwen/Qwen3-0.6B", "a/b_c.d-e", "0x1/7b"])
def test_owner_and_name_are_a_hub_id(text: str) -> None:
    assert is_hub_id(text)


@pytest.mark.parametrize("text", ["name", "a/b/c", "/a/b", "./a", "../a", "a/", "~/a", "a/b c", "a\\b", "", "a/b\n"])
def test_paths_and_single_names_are_not_a_hub_id(text: str) -> None:
    assert not is_hub_id(text)


def test_a_folder_that_looks_like_a_hub_id_is_opened_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub_failing: Callable[[Exception], None]
) -> None:
    hub_failing(AssertionError("the hub was asked"))
    folder = tmp_path / "owner" / "name"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones(1, np.float32)}, folder / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("owner/name").tensors.names() == {"w"}


def test_safetensors_are_fetched_and_every_other_format_is_left(hub_with: Callable[[set[str]], FakeHub]) -> None:
    weights = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}
    others = {"pytorch_model.bin", "consolidated.safetensors", "README.md", "training_args.bin", "tf_model.h5"}
    nested = {
        "original/model.safetensors",
        "onnx/config.json",
        "onnx/model.onnx",
        "model_fp16/a.safetensors",
        "tokenizer/a.json",
    }
    fake = hub_with(SETTINGS | weights | others | nested)
    fetch("owner/name", None)
    assert fake.fetched == SETTINGS | weights


def test_torch_files_are_fetched_when_there_are_no_safetensors(hub_with: Callable[[set[str]], FakeHub]) -> None:
    weights = {"pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"}
    fake = hub_with(SETTINGS | weights | {"training_args.bin", "optimizer.bin"})
    fetch("owner/name", None)
    assert fake.fetched == SETTINGS | weights


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_the_revision_is_passed_on_every_time(hub_with: Callable[[set[str]], FakeHub], revision: str | None) -> None:
    fake = hub_with({"config.json", "pytorch_model.bin"})
    fetch("owner/name", revision)
    assert set(fake.revisions) == {revision}


def test_a_fetched_checkpoint_keeps_the_id_as_its_source(
    tmp_path: Path, hub_with: Callable[[set[str]], FakeHub]
) -> None:
    hub_with({"model.safetensors"})
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    save_file({"w": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint("owner/name")
    assert (checkpoint.source, checkpoint.path) == ("owner/name", tmp_path)


def test_a_repository_without_settings_may_hold_gguf_files(hub_with: Callable[[set[str]], FakeHub]) -> None:
    hub_with({"model.safetensors"})
    with pytest.raises(CheckpointError, match="where owner/name holds GGUF files, download one and pass it"):
        open_checkpoint("owner/name")


class FakeResponse:
    """As much of an HTTP response as the library's errors look at."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.headers: dict[str, str] = {}
        self.request = None


def http_error(kind: type[errors.HfHubHTTPError], status_code: int) -> errors.HfHubHTTPError:
    response: Any = FakeResponse(status_code)
    return kind("Client Error.\n\nA long page of text.", response=response)


FAILURES: dict[str, tuple[Exception, str]] = {
    "gated": (http_error(errors.GatedRepoError, 403), r"it is gated: ask for access at https://\S+/owner/name"),
    "not found": (http_error(errors.RepositoryNotFoundError, 404), "no such model there, and no such folder here"),
    "no revision": (http_error(errors.RevisionNotFoundError, 404), "it has no revision 'v9': give a branch"),
    "not in the cache": (errors.LocalEntryNotFoundError("Got: ConnectError\nmore"), "the hub cannot be reached"),
    "part of it": (errors.IncompleteSnapshotError("is incomplete", "/a"), "the hub cannot be reached"),
    "hub down": (http_error(errors.HfHubHTTPError, 503), "the hub answered with status 503: try again later"),
    "disabled": (http_error(errors.DisabledRepoError, 403), "the hub answered with status 403"),
    "disk full": (OSError(28, "No space left on device"), "No space left on device: check the network and the disk"),
    "bad id": (errors.HFValidationError("Cannot have -- or .."), "HFValidationError: Cannot have -- or .."),
    "anything else": (RuntimeError("first line\nsecond line"), "RuntimeError: first line: check the network"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_is_one_line_with_the_id_and_what_to_do(
    hub_failing: Callable[[Exception], None], failure: str
) -> None:
    error, sentence = FAILURES[failure]
    hub_failing(error)
    with pytest.raises(CheckpointError, match=f"^cannot fetch owner/name from the hub: .*{sentence}") as caught:
        open_checkpoint("owner/name", revision="v9")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_offline_an_unknown_model_says_that_offline_is_set(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set and the cache lacks some of it: unset it"):
        open_checkpoint("owner/name")


def test_offline_a_cached_model_opens(cache: Path) -> None:
    snapshot = put_into(cache)
    save_file({"w": np.ones(1, np.float32)}, snapshot / "model.safetensors")
    checkpoint = open_checkpoint("owner/name")
    assert checkpoint.config == {"model_type": "llama"}
    assert checkpoint.tensors.read("w", (1,)) == [1]


@pytest.mark.parametrize("revision", [COMMIT, "main"])
def test_offline_a_cached_revision_opens(cache: Path, revision: str) -> None:
    save_file({"w": np.ones(1, np.float32)}, put_into(cache) / "model.safetensors")
    assert open_checkpoint("owner/name", revision=revision).path.name == COMMIT


def test_offline_a_cached_model_without_weights_says_so(cache: Path) -> None:
    put_into(cache)
    with pytest.raises(CheckpointError, match="has no weights"):
        open_checkpoint("owner/name")
