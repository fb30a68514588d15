"""A table, view or query of PostgreSQL, read by COPY in one snapshot over several connections."""

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import errors, pq

from headrace.connectors.families import postgres
from headrace.connectors.families.table_source import number_of, selected, shared_out
from headrace.contract.canonical import POSTGRESQL
from headrace.contract.columns import literal, quoted
from headrace.contract.side import CursorKind, TableColumn
from headrace.contract.source import Stream
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused
from headrace.native import wire

LARGE_BYTES: Final = 32 << 20  # of a table that several connections read
CONNECTIONS_MAX: Final = 4
CANCEL_S: Final = 2.0
RANGES: Final = 8  # of a large table, for each connection: they do not end at once
PARALLEL: Final = (  # what digests cost the planner does not know
    "parallel_tuple_cost = 0", "parallel_setup_cost = 0", "jit = off",
)  # fmt: skip
TRIMS_SINCE: Final = 130_000  # PostgreSQL 13 can say a number without zeros at its end
RANGES_SINCE: Final = 140_000  # PostgreSQL 14 finds the rows of a range without reading all
WHOLE: Final = ("smallint", "integer", "bigint")
SAME: Final = {  # types that are ours by another name
    "smallint": "integer", "integer": "integer", "bigint": "integer", "oid": "integer",
    "real": "float", "double precision": "float", "boolean": "boolean", "date": "date",
    "time without time zone": "time", "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamp", "json": "json", "jsonb": "json",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class PgType:
    """A column's type: PostgreSQL's name of it, its category, and whether it is one value."""

    format: str
    category: str
    scalar: bool

    @property
    def ours(self) -> str:
        if self.format.startswith("numeric("):
            precision, scale = map(int, self.format[8:-1].split(","))
            fits = precision <= 38 and 0 <= scale <= precision
            return f"decimal({precision},{scale})" if fits else "string"
        base = self.format.partition("(")[0]
        if base in ("time", "timestamp"):  # of a precision: timestamp(3) with time zone
            base += self.format.rpartition(")")[2]
        return "json" if not self.scalar else SAME.get(base, "string")

    def text(self, name: str) -> str:
        """Return SQL of a column's text."""
        column = f"t.{quoted(name)}"
        if self.format == "boolean":
            return f"{column}::text"
        if self.format == "bytea":
            return f"translate(encode({column}, 'base64'), E'\\n', '')"
        return column if self.scalar else f"to_json({column})::text"

    @property
    def cursor(self) -> CursorKind | None:
        base = self.format.partition("(")[0]
        if base in (*WHOLE, "numeric"):
            return "number"
        if base == "date":
            return "day"
        return "moment" if self.format.startswith("timestamp") else None


class PostgresSnapshot:
    """One connection that sees one state; others join it."""

    def __init__(
        self, con: postgres.Connection, schema: str, table: str, query: str, tools: Tools,
        connect: Callable[[], Any], threads: int,
    ) -> None:  # fmt: skip
        """`query`: instead of a table."""
        name = f"{schema}.{table}" if table else "query"
        self._table = "" if query else f"{quoted(schema)}.{quoted(table)}"
        self.relation = f"({query})" if query else self._table
        self._con = con
        self._name = name
        self.told: Callable[[int], None] = lambda done: tools.told(f"reading {name}", done=done)
        self._connect = connect
        self._threads = min(threads, CONNECTIONS_MAX)
        dressed(con)
        told_alike = con.info.server_version >= TRIMS_SINCE and con.info.encoding == "utf-8"
        [(encoding,)] = con.execute("show server_encoding").fetchall()
        self.dialect = POSTGRESQL if told_alike and encoding == "UTF8" else None

    def quoted(self, name: str) -> str:
        return quoted(name)

    def columns(self) -> Sequence[TableColumn]:
        try:
            cursor = self._con.execute(f"select * from {self.relation} as t limit 0")
        except (errors.UndefinedTable, errors.InvalidSchemaName, errors.InsufficientPrivilege) as e:
            if not self._table:
                raise
            raise Refused(
                f"There is no table {self._name}, or it may not be read.",
                hint="Check schema and table; names are case-sensitive.", field="input.table",
            ) from e  # fmt: skip
        result = cursor.pgresult
        assert result is not None  # a query has one
        count = range(result.nfields)
        names = [(result.fname(number) or b"").decode() for number in count]
        types = self._con.execute(
            "select format_type(t.oid, u.size), t.typcategory,"
            " t.typtype in ('b', 'e', 'r', 'm') and t.typcategory <> 'A'"
            " from unnest(%s::oid[], %s::int[]) with ordinality as u(type, size, place)"
            " join pg_type as t on t.oid = u.type order by u.place",
            [[result.ftype(n) for n in count], [result.fmod(n) for n in count]],
        ).fetchall()
        found = []
        for name, row in zip(names, types, strict=True):
            type_ = PgType(*row)
            found.append(
                TableColumn(
                    name=name, type=type_.ours, sql=type_.text(name), native=type_.format,
                    cursor=type_.cursor,
                )
            )  # fmt: skip
        return found

    def value(self, query: str) -> str | None:
        [(found,)] = self._con.execute(f"select v.v::text from ({query}) as v(v)").fetchall()
        return None if found is None else str(found)

    def literal(self, column: TableColumn, text: str) -> str:
        return f"{literal(text)}::{column.native}"

    def before(self, column: TableColumn, text: str, overlap: int) -> str:
        if not overlap:
            return self.literal(column, text)
        if column.cursor == "moment":
            return f"({self.literal(column, text)} - interval '{overlap} seconds')"
        if column.cursor == "day":
            return f"({self.literal(column, text)} - {-(-overlap // 86_400)})"
        return f"({number_of(column, text) - overlap:f}::numeric)"

    def streams(self) -> Sequence[Stream]:
        rows = self._con.execute(
            "select c.relname, n.nspname,"
            " case when c.relkind in ('v', 'm') then 'view' else 'table' end,"
            " array(select a.attname from unnest(i.indkey::int[]) with ordinality as k(number, at)"
            " join pg_attribute as a on a.attrelid = c.oid and a.attnum = k.number order by k.at),"
            " case when c.reltuples >= 0 and c.relkind <> 'v' then c.reltuples::bigint end,"
            " case when c.relkind <> 'v' then pg_total_relation_size(c.oid) end"
            " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
            " left join pg_index as i on i.indrelid = c.oid and i.indisprimary"
            " where c.relkind in ('r', 'p', 'v', 'm', 'f') and not c.relispartition"
            " and n.nspname not in ('pg_catalog', 'information_schema')"
            " and n.nspname not like 'pg\\_%' and has_table_privilege(c.oid, 'select')"
            " order by 2, 1"
        ).fetchall()
        return [
            Stream(name=name, schema=schema, kind=kind, key=key, rows=count, bytes=size)
            for name, schema, kind, key, count, size in rows
        ]

    def pour(self, query: str, path: Path) -> int:
        for setting in PARALLEL:
            self._con.execute(f"set {setting}")
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return self._poured([self._con], [query], file)
        finally:
            os.close(file)

    def copy(
        self, columns: Sequence[TableColumn], conditions: Sequence[str], path: Path, *, whole: bool
    ) -> int:
        """Copy into a file, a large table in ranges over several connections."""
        queries = [
            selected(self.relation, columns, [*conditions, *part], quoted)
            for part in (self._ranges() if whole else []) or [[]]
        ]
        with ExitStack() as stack:
            cons = [self._con]
            if len(queries) > 1:
                [(snapshot,)] = self._con.execute("select pg_export_snapshot()").fetchall()
                for _ in range(self._threads - 1):
                    con = stack.enter_context(self._connect())
                    con.execute(f"set transaction snapshot {literal(snapshot)}")
                    dressed(con)
                    con.execute("set timezone = 'UTC'")
                    cons.append(con)
            file = os.open(path, os.O_WRONLY | os.O_APPEND)
            stack.callback(os.close, file)
            return self._poured(cons, queries, file)

    def large(self) -> int:
        if not self._table:
            return 0
        [(size,)] = self._con.execute(
            "select coalesce(pg_table_size(to_regclass(%s)), 0)", [self._table]
        ).fetchall()
        return int(size) if size >= LARGE_BYTES else 0

    def _ranges(self) -> list[list[str]]:
        """Return conditions that cut a large table into parts; none for anything else."""
        if not self._table or self._threads < 2 or self._con.info.server_version < RANGES_SINCE:
            return []
        [(pages,)] = self._con.execute(
            "select case when c.relkind in ('r', 'm') and a.amname = 'heap'"
            " and not c.relhassubclass and pg_relation_size(c.oid) >= %s"
            " then pg_relation_size(c.oid) / current_setting('block_size')::int end"
            " from pg_class as c left join pg_am as a on a.oid = c.relam"
            " where c.oid = to_regclass(%s)",
            [LARGE_BYTES, self._table],
        ).fetchall()
        if pages is None:
            return []
        count = self._threads * RANGES
        cuts = [pages * number // count for number in range(1, count)]
        edges = [None, *(f"'({cut},0)'::tid" for cut in cuts), None]
        found = []
        for low, high in itertools.pairwise(edges):
            ends = [f"t.ctid >= {low}" if low else "", f"t.ctid < {high}" if high else ""]
            found.append([end for end in ends if end])
        return found

    def _poured(self, cons: list[postgres.Connection], queries: list[str], file: int) -> int:
        """Have every connection take queries until none is left; return the rows in all."""
        drain = wire.Drain()

        def stop() -> None:
            drain.stop()
            _cut(cons)

        return shared_out(
            queries, cons, lambda con, query: _copied(con, query, file, drain),
            lambda: self.told(drain.bytes), stop,
        )  # fmt: skip


def dressed(con: postgres.Connection) -> None:
    """Have a connection write values as they are read here."""
    con.execute("set datestyle = 'ISO'")
    con.execute("set intervalstyle = 'postgres'")
    con.execute("set extra_float_digits = 1")
    con.execute("set client_encoding = 'UTF8'")


def _cut(cons: Sequence[postgres.Connection]) -> None:
    """Have nobody wait for connections any more, and the server work for none."""
    for con in cons:
        with (
            contextlib.suppress(OSError, psycopg.Error),  # it is closed
            socket.socket(fileno=os.dup(con.pgconn.socket)) as line,
        ):
            line.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(psycopg.Error):  # it does not answer, then none does
        for con in cons:
            con.cancel_safe(timeout=CANCEL_S)


def _copied(con: postgres.Connection, query: str, file: int, drain: wire.Drain) -> int:
    """Append the rows of a query to a file; return how many the server says they are."""
    if not wire.drains():
        with con.cursor() as cur:
            with (
                cur.copy(f"copy ({query}) to stdout (format csv)") as copy,
                os.fdopen(os.dup(file), "ab") as out,
            ):
                for data in copy:  # the driver hands out a row at a time
                    out.write(data)
            return cur.rowcount
    link = con.pgconn
    result = link.exec_(f"copy ({query}) to stdout".encode())
    if result.status == pq.ExecStatus.COPY_OUT:
        drain.run(link.pgconn_ptr, file)  # type: ignore[attr-defined]  # of its C builds
        result = link.get_result() or result
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise errors.error_from_result(result)
    rows = result.command_tuples or 0
    while link.get_result():
        pass
    return rows
