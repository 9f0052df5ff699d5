"""Files of a bundle that are altered, or not listed: nothing of them is taken silently."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from altered_bundles import fit_manifest
from conftest import MakeBundle

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.bundle import Bundle, SigningKey
from skipstone.runtime.bundle.file_entry import BLOCK_BYTES
from skipstone.runtime.bundle.file_hashes import LARGE_BYTES, entry_of, is_altered
from skipstone.runtime.engine import Model

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def place(tmp_path: Path, tiny_checkpoint: Path, make_bundle: MakeBundle) -> Path:
    return Path(shutil.copytree(make_bundle(tiny_checkpoint), tmp_path / "bundle"))


def flip(file: Path, position: int) -> None:
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("name", ["stage-00.onnx", "tokenizer.json", "weights.bin"])
def test_one_bit_in_a_small_file_is_found_when_the_bundle_is_opened(place: Path, name: str) -> None:
    flip(place / name, (place / name).stat().st_size // 2)
    with pytest.raises(BundleError, match=f"bundle: {name} altered; copy or export the bundle again$"):
        Bundle.open(place)


def test_a_file_that_is_not_listed_is_not_read(place: Path) -> None:
    (place / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    assert Model.open(place).chat_template is None
    assert Model.open(fit_manifest(place)).chat_template is not None


def test_a_large_file_has_a_hash_for_each_block_and_few_are_compared_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(os.urandom(LARGE_BYTES + BLOCK_BYTES + 5))
    entry = entry_of(file)
    assert not any(is_altered(file, entry) for _ in range(20))
    flip(file, LARGE_BYTES // 2)
    assert 0 < sum(is_altered(file, entry) for _ in range(200)) < 200, "one load finds it or not, many find it"
    file.write_bytes(bytes(entry.size))
    assert is_altered(file, entry)


def test_a_bundle_of_an_older_format_has_no_hashes_of_blocks_and_is_opened(place: Path) -> None:
    data = json.loads((place / "skipstone.json").read_text(encoding="utf-8"))
    for entry in data["files"].values():
        del entry["blocks"]
    (place / "skipstone.json").write_text(json.dumps(data | {"format_version": 9}), encoding="utf-8")
    Bundle.open(place).verify()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_what_is_no_regular_file_is_refused_at_once(place: Path, make: Callable[[Path], None]) -> None:
    (place / "tokenizer.json").unlink()
    make(place / "tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer\.json is no regular file"):
        Bundle.open(place)


# Signatures


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A folder with two private keys, and the public ones in folders beside them."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    for name in ("ours", "theirs"):
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption())
        public = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / "keys" / name).mkdir(parents=True)
        (tmp_path / "keys" / f"{name}.pem").write_bytes(private)
        (tmp_path / "keys" / name / "public.pem").write_bytes(public)
    return tmp_path / "keys"


def signed(bundle: Path, key: Path) -> Path:
    signature = SigningKey.read(key).sign((bundle / "skipstone.json").read_bytes())
    (bundle / "skipstone.sig").write_bytes(signature)
    return bundle


def test_with_trust_only_what_a_trusted_key_signed_is_opened(
    place: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPSTONE_TRUST", f"{keys / 'theirs'}{os.pathsep}{keys / 'ours' / 'public.pem'}")
    with pytest.raises(BundleError, match="bundle is not signed, and SKIPSTONE_TRUST asks for it"):
        Bundle.open(place)
    Bundle.open(signed(place, keys / "ours.pem"))
    monkeypatch.setenv("SKIPSTONE_TRUST", str(keys / "theirs"))
    with pytest.raises(BundleError, match="bundle is not signed by any of the 1 keys of SKIPSTONE_TRUST"):
        Bundle.open(place)


def test_with_trust_no_byte_of_a_signed_bundle_may_differ(
    place: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKIPSTONE_TRUST", str(keys / "ours"))
    monkeypatch.setattr("skipstone.runtime.bundle.file_hashes.LARGE_BYTES", 0)
    signed(fit_manifest(place), keys / "ours.pem")
    flip(place / "weights.bin", 99)
    for _ in range(5):
        with pytest.raises(BundleError, match=r"weights\.bin altered"):
            Bundle.open(place)
    fit_manifest(place)  # as an attacker would
    with pytest.raises(BundleError, match="not signed by any"):
        Bundle.open(place)


@pytest.mark.parametrize(("content", "message"), [(b"", "holds no private key in PEM"), (None, "cannot be read")])
def test_a_key_that_is_none_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        SigningKey.read(tmp_path / "key.pem")


def test_a_trust_that_names_nothing_is_refused(
    place: Path, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = keys / "ours.pem"
    cases = {tmp_path / "none": "cannot be read", ours: "holds no public key", place: r"holds no \.pem file"}
    for trusted, message in cases.items():
        monkeypatch.setenv("SKIPSTONE_TRUST", str(trusted))
        with pytest.raises(ConfigError, match=message):
            Bundle.open(place)


# Replaced while it is read

FORCED = """
import sys
from pathlib import Path
from test_bundle import write_pair
write_pair(Path(sys.argv[1]), sys.argv[2], force=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there, files that are open cannot be replaced")
def test_a_bundle_stays_as_it_was_opened_when_an_export_takes_its_place(tmp_path: Path) -> None:
    from test_bundle import names_in, write_pair

    target = tmp_path / "out"
    write_pair(target, "old")
    opened = Bundle.open(target)
    draft_model = opened.open_draft_model()
    assert draft_model is not None
    for content in ("new", "newer"):
        write_pair(target, content, force=True)
    command = [sys.executable, "-c", FORCED, str(target), "newest"]
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths})
    for bundle in (opened, draft_model, opened.open_draft_model()):
        assert bundle is not None
        bundle.verify()
        assert bundle.file("stage-00.onnx").read_text() == "old"
    assert Bundle.open(target).file("drafter/stage-00.onnx").read_text() == "newest"
    del opened, draft_model, bundle
    Bundle.open(target)
    assert names_in(tmp_path) == ["out"], "what nobody reads any more is removed"


def test_a_model_goes_on_with_its_own_files_when_its_bundle_is_replaced(
    place: Path, tiny_checkpoint: Path, make_bundle: MakeBundle
) -> None:
    shutil.rmtree(place)
    shutil.copytree(make_bundle(tiny_checkpoint, exits="1", draft_head="auto"), place)
    model = Model.open(place)
    gone = place.rename(place.with_name("gone"))
    assert model.sessions.draft_head.get_outputs(), "a graph that is opened when it is first asked for"
    assert gone.is_dir()
