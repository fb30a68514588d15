"""What SQLite says, in our words: its errors, and the types that columns are declared with."""

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from typing import Final

from headrace.contract.columns import decimal_of
from headrace.contract.side import CursorKind
from headrace.domain.errors import Refused, Unavailable

EXACT_DIGITS: Final = 15  # of a decimal that a double tells apart from every other
DECLARED: Final = {
    "string": "TEXT", "integer": "BIGINT", "float": "DOUBLE", "boolean": "BOOLEAN",
    "json": "JSON TEXT", "date": "DATE", "time": "TIME", "timestamp": "TIMESTAMP",
}  # fmt: skip

AFFINITIES: Final[tuple[tuple[tuple[str, ...], str, CursorKind | None], ...]] = (
    (("BOOL",), "boolean", None), (("INT",), "integer", "number"), (("JSON",), "json", None),
    (("CHAR", "CLOB", "TEXT", "UUID", "BLOB"), "string", None),
    (("REAL", "FLOA", "DOUB"), "float", "number"),
)  # fmt: skip


@contextlib.contextmanager
def told(what: str, room: str = "Make room.") -> Iterator[None]:
    """Translate what SQLite says of a file of ours; `room` is the hint where the disk is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            raise Unavailable(f"The {what} is busy.", hint="It will be tried again.") from error
        if "full" in text:
            raise Refused("The disk is full.", hint=room) from error
        raise Refused(f"The {what} cannot be used: {text}") from error
    except sqlite3.DatabaseError as error:
        raise Refused(f"The {what} cannot be used: {error}") from error


def declared(type_: str) -> str:
    """Return what a column of our type is declared as; empty where there is no such type."""
    if size := decimal_of(type_):
        # As text, where a double could not tell two of them apart.
        return f"DECIMAL({size[0]},{size[1]})" if size[0] <= EXACT_DIGITS else "TEXT"
    return DECLARED.get(type_, "")


def widened(value: str, old: str, new: str | None) -> str:
    """Return SQL of a value of a column declared as `old`, for one of our type `new`."""
    if new != "string":
        return value
    if "BOOL" in old:
        return f"case {value} when 1 then 'true' when 0 then 'false' else {value} end"
    return f"cast({value} as text)"


def ours(declared: str) -> tuple[str, CursorKind | None]:
    """Return our type for a declared one by SQLite's own rules of affinity, and some names."""
    size = re.search(r"(?:DECIMAL|NUMERIC)\s*\(\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", declared)
    if size and int(size[1]) <= 38 and int(size[2] or 0) <= int(size[1]):  # digits
        return f"decimal({int(size[1])},{int(size[2] or 0)})", "number"
    for parts, ours_, cursor in AFFINITIES:
        if any(part in declared for part in parts):
            return ours_, cursor
    if declared in ("DATE", "TIME"):
        return declared.lower(), "day" if declared == "DATE" else None
    if "TIMESTAMP" in declared or "DATETIME" in declared:
        return "timestamp", "moment"
    return "infer", "number"
