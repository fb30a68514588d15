"""Time: milliseconds since 1970 in UTC inside, RFC 3339 outside."""

import time
from datetime import UTC, datetime
from typing import NewType

Millis = NewType("Millis", int)


def now_ms() -> Millis:
    """Return this machine's wall clock. Leases use the database's instead."""
    return Millis(time.time_ns() // 1_000_000)


def rfc3339(at: Millis, *, millis: bool = False) -> str:
    """Write `at` as 2026-11-21T10:00:00Z, with three decimals on request."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    text = moment.isoformat(timespec="milliseconds" if millis else "seconds")
    return text.removesuffix("+00:00") + "Z"


def parse_rfc3339(text: str) -> Millis:
    """Read an RFC 3339 moment or date; one without a zone is UTC. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return Millis(round(moment.timestamp() * 1000))
