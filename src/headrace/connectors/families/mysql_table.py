"""A table, view or query of MySQL or MariaDB, read as it comes from the wire in one snapshot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pymysql
from pymysql.constants import CR, ER, FIELD_TYPE

from headrace.connectors.families.mysql import Connection
from headrace.connectors.families.table_source import moment_of, number_of, selected
from headrace.contract.canonical import MYSQL
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


class MysqlSnapshot:
    """One connection in a transaction."""

    def __init__(self, con: Connection, table: str, query: str, tools: Tools) -> None:
        """`query`: instead of a table."""
        self.relation = f"({query})" if query else self.quoted(table)
        self.dialect = MYSQL
        self._con = con
        self._name = table or "query"
        self._is_table = bool(table)
        self._tools = tools

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

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
        return self.pour(selected(self.relation, columns, conditions, self.quoted), path)

    def pour(self, query: str, path: Path) -> int:
        if not wire.available():
            return self._copy_slowly(query, path)
        self._con.query(query, unbuffered=True)
        result = self._con._result  # noqa: SLF001  # pymysql would make Python of every cell
        rows = wire.MysqlRows(result.field_count, self._some)
        try:
            with path.open("ab") as out:
                ended = rows.pour(
                    out.write, lambda: self._tools.told(f"reading {self._name}", done=out.tell())
                )
        finally:  # or it would read what is left when it is forgotten
            result.unbuffered_active, self._con._result = False, None  # noqa: SLF001
        if not ended:
            _raise(rows.left)
        return rows.records

    def _copy_slowly(self, query: str, path: Path) -> int:
        """Do the same where the native library was not built: a Python object a cell."""
        count = 0
        with path.open("ab") as out, pymysql.cursors.SSCursor(self._con) as cursor:
            cursor.execute(query)
            while some := cursor.fetchmany(ROWS_AT_ONCE):
                count += len(some)
                out.write(b"".join(b",".join(map(_cell, row)) + b"\n" for row in some))
                self._tools.told(f"reading {self._name}", done=out.tell())
        return count

    def _some(self, size: int) -> bytes:
        found: bytes = self._con._rfile.read1(size)  # noqa: SLF001
        if not found:
            raise pymysql.err.OperationalError(CR.CR_SERVER_LOST, "the connection was cut")
        return found

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
