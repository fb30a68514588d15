"""SQL with which DuckDB works on more rows than have room in the memory it may take."""

from collections.abc import Sequence
from typing import Final

import duckdb

from headrace.contract.chunks import VECTOR_ROWS

GROUP_ROWS: Final = 122_880  # of DuckDB's groups of rows
HELD_BYTES: Final = 3_500  # what it holds for each column of a group, outside its limit
KEY_BYTES: Final = 64  # of memory for a key that is told from others, or joined
ROWID_BYTES: Final = 48  # for a row id that is joined
REBUILD_ROWS: Final = 1_000_000  # that go at least where a table is made anew without them
REBUILD_SHARE: Final = 4  # and one of so many rows of the table
# Until a transaction ends DuckDB holds so much for a vector of which rows are deleted.
VECTOR_BYTES: Final = 8 * VECTOR_ROWS


def confine(con: duckdb.DuckDBPyConnection, memory_bytes: int, *, copies: int = 1) -> None:
    """Let DuckDB take so much memory, less what it holds of tables outside that: up to a quarter.

    `copies`: in how many of them the rows will be there.
    """
    [(values,)] = con.execute(
        "select coalesce(sum(estimated_size * column_count), 0)::bigint from duckdb_tables()"
    ).fetchall()
    held = copies * int(values) * HELD_BYTES // GROUP_ROWS
    left = max(memory_bytes - held, memory_bytes * 3 // 4)
    con.execute(f"set memory_limit = '{left // 1_000_000}MB'")


def parts(rows: int, row_bytes: int, memory_bytes: int) -> int:
    """Return in how many parts so many rows have room beside what else is in DuckDB's memory."""
    return 1 + rows * row_bytes // (memory_bytes // 2)


def in_order(rows: int, memory_bytes: int) -> bool:
    """Tell whether so many rows had better be merged into a table in order, which it has not.

    They fill every group of rows but the last so. Else each thread leaves one that is not full, and
    when the file is closed DuckDB writes those and their neighbours once more. Of many rows the
    order takes more memory than that is worth.
    """
    return rows > GROUP_ROWS and parts(rows, KEY_BYTES, memory_bytes) == 1


def part(values: Sequence[str], number: int, count: int) -> str:
    """Return the condition on a row to be in one of so many parts: rows of one key are in one."""
    return f"hash({', '.join(values)}) % {count} = {number}" if count > 1 else "1 = 1"


def freeing(con: duckdb.DuckDBPyConnection) -> str:
    """Return SQL by which DuckDB gives back to the system what it has freed, and will free at once.

    Else its allocator keeps 100 MB and more beside the limit. DuckDB has all given back where the
    limit is set, be it to what it is: to one digit, as DuckDB tells it.
    """
    [(limit,)] = con.execute("select current_setting('memory_limit')").fetchall()
    number, unit = limit.split()  # 244.1 MiB; told to one digit, cut off: 244.15 stays 244.1
    return (
        "set allocator_bulk_deallocation_flush_threshold = '1MB';"
        f" set memory_limit = '{number}5{unit}'"
    )


def vectors_max(memory_bytes: int) -> int:
    """Return of how many vectors rows may be deleted in what memory DuckDB may take."""
    return memory_bytes // 3 // VECTOR_BYTES


def is_much(rows: int, there: int) -> bool:
    """Tell whether so many rows of a table go that the rest is sooner written anew."""
    return rows >= REBUILD_ROWS and rows * REBUILD_SHARE >= there


def going(
    con: duckdb.DuckDBPyConnection, table: str, gone: str, fresh: str, memory_bytes: int,
    kind: str = "table",
) -> list[str]:  # fmt: skip
    """Return statements that take rows from a table: those whose `id` is in the table `gone`.

    They are deleted, or it is made anew without them: as `fresh`, of its `kind`.
    """
    [(rows, vectors, there, end)] = con.execute(
        f"select count(*), count(distinct id // {VECTOR_ROWS}), (select count(*) from {table}),"
        f" (select max(rowid) + 1 from {table}) from {gone}"
    ).fetchall()
    if vectors < vectors_max(memory_bytes) and not is_much(rows, there):
        return [f"delete from {table} where rowid in (select id from {gone})"]
    return _without(con, table, gone, fresh, end, memory_bytes, rows, kind)


def _without(
    con: duckdb.DuckDBPyConnection, table: str, gone: str, fresh: str, end: int,
    memory_bytes: int, rows: int, kind: str,
) -> list[str]:  # fmt: skip
    """Return statements that make a table anew, without `rows` whose `id` is in the table `gone`.

    `end`: above its row ids. In slices, each of which is joined in memory: else whole rows would
    wait on the disk.
    """
    slices = parts(rows, ROWID_BYTES, memory_bytes)
    free = freeing(con)
    made = []
    for number in range(slices):
        first, last = end * number // slices, end * (number + 1) // slices
        head = f"insert into {fresh}" if number else f"create {kind} {fresh} as"
        some = f"(select id from {gone} where id >= {first} and id < {last})"
        # Of `not exists` with row ids a join is made that holds whole rows.
        made += [
            free,
            (
                f"{head} select t.* from {table} as t anti join {some} as g on g.id = t.rowid"
                f" where t.rowid >= {first} and t.rowid < {last}"
            ),
        ]
    return [*made, f"drop table {table}", f"alter table {fresh} rename to {table}"]
