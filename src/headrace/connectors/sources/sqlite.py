"""A table, view or query of a SQLite file.

SQLite's columns hold values of any type: declared types say what is expected, and a value that is
none is rejected like any other. Columns whose declaration tells nothing are typed by a sample.
"""

import base64
import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, ClassVar, Final
from urllib.parse import quote

import msgspec

from headrace.connectors.families import files, sqlite
from headrace.connectors.families.table_source import (
    Snapshot,
    TableConfig,
    TableSource,
    moment_of,
    number_of,
    selected,
)
from headrace.contract.chunks import chunks
from headrace.contract.columns import decimal_of, literal, quoted
from headrace.contract.side import TableColumn
from headrace.contract.source import SourceMaker, Stream
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Refused

ROWS_AT_ONCE: Final = 5_000
STEPS: Final = 1_000_000  # of SQLite's machine between two looks at whether to stop
BUSY_S: Final = 10.0
FUNCTIONS: Final = (  # SQLite's own text of a double is not exact
    ("headrace_base64", 1, base64.b64encode),
    ("headrace_real", 1, repr),
    ("headrace_decimal", 2, lambda value, scale: f"{value:.{scale}f}"),
)


class SqliteConfig(TableConfig, frozen=True, kw_only=True):
    """What a user fills in for a table of a SQLite file."""

    path: Annotated[str, msgspec.Meta(min_length=1, title="File")]


class Sqlite(TableSource):
    """One table, view or query."""

    spec: ClassVar[Spec] = Spec(
        name="sqlite", title="SQLite file", config=SqliteConfig, ranges=True, deletes=True,
    )  # fmt: skip
    _config: SqliteConfig

    @contextmanager
    def _snapshot(self, threads: int) -> Iterator[Snapshot]:
        path = files.one_file(self._config.path, self._tools)
        url = f"file:{quote(str(path))}?mode=ro"
        stopped: list[HeadraceError] = []
        with sqlite.told(f"SQLite file {path.name}"):
            con = sqlite3.connect(url, uri=True, timeout=BUSY_S, isolation_level=None)
        with closing(con):
            try:
                with sqlite.told(f"SQLite file {path.name}"):
                    con.text_factory = bytes
                    con.set_authorizer(_reads_only)
                    con.set_progress_handler(lambda: self._goes_on(stopped), STEPS)
                    for name, count, function in FUNCTIONS:
                        con.create_function(name, count, function, deterministic=True)
                    con.execute("begin")
                    yield _Snapshot(con, self._config, self._name, self._tools)
            except Refused:
                if stopped:
                    raise stopped[0] from None
                raise

    def _goes_on(self, stopped: list[HeadraceError]) -> int:
        """Tell SQLite to go on (0), or to end because the run was cancelled."""
        try:
            self._tools.told("")
        except HeadraceError as error:
            stopped.append(error)
            return 1
        return 0


