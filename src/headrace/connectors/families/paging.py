"""Pages of rows that are read back, as plain values JSON can say."""

import base64
import datetime as dt
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

from headrace.contract.destination import Page


def page_of(names: Sequence[str], found: Sequence[tuple[Any, ...]], limit: int) -> Page:
    """Make a page of rows that begin with their place; one row more than `limit` was asked for."""
    rows = [dict(zip(names, map(plain, row[1:]), strict=True)) for row in found[:limit]]
    following = str(found[limit][0]) if len(found) > limit else None
    return Page(columns=names, rows=rows, next=following)


def plain(value: Any) -> Any:  # Any: whatever a database returns
    """Return a value that JSON can say; decimals and moments as text, so nothing is lost."""
    match value:
        case float() if not math.isfinite(value):
            return str(value)
        case Decimal() | UUID():
            return str(value)
        case dt.datetime():
            return value.isoformat() + ("Z" if value.tzinfo is None else "")
        case dt.date() | dt.time():
            return value.isoformat()
        case dt.timedelta():
            return value.total_seconds()
        case bytes():
            return base64.b64encode(value).decode()
        case dict():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple() | set():
            return [plain(inner) for inner in value]
        case _:
            return value
