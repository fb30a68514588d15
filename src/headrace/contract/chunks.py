"""Rows of a cursor in chunks that fit the memory, however wide or long a row is."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

BYTES_MAX: Final = 16 << 20  # of a chunk, about
FEW: Final = 64  # rows that are taken at once: of so many the first and the last tell the size
CELL_BYTES: Final = 50  # of any value in Python


class Cursor(Protocol):
    """Whatever DB-API, or DuckDB, calls so."""

    def fetchmany(self, size: int, /) -> Sequence[Any]: ...


def chunks(cursor: Cursor, rows_max: int) -> Iterator[list[Any]]:
    """Yield the rows that are left, at most about `rows_max` and BYTES_MAX of them at once."""
    chunk: list[Any] = []
    size = 0
    while some := cursor.fetchmany(FEW):
        chunk += some
        size += len(some) * max(_bytes_of(some[0]), _bytes_of(some[-1]))
        if len(chunk) >= rows_max or size >= BYTES_MAX:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _bytes_of(row: Sequence[Any]) -> int:
    return (
        sum(len(value) for value in row if isinstance(value, str | bytes)) + len(row) * CELL_BYTES
    )
