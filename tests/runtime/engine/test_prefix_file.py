"""A prompt's rows in a file: the same text as without, bit by bit; only whole files of these weights are taken."""

from __future__ import annotations

import os
import random
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MakeBundle, MakeCheckpoint

from skipstone.devices import open_device
from skipstone.errors import BundleError, ConfigError, OutputError
from skipstone.prompt_cache import PromptCache
from skipstone.runtime.bundle import Bundle
from skipstone.runtime.engine import Draft, Model, Prefix, Sequence, save_prefix
from skipstone.runtime.generation import Generation, GenerationOptions, stream
from tests.runtime.engine.test_long_rope import PHI

CHUNK = 8
TEXT: list[int] = np.random.default_rng(1).integers(3, 290, size=60).tolist()
OTHER: list[int] = np.random.default_rng(2).integers(3, 290, size=60).tolist()
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "fp32": ("llama", "fp32", {}),
    "int4": ("llama", "int4", {}),
    "int8": ("llama", "int8", {}),
    "windows of 5": ("mistral", "fp32", {"sliding_window": 5}),
    "int4, windows of 5": ("mistral", "int4", {"sliding_window": 5}),
}


def opened(bundle: Path) -> Model:
    """Open a bundle whose prompts are fed in short pieces."""
    return Model(Bundle.open(bundle), open_device("cpu", threads=1), prefill_chunk=CHUNK)