class _Snapshot:
    """One connection in a transaction."""

    def __init__(
        self, con: sqlite3.Connection, config: SqliteConfig, name: str, tools: Tools
    ) -> None:
        self.relation = f"({config.query})" if config.query else quoted(config.table)
        self.dialect = None  # it knows no digest
        self._con = con
        self._table = config.table
        self._name = name
        self._tools = tools

    def quoted(self, name: str) -> str:
        return quoted(name)

    def columns(self) -> Sequence[TableColumn]:
        if self._table:
            there = self._con.execute(
                "select 1 from sqlite_master where name = ? and type in ('table', 'view')",
                [self._table],
            ).fetchone()
            if not there:
                raise Refused(
                    f"There is no table {self._name}.", hint="Check its name.", field="input.table"
                )
        found = self._con.execute(f"select * from {self.relation} as t limit 0")
        names = [column[0] for column in found.description]
        declared: dict[str, str] = {}
        if self._table:
            rows = self._con.execute(f"pragma table_xinfo({quoted(self._table)})").fetchall()
            declared = {row[1].decode(): row[2].decode().upper() for row in rows}
        return [_column(name, declared.get(name, "")) for name in names]

    def streams(self) -> Sequence[Stream]:
        found = self._con.execute(
            "select name, type from sqlite_master where type in ('table', 'view')"
            " and name not like 'sqlite\\_%' escape '\\' order by 1"
        ).fetchall()
        return [self._stream(name.decode(), kind.decode()) for name, kind in found]

    def _stream(self, name: str, kind: str) -> Stream:
        rows = self._con.execute(f"pragma table_info({quoted(name)})").fetchall()
        key = [row[1].decode() for row in sorted(rows, key=lambda row: row[5]) if row[5]]
        count = None
        if kind == "table":
            with contextlib.suppress(sqlite3.OperationalError):  # a table without row ids
                [(count,)] = self._con.execute(f"select max(rowid) from {quoted(name)}").fetchall()
                count = count or 0
        return Stream(name=name, kind=kind, key=key, rows=count)

    def copy(
        self, columns: Sequence[TableColumn], conditions: Sequence[str], path: Path, *, whole: bool
    ) -> int:
        line = " || ',' || ".join(f"r.{quoted(one.name)}" for one in columns)
        query = selected(self.relation, columns, conditions, quoted)
        rows = 0
        with path.open("ab") as out:
            cursor = self._con.execute(f"select {line} || char(10) from ({query}) as r")
            for some in chunks(cursor, ROWS_AT_ONCE):
                rows += len(some)
                out.write(b"".join(row[0] for row in some))
                self._tools.told(f"reading {self._name}", done=rows)
        return rows

    def pour(self, query: str, path: Path) -> int:
        raise NotImplementedError  # nobody asks without a dialect

    def value(self, query: str) -> str | None:
        found = self._con.execute(query).fetchone()[0]
        return found.decode() if isinstance(found, bytes) else None if found is None else str(found)

    def literal(self, column: TableColumn, text: str) -> str:
        if column.cursor == "number":
            return f"{number_of(column, text):f}"
        moment = moment_of(column, text)
        # Compared as text: so it must be written as the values there are.
        there = self.value(f"select max({quoted(column.name)}) from {self.relation}") or ""
        if column.cursor == "moment" and ("T" in text) != ("T" in there):
            text = moment.isoformat("T" if "T" in there else " ")
        return literal(text)

    def before(self, column: TableColumn, text: str, overlap: int) -> str:
        if not overlap:
            return self.literal(column, text)
        if column.cursor == "number":
            return f"{number_of(column, text) - overlap:f}"
        how = "date" if column.cursor == "day" else "datetime"
        return f"{how}({self.literal(column, text)}, '-{overlap} seconds')"


def _column(name: str, declared: str) -> TableColumn:
    type_, cursor = sqlite.ours(declared)
    value = f"t.{quoted(name)}"
    real = f"headrace_real({value})"
    if size := decimal_of(type_):
        real = f"headrace_decimal({value}, {size[1]})"
    whole = value
    if type_ == "boolean":
        whole = f"case {value} when 1 then 'true' when 0 then 'false' else {value} end"
    text = f"""'"' || replace({value}, '"', '""') || '"'"""
    sql = (
        f"case typeof({value}) when 'null' then '' when 'text' then {text}"
        f" when 'blob' then headrace_base64({value}) when 'real' then {real} else {whole} end"
    )
    return TableColumn(
        name=name, type=type_, sql=sql, native=declared or "without a type", cursor=cursor
    )


def _reads_only(action: int, *_: object) -> int:
    """Let a query read, and nothing else: no other file is attached."""
    able = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    more = (sqlite3.SQLITE_TRANSACTION, sqlite3.SQLITE_PRAGMA, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in (*able, *more) else sqlite3.SQLITE_DENY


CONNECTOR: Final[SourceMaker] = Sqlite  # type: ignore[assignment]  # its config is narrower
