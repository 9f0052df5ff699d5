"""Fetching a checkpoint from the Hugging Face hub into the library's own cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from skipstone.errors import CheckpointError

__all__ = ["fetch", "is_hub_id"]

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SETTINGS: Final = (
    "config.json",
    "generation_config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
_SAFETENSORS: Final = ("model*.safetensors", "model.safetensors.index.json")
_TORCH: Final = ("pytorch_model*.bin", "pytorch_model.bin.index.json")


def is_hub_id(source: str) -> bool:
    """Whether the text has the form owner/name."""
    return _HUB_ID.fullmatch(source) is not None


def fetch(hub_id: str, revision: str | None) -> Path:
    """The folder of the cache that holds the checkpoint; downloads what is missing.

    Takes the settings, the tokenizer and the safetensors; .bin files only when there are no safetensors.
    Raises: CheckpointError when the hub cannot be reached or refuses.
    """
    folder = _download(hub_id, revision, (*_SETTINGS, *_SAFETENSORS))
    if any((folder / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
        return folder
    return _download(hub_id, revision, (*_SETTINGS, *_TORCH))


def _download(hub_id: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # A star crosses folders, and folders hold other formats of the same weights.
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns), ignore_patterns=["*/*"])
        )
    except Exception as error:  # the library passes on the errors of its HTTP client, which changes between versions
        raise CheckpointError(f"cannot fetch {hub_id} from the hub: {_reason(error, hub_id, revision)}") from error


def _reason(error: Exception, hub_id: str, revision: str | None) -> str:
    """What happened and what to do, in one line. The order matters: the library's errors inherit from each other."""
    from huggingface_hub import constants, errors

    match error:
        case errors.GatedRepoError():
            return f"it is gated: ask for access at {constants.ENDPOINT}/{hub_id}, then run hf auth login"
        case errors.RepositoryNotFoundError():
            return "no such model there, and no such folder here: check the name; if it is private, run hf auth login"
        case errors.RevisionNotFoundError():
            return f"it has no revision {revision!r}: give a branch, a tag or a commit that exists"
        case errors.LocalEntryNotFoundError() if constants.HF_HUB_OFFLINE:
            return "HF_HUB_OFFLINE is set and the cache lacks some of it: unset it, or pass a local folder"
        case errors.LocalEntryNotFoundError():
            return "the hub cannot be reached and the cache lacks some of it: check the network, or pass a local folder"
        case errors.HfHubHTTPError():
            return f"the hub answered with status {error.response.status_code}: try again later, or pass a local folder"
        case _:
            first_line = str(error).partition("\n")[0]
            return f"{type(error).__name__}: {first_line}: check the network and the disk, or pass a local folder"