@pytest.fixture(scope="module", params=FAMILIES)
def tiny_model(request: pytest.FixtureRequest, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    family, precision, config = FAMILIES[request.param]
    return opened(make_bundle(make_checkpoint(family, **config), precision=precision))


@pytest.fixture(scope="module")
def int4(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    return opened(make_bundle(make_checkpoint(), precision="int4"))


def fed(model: Model, token_ids: list[int], *, exact: bool | None = None) -> Sequence:
    """Return a sequence that has seen these tokens."""
    sequence = model.new_sequence(exact=exact)
    sequence.append(token_ids)
    sequence.extend(Draft.empty())
    return sequence


def kept(model: Model, token_ids: list[int], path: Path, *, exact: bool | None = None) -> Path:
    save_prefix(path, fed(model, token_ids, exact=exact), len(token_ids) - 1)
    return path


def filled(model: Model, path: Path, token_ids: list[int], *, exact: bool | None = None) -> tuple[Sequence, int]:
    """Return a sequence with the rows of a file, and how many there were."""
    sequence = model.new_sequence(exact=exact)
    sequence.append(token_ids)
    num_rows = Prefix.open(path, model).fill(sequence)
    sequence.check()
    return sequence, num_rows


@pytest.mark.parametrize("exact", [None, False, True])
@pytest.mark.parametrize("num_tokens", [17, 23, 24, 25, 26, 33, 41, 60])
def test_logits_and_rows_are_those_without_the_file(
    tiny_model: Model, tmp_path: Path, exact: bool | None, num_tokens: int
) -> None:
    path, prompt = kept(tiny_model, TEXT[:25], tmp_path / "file", exact=exact), TEXT[:num_tokens]
    plain, (sequence, num_rows) = fed(tiny_model, prompt, exact=exact), filled(tiny_model, path, prompt, exact=exact)
    assert num_rows >= min(24, num_tokens - 2) // CHUNK * CHUNK
    assert num_rows <= len(prompt) - 2, "a single token that waits would not be taken for a prompt"
    sequence.extend(Draft.empty())
    for buffer, other in zip(sequence.cache, plain.cache, strict=True):
        assert np.array_equal(buffer.read()[:, :, : len(prompt)], other.read()[:, :, : len(prompt)])
    logits = [text.commit([TEXT[0]]) and text.extend(Draft.empty()).copy() for text in (plain, sequence)]
    assert np.array_equal(*logits)


@pytest.mark.parametrize("decode", ["plain", "ngram", "suffix,recycle", "jacobi"])
@pytest.mark.parametrize("exact", [None, True])
def test_texts_are_those_without_the_file(tiny_model: Model, tmp_path: Path, decode: str, exact: bool | None) -> None:
    path = kept(tiny_model, TEXT[:30], tmp_path / "file", exact=exact)
    options = GenerationOptions(max_new_tokens=20, decode=decode, exact=exact, logprobs=2)
    prompt = TEXT[:28] + OTHER[:9]
    plain = tiny_model.new_sequence(exact=exact)
    plain.append(prompt)
    sequence, num_rows = filled(tiny_model, path, prompt, exact=exact)
    assert num_rows >= 24
    texts = [list(stream(tiny_model, text, options)) for text in (plain, sequence)]
    tokens, reread = (Generation.join(pieces) for pieces in texts)
    assert tokens.token_ids == reread.token_ids
    if decode != "suffix,recycle":  # they remember the first text, and guess better in the second
        assert tokens.logprobs == reread.logprobs


def test_only_the_shared_beginning_is_taken(int4: Model, tmp_path: Path) -> None:
    path = kept(int4, TEXT, tmp_path / "file", exact=True)
    for shared, taken in ((0, 0), (1, 1), (20, 20), (59, 59)):
        assert filled(int4, path, TEXT[:shared] + OTHER[:10], exact=True)[1] == taken
    assert filled(int4, path, TEXT[:20], exact=False)[1] == 16, "whole pieces, where rows depend on those beside them"
    assert filled(int4, path, TEXT[:1])[1] == 0


def test_a_cache_that_has_rows_is_left_alone(int4: Model, tmp_path: Path) -> None:
    path, sequence = kept(int4, TEXT, tmp_path / "file"), fed(int4, TEXT[:20])
    assert Prefix.open(path, int4).fill(sequence) == 0
    assert sequence.num_cached == 20


def test_a_file_holds_the_rows_that_are_used_and_no_more(int4: Model, tmp_path: Path) -> None:
    path = kept(int4, TEXT[:21], tmp_path / "file")
    used = 20 * (int4.manifest.cache_bytes_per_token + 4)
    assert used < path.stat().st_size < used + 4096


def test_a_text_without_cached_rows_keeps_nothing(int4: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="longer prompt"):
        save_prefix(tmp_path / "file", int4.new_sequence(), 5)
    assert list(tmp_path.iterdir()) == []


def test_files_of_other_weights_are_refused(
    int4: Model, tmp_path: Path, make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle
) -> None:
    path = kept(int4, TEXT, tmp_path / "file")
    for other in (make_bundle(make_checkpoint()), make_bundle(make_checkpoint("qwen3"), precision="int4")):
        with pytest.raises(BundleError, match=r"file was made for another bundle; remove it"):
            Prefix.open(path, opened(other))


def test_files_of_another_version_and_other_files_are_refused(int4: Model, tmp_path: Path) -> None:
    path = kept(int4, TEXT, tmp_path / "file")
    magic, line, *rest = path.read_bytes().split(b"\n")
    text = line.partition(b" ")[2].replace(b'"format_version": 2', b'"format_version": 1')
    path.write_bytes(b"\n".join((magic, b"%08x " % zlib.crc32(text) + text, *rest)))
    with pytest.raises(BundleError, match="of format 1, this version reads 2"):
        Prefix.open(path, int4)
    path.write_bytes(b"# A text\nof mine")
    with pytest.raises(BundleError, match="no prompt cache; name another file"):
        Prefix.open(path, int4)
    with pytest.raises(BundleError, match="cannot be read"):
        Prefix.open(tmp_path / "missing", int4)


def test_any_damaged_byte_and_any_cut_is_noticed(int4: Model, tmp_path: Path) -> None:
    whole = kept(int4, TEXT[:12], tmp_path / "file").read_bytes()
    chance, path = random.Random(0), tmp_path / "damaged"
    first_block = len(whole) - 11 * (int4.manifest.cache_bytes_per_token + 4) // 64 * 64
    for number in range(60):
        place = chance.randrange(first_block if number % 2 else len(whole))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        assert is_refused(path, int4) or is_padding(whole, place), place
        path.write_bytes(whole[: chance.randrange(len(whole))])
        assert is_refused(path, int4)
    path.write_bytes(whole + b"more")
    assert is_refused(path, int4)


def is_refused(path: Path, model: Model) -> bool:
    try:
        Prefix.open(path, model)
    except BundleError as error:
        return "\n" not in str(error)
    return False


def is_padding(whole: bytes, place: int) -> bool:
    """Whether a byte stands between blocks, where nothing is read."""
    return whole[place] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
@pytest.mark.parametrize("kills", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_a_kill_while_writing_leaves_the_old_file_or_the_new(int4: Model, tmp_path: Path, kills: int) -> None:
    path, texts = tmp_path / "file", (TEXT, OTHER)
    sequences = [fed(int4, text) for text in texts]
    save_prefix(path, sequences[0], 50)
    start = time.perf_counter()
    save_prefix(path, sequences[1], 50)
    once, seen = time.perf_counter() - start, set[int]()
    for number in range(kills):
        run_and_kill(lambda: write_for_ever(path, sequences), after=once * (0.5 + 4 * number / kills))
        seen.add([text[:50] for text in texts].index(Prefix.open(path, int4).token_ids))
    assert seen <= {0, 1}


def write_for_ever(path: Path, sequences: list[Sequence]) -> None:
    while True:
        for sequence in sequences:
            save_prefix(path, sequence, 50)


def run_and_kill(action: Callable[[], None], *, after: float) -> None:
    """Run an action in a child process that is killed after so many seconds."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(1)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_partial_files_left_behind_are_removed_when_they_are_old(int4: Model, tmp_path: Path) -> None:
    old, fresh = tmp_path / ".file.partial-1", tmp_path / ".file.partial-2"
    for partial in (old, fresh):
        partial.write_bytes(b"part")
    os.utime(old, (0, 0))
    kept(int4, TEXT, tmp_path / "file")
    assert {path.name for path in tmp_path.iterdir()} == {"file", fresh.name}


def test_a_place_where_no_file_can_be_is_told_in_a_line(int4: Model, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(OutputError, match=r"cannot be written: .*; choose another place"):
        kept(int4, TEXT, tmp_path / "folder" / "file")


@pytest.fixture(scope="module")
def phi(make_checkpoint: MakeCheckpoint, make_bundle: MakeBundle) -> Model:
    """A tiny Phi-3 that turns positions otherwise in texts of more than 16 tokens."""
    return opened(make_bundle(make_checkpoint("phi3", **PHI)))


@pytest.mark.parametrize(("num_kept", "num_tokens", "num_rows"), [(12, 14, 8), (12, 30, 0), (40, 14, 0), (40, 30, 24)])
def test_rows_with_the_angles_of_other_lengths_are_not_taken(
    phi: Model, tmp_path: Path, num_kept: int, num_tokens: int, num_rows: int
) -> None:
    path, prompt = kept(phi, TEXT[:num_kept], tmp_path / "file"), TEXT[:num_tokens]
    sequence, taken = filled(phi, path, prompt)
    assert taken == num_rows
    plain = phi.new_sequence(exact=None)
    plain.append(prompt)
    options = GenerationOptions(max_new_tokens=8, decode="plain", logprobs=2)  # from 14 tokens across the border
    texts = [Generation.join(list(stream(phi, text, options))) for text in (plain, sequence)]
    assert texts[0].logprobs == texts[1].logprobs


def test_a_text_that_crosses_the_border_of_angles_keeps_nothing(phi: Model, tmp_path: Path) -> None:
    cache, options = PromptCache(phi, tmp_path / "file"), GenerationOptions(max_new_tokens=8, decode="plain")
    for num_tokens, num_kept in ((14, 0), (30, 28)):
        sequence = phi.new_sequence(exact=None)
        sequence.append(TEXT[:num_tokens])
        cache.fill(sequence, options)
        list(cache.keeping(sequence, options, stream(phi, sequence, options)))
        assert (cache.num_kept, cache.file.exists()) == (num_kept, num_kept > 0)
