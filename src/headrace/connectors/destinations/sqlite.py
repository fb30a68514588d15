"""Tables in a SQLite file.

Values keep what they are where SQLite has a type for it: a decimal of more than 15 digits is kept
as text, because SQLite's own numbers are doubles.
"""

import sqlite3
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final

import msgspec
import sqlalchemy as sa

from headrace.connectors.families import sqlite
from headrace.connectors.families.portable import INDEX, Dialect, PortableDestination
from headrace.contract.chunks import chunks
from headrace.contract.columns import Column, decimal_of, quoted
from headrace.contract.destination import DestinationMaker, Page, Rows
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured, Refused
from headrace.domain.task import OF_TASKS
from headrace.observe import faults

ROWS_AT_ONCE: Final = 10_000
BUSY_S: Final = 60.0


class SqliteConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for a SQLite file."""

    path: Annotated[
        str, msgspec.Meta(min_length=1, title="File", description="Made when it is not there.")
    ]
    table: str | None = None


class _Declared(sa.types.UserDefinedType[Any]):
    """A type that SQLite knows by its declaration only."""

    cache_ok = True

    def __init__(self, declared: str) -> None:
        self.declared = declared

    def get_col_spec(self, **_: Any) -> str:
        return self.declared


class _Sqlite(Dialect):
    schema_in_transaction = True
    renames = True
    long_keys = True
    json_is_text = False

    def type_of(self, type_: str, *, of_key: bool) -> sa.types.TypeEngine[Any]:
        if not (declared := sqlite.declared(type_)):
            raise Misconfigured(f"SQLite has no column type for {type_}.", hint="Map it to json.")
        return _Declared(declared)

    def columns(self, con: sa.Connection, table: str) -> list[Column]:
        found = con.exec_driver_sql(f"pragma table_info({quoted(table)})").fetchall()
        return [Column(row[1], sqlite.ours(row[2].upper())[0]) for row in found]

    def feed(self, con: sa.Connection, stage: sa.Table, rows: Rows) -> int:
        types = {column.name: column.type for column in rows.columns}
        names = [column.name for column in stage.columns]
        items = ", ".join(_value(name, types.get(name, "string")) for name in names)
        found = rows.con.execute(f"select {items} from ({rows.sql})")
        marks = ", ".join("?" * len(names))
        insert = f"insert into {quoted(stage.name)} values ({marks})"
        cursor: sqlite3.Cursor = con.connection.cursor()  # type: ignore[assignment]  # the driver's
        landed = 0
        for some in chunks(found, ROWS_AT_ONCE):
            cursor.executemany(insert, some)
            landed += cursor.rowcount
            faults.reach("child.half_staged")
        return landed

    def has_attribute(self, name: str) -> str:
        text = name.replace("'", "''")
        return f"exists (select 1 from json_each(s.__headrace_attributes) where value = '{text}')"

    def widen(self, con: sa.Connection, table: str, columns: Sequence[Column]) -> None:
        """Make the table anew: SQLite changes no column's type."""
        if self.stays(con, table):
            raise Refused(
                f"The column {columns[0].name!r} of {table!r} would have to become"
                f" {columns[0].type}: SQLite makes the table anew for that, and indexes, triggers"
                " or keys hang on it.",
                hint="Map the column to the table's type, or remove them.",
                field=f"input.mapping.{columns[0].name}",
            )
        wider = {column.name.casefold(): column.type for column in columns}
        there = con.exec_driver_sql(f"pragma table_info({quoted(table)})").fetchall()
        defined, values = [], []
        for _, name, declared, *_ in there:
            new = wider.get(name.casefold())
            defined.append(f"{quoted(name)} {sqlite.declared(new) if new else declared}")
            values.append(sqlite.widened(quoted(name), declared.upper(), new))
        fresh = quoted(f"__headrace_wide_{table}")
        for statement in (
            f"create table {fresh} ({', '.join(defined)})",
            f"insert into {fresh} select {', '.join(values)} from {quoted(table)} order by rowid",
            f"drop table {quoted(table)}", f"alter table {fresh} rename to {quoted(table)}",
        ):  # fmt: skip
            con.exec_driver_sql(statement)

    def stays(self, con: sa.Connection, table: str) -> bool:
        hangs = con.exec_driver_sql(
            "select count(*) from sqlite_master where lower(tbl_name) = lower(?)"
            f" and type in ('index', 'trigger') and name not like '{INDEX}%'", (table,),
        ).scalar()  # fmt: skip
        return bool(hangs) or super().stays(con, table)


def _value(name: str, type_: str) -> str:
    """Return SQL of DuckDB of a value as SQLite keeps it."""
    column = quoted(name)
    if size := decimal_of(type_):
        return f"{column}::double" if size[0] <= sqlite.EXACT_DIGITS else f"{column}::varchar"
    if type_ == "boolean":
        return f"{column}::integer"
    return column if type_ in ("integer", "float", "string") else f"{column}::varchar"


class Sqlite(PortableDestination):
    """One SQLite file."""

    spec: ClassVar[Spec] = Spec(
        name="sqlite", title="SQLite file", config=SqliteConfig, actions=OF_TASKS, local=True,
        deletes=True,
    )  # fmt: skip
    dialect = _Sqlite()

    def __init__(self, config: SqliteConfig, tools: Tools) -> None:
        super().__init__(config, tools)
        self._path = tools.allowed_target(config.path)
        self._engine = sa.create_engine(
            "sqlite://", creator=self._opened, poolclass=sa.NullPool, json_serializer=None
        )
        # The driver would begin transactions by itself, and not before a table is made.
        sa.event.listen(self._engine, "begin", lambda con: con.exec_driver_sql("begin immediate"))

    def _opened(self) -> sqlite3.Connection:
        con = sqlite3.connect(
            self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
        )
        con.execute("pragma foreign_keys = on")
        return con

    def check(self) -> None:
        if not self._path.parent.is_dir():
            raise Misconfigured(f"There is no folder {self._path.parent}.", field="input.path")
        super().check()

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        """Read a page back; decimals, which are kept as doubles, with the digits they have."""
        page = super().read(table, limit, cursor)
        with self.told(), self._engine.connect() as con:
            sizes = {c.name: decimal_of(c.type) for c in self.dialect.columns(con, table)}
        scales = {name: size[1] for name, size in sizes.items() if size}
        rows = [
            {
                name: f"{value:.{scales[name]}f}"
                if name in scales and isinstance(value, float | int)
                else value
                for name, value in row.items()
            }
            for row in page.rows
        ]
        return Page(columns=page.columns, rows=rows, next=page.next)

    def exclusive(self) -> str | None:
        return f"sqlite:{self._path}"


CONNECTOR: Final[DestinationMaker] = Sqlite  # type: ignore[assignment]  # narrower config
