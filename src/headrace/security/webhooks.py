"""Signed calls from outside, as the Standard Webhooks specification has them.

The secret is `whsec_` and base64. What is signed is `ID.SECONDS.BODY`; the header holds one or more
`v1,BASE64` of HMAC-SHA256, by spaces.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import Final

from headrace.domain.errors import Unauthenticated

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
TOLERANCE_S: Final = 300  # between the sender's clock and ours; what is older is a replay


def new_secret() -> str:
    """Return a fresh secret, to be shown once."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def sign(secret: str, message: str, seconds: int, body: bytes) -> str:
    """Return what the header `webhook-signature` must hold."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    text = f"{message}.{seconds}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()


def check(
    secret: str, message: str, seconds: str, signatures: str, body: bytes, now: float
) -> None:
    """Raise Unauthenticated, saying why, unless a call is signed with the secret, and fresh."""
    if not (message and seconds and signatures):
        raise Unauthenticated(
            "The call is not signed.",
            hint="Send the headers webhook-id, webhook-timestamp and webhook-signature.",
        )
    if not seconds.isdecimal() or len(seconds) > 12:
        raise Unauthenticated("webhook-timestamp must be seconds since 1970.")
    if abs(now - int(seconds)) > TOLERANCE_S:
        raise Unauthenticated(
            f"The call was signed more than {TOLERANCE_S} s ago, or in the future.",
            hint="Set the sender's clock; do not send an old call again.",
        )
    expected = sign(secret, message, int(seconds), body)
    for given in signatures.split()[:10]:
        try:
            if hmac.compare_digest(given.encode("ascii"), expected.encode()):
                return
        except (UnicodeEncodeError, binascii.Error):
            continue
    raise Unauthenticated("The signature is of another secret, or of another body.")
