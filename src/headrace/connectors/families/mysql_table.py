"""A table, view or query of MySQL or MariaDB, read as it comes from the wire in one snapshot.

A large table with a whole number as its key is read in ranges over several connections. MySQL
cannot hand a snapshot on: so nobody may write to the table while they begin, for a moment.
"""

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pymysql
from pymysql.constants import CR, ER, FIELD_TYPE

from headrace.connectors.families.mysql import Connection
from headrace.connectors.families.table_source import moment_of, number_of, selected, shared_out
from headrace.contract.canonical import MYSQL
from headrace.contract.chunks import chunks
from headrace.contract.side import CursorKind, TableColumn
from headrace.contract.source import Stream
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused
from headrace.native import wire

ROWS_AT_ONCE: Final = 5_000
BINARY: Final = 63  # the charset of bytes
PRECISION_MAX: Final = 38
PLAIN: Final[dict[int, tuple[str, str, CursorKind | None]]] = {
    # code: our type, SQL of its text, what it is as a cursor
    **dict.fromkeys(
        (
            FIELD_TYPE.TINY, FIELD_TYPE.SHORT, FIELD_TYPE.LONG, FIELD_TYPE.INT24,
            FIELD_TYPE.LONGLONG, FIELD_TYPE.YEAR,
        ),
        ("integer", "{}", "number"),
    ),
    FIELD_TYPE.FLOAT: ("float", "({} + 0e0)", None),  # else it comes with six digits
    FIELD_TYPE.DOUBLE: ("float", "({} + 0e0)", None),
    FIELD_TYPE.BIT: ("decimal(20,0)", "({} + 0)", None),
    FIELD_TYPE.DATE: ("date", "{}", "day"),
    FIELD_TYPE.NEWDATE: ("date", "{}", "day"),
    FIELD_TYPE.DATETIME: ("timestamp", "{}", "moment"),
    FIELD_TYPE.TIMESTAMP: ("timestamp", "{}", "moment"),
    FIELD_TYPE.TIME: ("time", "{}", None),
    FIELD_TYPE.JSON: ("json", "{}", None),
    FIELD_TYPE.GEOMETRY: ("string", "st_astext({})", None),
}  # fmt: skip
TEXTS: Final = frozenset(
    {
        FIELD_TYPE.VARCHAR, FIELD_TYPE.VAR_STRING, FIELD_TYPE.STRING, FIELD_TYPE.BLOB,
        FIELD_TYPE.TINY_BLOB, FIELD_TYPE.MEDIUM_BLOB, FIELD_TYPE.LONG_BLOB,
    }
)  # fmt: skip
NAMES: Final = {
    code: name.lower() for name, code in vars(FIELD_TYPE).items() if isinstance(code, int)
}
UNSIGNED: Final = 32  # a flag of a column
LARGE_BYTES: Final = 32 << 20  # of a table that several connections read
RANGES: Final = 8  # of a large table, for each connection: they do not end at once
LOCK_S: Final = 2  # longer we do not wait for others, nor let them wait


