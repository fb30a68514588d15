"""API keys: made with 160 random bits, kept as a keyed hash only."""

import hashlib
import hmac
import secrets
from typing import Final

KEY_BYTES: Final = 20
PREFIX: Final = "hr_"


def new_key() -> str:
    """Return a fresh key, to be shown once."""
    return PREFIX + secrets.token_hex(KEY_BYTES)


def hashed(key: str, pepper: bytes) -> bytes:
    """Return what is kept of a key. Keys are random, so a fast keyed hash is enough."""
    return hmac.new(pepper, key.encode(), hashlib.sha256).digest()
