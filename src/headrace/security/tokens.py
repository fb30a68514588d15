"""Access tokens: short-lived, signed, in the place of a key (JWT, RFC 7519)."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from headrace.domain.errors import Unauthenticated
from headrace.domain.ids import KeyId, new_id

ALGORITHM: Final = "HS256"
ISSUER: Final = "headrace"


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says: for which key it stands, and what for (none: everything)."""

    key: KeyId
    scopes: frozenset[str]


class Tokens:
    """Issues and reads tokens. `secret` signs them: 32 bytes; `clock` gives seconds since 1970."""

    def __init__(self, secret: bytes, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret
        self._clock = clock
        self._key: Any = None  # the library's, which takes a third of a second to import

    def _signing(self) -> Any:
        from joserfc.jwk import OctKey

        if self._key is None:
            self._key = OctKey.import_key(self._secret)
        return self._key

    def issue(self, key: KeyId, tenant: str, scopes: Iterable[str], seconds: int) -> str:
        """Return a token that stands for a key for so many seconds."""
        from joserfc import jwt

        now = int(self._clock())
        claims = {
            "iss": ISSUER, "sub": key, "tenant": tenant, "scope": " ".join(sorted(scopes)),
            "iat": now, "exp": now + seconds, "jti": new_id(),
        }  # fmt: skip
        return jwt.encode({"alg": ALGORITHM, "typ": "JWT"}, claims, self._signing())

    def read(self, token: str) -> Claims | None:
        """Return what a token says; None for what is no token of ours. Raises Unauthenticated."""
        if not token.startswith("eyJ") or token.count(".") != 2:
            return None
        from joserfc import jwt
        from joserfc.errors import JoseError

        try:
            claims = jwt.decode(token, self._signing(), algorithms=[ALGORITHM]).claims
        except (JoseError, ValueError):
            return None
        if claims.get("iss") != ISSUER:
            return None
        if float(claims["exp"]) <= self._clock():
            raise Unauthenticated("The token has expired.", hint="Ask for another one.")
        return Claims(KeyId(claims["sub"]), frozenset(str(claims.get("scope", "")).split()))
