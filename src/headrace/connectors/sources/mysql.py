"""A table, view or query of MySQL or MariaDB, read as it comes from the wire in one snapshot."""

import re
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import pymysql
from pymysql.constants import CLIENT, CR, ER, FIELD_TYPE

from headrace.connectors.families.table_source import (
    Snapshot,
    TableConfig,
    TableSource,
    moment_of,
    number_of,
    selected,
)
from headrace.contract.canonical import MYSQL
from headrace.contract.side import CursorKind, TableColumn
from headrace.contract.source import SourceMaker, Stream
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Misconfigured, Refused, Unavailable
from headrace.domain.secret import Secret
from headrace.native import wire

CONNECT_S: Final = 10
ROWS_AT_ONCE: Final = 5_000
SILENT_S: Final = 600  # a query may work for long before its first row
BINARY: Final = 63  # the charset of bytes
PRECISION_MAX: Final = 38
MODES: Final = ("disabled", "preferred", "required", "verify-identity")
REFUSALS: Final = frozenset(
    {
        ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR, ER.NO_SUCH_TABLE,
        ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR,
    }
)  # fmt: skip
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

Connection = Any  # pymysql's, whose types nobody wrote down


class MysqlConfig(TableConfig, frozen=True, kw_only=True):
    """What a user fills in for a table of MySQL or MariaDB."""

    url: Annotated[
        Secret,
        msgspec.Meta(
            title="URL",
            description="mysql://user:password@host/database?ssl-mode=verify-identity",
        ),
    ]


class Mysql(TableSource):
    """One table, view or query."""

    spec: ClassVar[Spec] = Spec(
        name="mysql", title="MySQL, MariaDB", config=MysqlConfig, ranges=True, deletes=True,
    )  # fmt: skip
    _config: MysqlConfig

    @contextmanager
    def _snapshot(self, threads: int) -> Iterator[Snapshot]:
        with _told():
            con = _connect(self._config.url, self._tools)
            try:
                for statement in (
                    "set session transaction isolation level repeatable read",
                    "set session time_zone = '+00:00'",
                    f"set session net_write_timeout = {SILENT_S}",
                    "start transaction with consistent snapshot, read only",
                ):
                    con.query(statement)
                yield _Snapshot(con, self._config, self._tools)
            finally:
                con._force_close()  # noqa: SLF001  # the rows that still come are nobody's


class _Snapshot:
    """One connection in a transaction."""

    def __init__(self, con: Connection, config: MysqlConfig, tools: Tools) -> None:
        self.relation = f"({config.query})" if config.query else self.quoted(config.table)
        self.dialect = MYSQL
        self._con = con
        self._name = config.table or "query"
        self._is_table = bool(config.table)
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


def _connect(url: Secret, tools: Tools) -> Connection:
    """Connect past the guard. Raises Misconfigured, Denied, and what `_told` translates."""
    parts = urlsplit(url.reveal())
    database = unquote(parts.path.removeprefix("/"))
    mode = parse_qs(parts.query).get("ssl-mode", ["preferred"])[0].lower().replace("_", "-")
    if not re.fullmatch(r"(mysql|mariadb)(\+\w+)?", parts.scheme) or not parts.hostname:
        raise Misconfigured("input.url is not a MySQL URL.", field="input.url")
    if not database:
        raise Misconfigured("input.url names no database.", field="input.url")
    if mode not in MODES:
        raise Misconfigured(
            f"ssl-mode {mode!r} is not one of {', '.join(MODES)}.", field="input.url"
        )
    if mode == "preferred":
        try:
            return _dialled(parts, database, tools, _context(verify=False))
        except pymysql.err.OperationalError as error:
            if "SSL" not in str(error):
                raise
            return _dialled(parts, database, tools, None)
    context = None if mode == "disabled" else _context(verify=mode == "verify-identity")
    return _dialled(parts, database, tools, context)


def _context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _dialled(
    parts: Any, database: str, tools: Tools, context: ssl.SSLContext | None
) -> Connection:  # Any: a split URL
    port = parts.port or 3306
    address = tools.guard_host(parts.hostname, port)
    con = pymysql.connections.Connection(
        host=parts.hostname, port=port, user=unquote(parts.username or ""),
        password=unquote(parts.password or "").encode(), database=database, charset="utf8mb4",
        read_timeout=SILENT_S, write_timeout=CONNECT_S, defer_connect=True, conv={},
        ssl=context, ssl_disabled=context is None, program_name="headrace",
        client_flag=CLIENT.FOUND_ROWS, autocommit=None,
    )  # fmt: skip
    sock = socket.create_connection((address, port), CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    con.connect(sock)
    return con


def _raise(packet: bytes) -> None:
    """Raise what an error packet says."""
    code = int.from_bytes(packet[5:7], "little")
    text = packet[7:].removeprefix(b"#")[5:] if packet[7:8] == b"#" else packet[7:]
    raise pymysql.err.OperationalError(code, text.decode(errors="replace"))


@contextmanager
def _told() -> Iterator[None]:
    """Translate what the driver says."""
    try:
        yield
    except HeadraceError:
        raise
    except pymysql.err.MySQLError as error:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[-1])[:300] if error.args else "no answer"
        if code in REFUSALS:
            raise Refused(f"MySQL refused: {text}", field="input.url") from error
        if isinstance(error, pymysql.err.OperationalError) and code >= CR.CR_ERROR_FIRST:
            raise Unavailable(f"MySQL does not answer: {text}", end="source") from error
        raise Refused(f"MySQL refused: {text}") from error
    except OSError as error:
        raise Unavailable(f"MySQL does not answer: {error}", end="source") from error
    except ValueError as error:
        raise Unavailable(f"MySQL: {error}", end="source") from error


CONNECTOR: Final[SourceMaker] = Mysql  # type: ignore[assignment]  # its config is narrower