class _Out:
    """A file to which several threads append rows, whole ones at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._one_at_a_time = threading.Lock()
        self.bytes = 0
        self.stopped = False

    def write(self, some: memoryview) -> None:
        with self._one_at_a_time:
            self.bytes += len(some)
            while some:
                some = some[os.write(self._file, some) :]

    def proceed(self) -> None:
        """Raise if nobody wants the rows any more."""
        if self.stopped:
            raise InterruptedError

    def close(self) -> None:
        os.close(self._file)


def split_by(con: Connection, table: str) -> str:
    """Return the column by whose ranges a table can be read; empty for one that is read at once."""
    with con.cursor() as cursor:
        cursor.execute(
            "select k.column_name, c.data_type, t.engine, t.data_length from"
            " information_schema.tables t join information_schema.key_column_usage k using"
            " (table_schema, table_name) join information_schema.columns c using"
            " (table_schema, table_name, column_name) where t.table_schema = database()"
            " and t.table_name = %s and k.constraint_name = 'PRIMARY' and k.ordinal_position = 1",
            [table],
        )
        row = cursor.fetchone()
    if row is None or not str(row[1]).endswith("int") or str(row[2]).lower() != "innodb":
        return ""
    return str(row[0]) if int(row[3] or 0) >= LARGE_BYTES else ""


@contextlib.contextmanager
def held(connected: Callable[[], Connection], table: str) -> Iterator[bool]:
    """Keep a table as it is; tell whether it is so. Without a name it is not.

    Who has changed it in a transaction is waited for; where that takes long, or where we may not
    lock, one connection must do.
    """
    if not table:
        yield False
        return
    con = connected()
    try:
        con.query(f"set session lock_wait_timeout = {LOCK_S}")
        con.query(f"lock tables {_quoted(table)} read")
    except pymysql.err.MySQLError:
        yield False
        return
    try:
        yield True
    finally:
        con.query("unlock tables")


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


class MysqlSnapshot:
    """One connection in a transaction, or several that see the same state of a table."""

    def __init__(
        self, cons: Sequence[Connection], table: str, query: str, tools: Tools, split: str = ""
    ) -> None:
        """`query`: instead of a table. `split`: the column whose ranges are shared out."""
        self.relation = f"({query})" if query else self.quoted(table)
        self.dialect = MYSQL
        self._con = cons[0]
        self._cons = cons
        self._split = split
        self._name = table or "query"
        self._is_table = bool(table)
        name = self._name
        self.told: Callable[[int], None] = lambda done: tools.told(f"reading {name}", done=done)

    def quoted(self, name: str) -> str:
        return _quoted(name)

    def columns(self) -> Sequence[TableColumn]:
        try:
            with self._con.cursor() as cursor:
                cursor.execute(f"select * from {self.relation} as t limit 0")
                fields = cursor._result.fields  # noqa: SLF001  # the description lacks signs
        except pymysql.err.ProgrammingError as error:
            if self._is_table and error.args[0] == ER.NO_SUCH_TABLE:
                raise Refused(
                    f"There is no table {self._name}.", hint="Check its name, and the URL's"
                    " database.", field="input.table",
                ) from error  # fmt: skip
            raise
        return [self._column(field) for field in fields]

    def _column(self, field: Any) -> TableColumn:  # Any: pymysql's description of a column
        type_, sql, cursor = _typed(field, f"t.{self.quoted(field.name)}")
        return TableColumn(
            name=field.name, type=type_, sql=sql, native=NAMES.get(field.type_code, "unknown"),
            cursor=cursor,
        )  # fmt: skip

    def streams(self) -> Sequence[Stream]:
        with self._con.cursor() as cursor:
            cursor.execute(
                "select table_name, column_name from information_schema.key_column_usage"
                " where table_schema = database() and constraint_name = 'PRIMARY'"
                " order by table_name, ordinal_position"
            )
            keys: dict[str, list[str]] = {}
            for table, column in cursor.fetchall():
                keys.setdefault(table, []).append(column)
            cursor.execute(
                "select table_name, table_type, table_rows, data_length + index_length"
                " from information_schema.tables where table_schema = database() order by 1"
            )
            return [
                Stream(
                    name=name, kind="view" if "VIEW" in kind else "table", key=keys.get(name, ()),
                    rows=None if rows is None else int(rows),
                    bytes=None if size is None else int(size),
                )
                for name, kind, rows, size in cursor.fetchall()
            ]  # fmt: skip

    def copy(
        self, columns: Sequence[TableColumn], conditions: Sequence[str], path: Path, *, whole: bool
    ) -> int:
        shared = whole and len(self._cons) > 1 and wire.available()
        queries = [
            selected(self.relation, columns, [*conditions, *part], self.quoted)
            for part in (self._ranges() if shared else []) or [[]]
        ]
        return self._poured(queries, path)

    def large(self) -> int:
        if not self._is_table:
            return 0
        with self._con.cursor() as cursor:
            cursor.execute(
                "select data_length from information_schema.tables"
                " where table_schema = database() and table_name = %s",
                [self._name],
            )
            row = cursor.fetchone()
        size = int(row[0] or 0) if row else 0  # a view has none
        return size if size >= LARGE_BYTES else 0

    def _ranges(self) -> list[list[str]]:
        """Return conditions that cut the table into parts by its key; none where they are few."""
        column = f"t.{self.quoted(self._split)}"
        ends = [
            self.value(f"select {end}({column}) from {self.relation} t") for end in ("min", "max")
        ]
        first, last = (int(end or 0) for end in ends)
        count = len(self._cons) * RANGES
        if last - first < count:
            return []
        cuts = [first + (last - first) * number // count for number in range(1, count)]
        found = []
        for low, high in itertools.pairwise([None, *cuts, None]):
            edges = ["" if low is None else f"{column} >= {low}"]
            edges += ["" if high is None else f"{column} < {high}"]
            found.append([edge for edge in edges if edge])
        return found

    def _poured(self, queries: Sequence[str], path: Path) -> int:
        """Have every connection take queries until none is left; return the rows in all."""
        if not wire.available():
            return sum(self._copy_slowly(query, path) for query in queries)
        out = _Out(path)

        def stop() -> None:
            out.stopped = True
            for con in self._cons:  # who waits for a row waits no longer
                with contextlib.suppress(OSError, AttributeError):  # it is closed
                    con._sock.shutdown(socket.SHUT_RDWR)  # noqa: SLF001

        with contextlib.closing(out):
            return shared_out(
                queries, self._cons, lambda con, query: _rows(con, query, out.write, out.proceed),
                lambda: self.told(out.bytes), stop,
            )  # fmt: skip

    def pour(self, query: str, path: Path) -> int:
        path.touch()
        return self._poured([query], path)

    def _copy_slowly(self, query: str, path: Path) -> int:
        """Do the same where the native library was not built: a Python object a cell."""
        count = 0
        with path.open("ab") as out, pymysql.cursors.SSCursor(self._con) as cursor:
            cursor.execute(query)
            for some in chunks(cursor, ROWS_AT_ONCE):
                count += len(some)
                out.write(b"".join(b",".join(map(_cell, row)) + b"\n" for row in some))
                self.told(out.tell())
        return count

    def value(self, query: str) -> str | None:
        with self._con.cursor() as cursor:
            cursor.execute(query)
            row = cursor.fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def literal(self, column: TableColumn, text: str) -> str:
        if column.cursor == "number":
            return f"{number_of(column, text):f}"
        moment = moment_of(column, text)
        if column.cursor == "day":
            return f"date'{moment.date()}'"
        return f"timestamp'{moment.isoformat(' ')}'"

    def before(self, column: TableColumn, text: str, overlap: int) -> str:
        if not overlap:
            return self.literal(column, text)
        if column.cursor == "number":
            return f"{number_of(column, text) - overlap:f}"
        unit = f"{overlap} second" if column.cursor == "moment" else f"{-(-overlap // 86_400)} day"
        return f"({self.literal(column, text)} - interval {unit})"


def _rows(
    con: Connection, query: str, write: Callable[[Any], Any], told: Callable[[], None]
) -> int:
    """Write the rows of a query as CSV, whole ones at once; return how many they are."""

    def some(size: int) -> bytes:
        found: bytes = con._rfile.read1(size)  # noqa: SLF001
        if not found:
            raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, "the connection was cut")
        return found

    con.query(query, unbuffered=True)
    result = con._result  # noqa: SLF001  # pymysql would make Python of every cell
    rows = wire.MysqlRows(result.field_count, some)
    try:
        ended = rows.pour(write, told)
    finally:  # or it would read what is left when it is forgotten
        result.unbuffered_active, con._result = False, None  # noqa: SLF001
    if not ended:
        _raise(rows.left)
    return rows.records


def _cell(value: str | bytes | None) -> bytes:
    """Write a cell of CSV: nothing for NULL, an empty text in quotes."""
    if value is None:
        return b""
    text = value.encode() if isinstance(value, str) else value
    if text and not any(sign in text for sign in b',"\r\n'):
        return text
    return b'"' + text.replace(b'"', b'""') + b'"'


def _typed(field: Any, column: str) -> tuple[str, str, CursorKind | None]:
    """Return our type of a column, SQL of its text, and what it is as a cursor."""
    code, unsigned = field.type_code, bool(field.flags & UNSIGNED)
    if code in (FIELD_TYPE.NEWDECIMAL, FIELD_TYPE.DECIMAL):
        precision = field.length - (field.scale > 0) - (not unsigned)
        fits = precision <= PRECISION_MAX
        return f"decimal({precision},{field.scale})" if fits else "string", column, "number"
    if code == FIELD_TYPE.LONGLONG and unsigned:
        return "decimal(20,0)", column, "number"
    if code in TEXTS and field.charsetnr == BINARY:
        return "string", f"replace(to_base64({column}), '\\n', '')", None
    type_, sql, cursor = PLAIN.get(code, ("string", "{}", None))
    return type_, sql.format(column), cursor


def _raise(packet: bytes) -> None:
    """Raise what an error packet says."""
    code = int.from_bytes(packet[5:7], "little")
    text = packet[7:].removeprefix(b"#")[5:] if packet[7:8] == b"#" else packet[7:]
    raise pymysql.err.OperationalError(code, text.decode(errors="replace"))
