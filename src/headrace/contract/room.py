"""SQL with which DuckDB works on more rows than have room in the memory it may take."""

from collections.abc import Sequence
from typing import Final

from headrace.contract.chunks import VECTOR_ROWS

KEY_BYTES: Final = 64  # of memory for a key that is told from others, or joined
ROWID_BYTES: Final = 48  # for a row id that is joined
# Until a transaction ends DuckDB holds so much for a vector of which rows are deleted.
VECTOR_BYTES: Final = 8 * VECTOR_ROWS


def parts(rows: int, row_bytes: int, memory_bytes: int) -> int:
    """Return in how many parts so many rows have room beside what else is in DuckDB's memory."""
    return 1 + rows * row_bytes // (memory_bytes // 2)


def part(values: Sequence[str], number: int, count: int) -> str:
    """Return the condition on a row to be in one of so many parts: rows of one key are in one."""
    return f"hash({', '.join(values)}) % {count} = {number}" if count > 1 else "1 = 1"


def vectors_max(memory_bytes: int) -> int:
    """Return of how many vectors rows may be deleted in what memory DuckDB may take."""
    return memory_bytes // 3 // VECTOR_BYTES


def vectors_of(rowid: str) -> str:
    """Return SQL of how many vectors hold some rows of a table."""
    return f"count(distinct {rowid} // {VECTOR_ROWS})"


def without(
    table: str, gone: str, fresh: str, end: int, memory_bytes: int, rows: int, kind: str = "table"
) -> list[str]:
    """Return statements that make a table anew, without `rows` whose `id` is in the table `gone`.

    `end`: above its row ids. In slices, each of which is joined in memory: else whole rows would
    wait on the disk.
    """
    slices = parts(rows, ROWID_BYTES, memory_bytes)
    made = []
    for number in range(slices):
        first, last = end * number // slices, end * (number + 1) // slices
        head = f"insert into {fresh}" if number else f"create {kind} {fresh} as"
        some = f"(select id from {gone} where id >= {first} and id < {last})"
        # Of `not exists` with row ids a join is made that holds whole rows.
        made.append(
            f"{head} select t.* from {table} as t anti join {some} as g on g.id = t.rowid"
            f" where t.rowid >= {first} and t.rowid < {last}"
        )
    return [*made, f"drop table {table}", f"alter table {fresh} rename to {table}"]
