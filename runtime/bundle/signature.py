"""Who made a bundle: an Ed25519 signature of its manifest, which holds the sha256 of every file.

Source: RFC 8032, by the `cryptography` package, which the extra `sign` installs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skipstone.errors import BundleError, ConfigError
from skipstone.runtime.bundle.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["SIGNATURE_NAME", "TRUST", "SigningKey", "require_trusted", "trusted_paths"]

SIGNATURE_NAME: Final = "skipstone.sig"
"""The file beside the manifest that holds the 64 bytes of the signature."""
TRUST: Final = "SKIPSTONE_TRUST"
"""The environment variable with public keys: files of PEM or folders of them, apart by `:`, or `;` on Windows."""
SIGNATURE_BYTES: Final = 64
MOST_KEY_BYTES: Final = 65536


class SigningKey:
    """A private key that signs manifests."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def read(cls, file: Path) -> SigningKey:
        """Return the key in a PEM file without a passphrase, as `openssl genpkey -algorithm ed25519` makes it.

        Raises: ConfigError for another file, and where `cryptography` is missing.
        """
        _require_library()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        made_by = f"make one with `openssl genpkey -algorithm ed25519 -out {file.name}`"
        try:
            key = load_pem_private_key(_read_key(file), password=None)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{file} holds no private key in PEM without a passphrase; {made_by}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{file} holds a key of another kind than Ed25519; {made_by}")
        return cls(key)

    def sign(self, manifest: bytes) -> bytes:
        """Return the signature of a manifest, 64 bytes."""
        return self._key.sign(manifest)


def trusted_paths(environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Return the files and folders with the public keys that are trusted; empty where nobody asks for signatures."""
    return tuple(Path(name).expanduser() for name in environment.get(TRUST, "").split(os.pathsep) if name)


def require_trusted(folder: Path, paths: tuple[Path, ...]) -> None:
    """Raise BundleError unless the manifest in the folder of a bundle is signed by one of the keys in `paths`.

    Raises: ConfigError for keys that cannot be read, and where `cryptography` is missing.
    """
    _require_library()
    from cryptography.exceptions import InvalidSignature

    keys = [key for path in paths for key in _public_keys(path)]
    advice = f"get it from who made it, or unset {TRUST} to take any"
    if not (folder / SIGNATURE_NAME).is_file():
        raise BundleError(f"{folder} is not signed, and {TRUST} asks for it: {advice}")
    manifest = (folder / MANIFEST_NAME).read_bytes()
    with (folder / SIGNATURE_NAME).open("rb") as stream:
        signature = stream.read(SIGNATURE_BYTES + 1)
    for key in keys:
        try:
            return key.verify(signature, manifest)
        except InvalidSignature:
            continue
    raise BundleError(f"{folder} is not signed by any of the {len(keys)} keys of {TRUST}: {advice}")


def _public_keys(path: Path) -> Iterator[Ed25519PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    files = sorted(path.glob("*.pem")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{TRUST} names {path}, which holds no .pem file")
    for file in files:
        try:
            key: Any = load_pem_public_key(_read_key(file))
        except ValueError as error:
            raise ConfigError(f"{TRUST} names {file}, which holds no public key in PEM") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{TRUST} names {file}, which holds a key of another kind than Ed25519")
        yield key


def _read_key(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MOST_KEY_BYTES)
    except OSError as error:
        raise ConfigError(f"the key {file} cannot be read: {error.strerror}") from error


def _require_library() -> None:
    if find_spec("cryptography") is None:
        raise ConfigError("signatures need the package cryptography: pip install 'skipstone[sign]'")
