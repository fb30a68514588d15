"""The vault: seals secrets with AES-GCM under the master key.

The master key is HEADRACE_MASTER_KEY (base64 of 32 bytes) or an owner-only file in the data dir.
What is sealed is bound to the id of what it belongs to: it cannot be moved to another row.
"""

import base64
import hashlib
import os
from pathlib import Path
from typing import Any, Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from headrace.domain.errors import Invalid, Misconfigured

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12


class Vault:
    """Seals and opens JSON objects."""

    def __init__(self, master: bytes) -> None:
        self._cipher = AESGCM(master)
        self.pepper: Final = hashlib.sha256(b"headrace api keys" + master).digest()
        self.signing: Final = hashlib.sha256(b"headrace tokens" + master).digest()

    def seal(self, members: dict[str, Any], owner: str) -> bytes:
        """Seal JSON members for the thing with the id `owner`."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, msgspec.json.encode(members), owner.encode())

    def open(self, sealed: bytes, owner: str) -> dict[str, Any]:
        """Undo `seal`. Raises Misconfigured under another master key."""
        nonce, body = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        try:
            plain = self._cipher.decrypt(nonce, body, owner.encode())
        except InvalidTag as error:
            raise Misconfigured(
                "A stored secret cannot be opened.",
                hint="The master key is not the one it was sealed with.",
                field="HEADRACE_MASTER_KEY",
            ) from error
        return msgspec.json.decode(plain)  # type: ignore[no-any-return]  # an object, as sealed


def master_key(given: str, data_dir: Path) -> bytes:
    """Return the master key; make its file on the first start."""
    if given:
        try:
            key = base64.b64decode(given, validate=True)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise Invalid(
                "HEADRACE_MASTER_KEY must be base64 of 32 bytes.",
                hint="Make one: openssl rand -base64 32",
                field="HEADRACE_MASTER_KEY",
            )
        return key
    path = data_dir / "master.key"
    try:
        write_private(path, base64.b64encode(os.urandom(KEY_BYTES)))
    except FileExistsError:
        pass
    return base64.b64decode(path.read_bytes())


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner may read. Raises FileExistsError."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
