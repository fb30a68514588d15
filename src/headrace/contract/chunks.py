"""Rows on their way in chunks that fit the memory, however wide or long a row is."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

BYTES_MAX: Final = 16 << 20  # of a chunk, about
FEW: Final = 64  # rows that are taken at once: of so many the first and the last tell the size
CELL_BYTES: Final = 50  # of any value in Python
VECTOR_ROWS: Final = 2_048  # that DuckDB works on at once, however long they are
BUFFER_BYTES_MIN: Final = 10_000  # of 0 DuckDB gives no rows, with 1 it waits for ever


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


def buffered(bytes_: int, width: int, row_bytes: int) -> int:
    """Return what DuckDB must be told so that it holds so many bytes of rows for who takes them.

    It counts a fixed size a value, however long the value is.
    """
    fixed = max(width, 1) * 16
    return max(bytes_ * fixed // (fixed + row_bytes), BUFFER_BYTES_MIN)
