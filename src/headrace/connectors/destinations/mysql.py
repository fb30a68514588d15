"""Tables in MySQL or MariaDB.

Their tables are made and changed outside of transactions, so a table that is new is there, empty,
a moment before its rows. A replace renames, outside of a transaction: see PortableLoad._renamed.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, ClassVar, Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import mysql as types

from headrace.connectors.families import mysql, sql
from headrace.connectors.families.mysql_table import MysqlSnapshot
from headrace.connectors.families.portable import (
    INDEX,
    KEY_CHARACTERS,
    Dialect,
    PortableDestination,
)
from headrace.connectors.families.table_source import side_of
from headrace.contract.chunks import VECTOR_ROWS
from headrace.contract.columns import Column, decimal_of, quoted
from headrace.contract.destination import DestinationMaker, Rows
from headrace.contract.side import Side
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import NotFound, Refused
from headrace.domain.secret import Secret
from headrace.domain.task import OF_TASKS
from headrace.observe import faults

STATEMENT_BYTES: Final = 4 << 20  # of an INSERT, where the server takes as much
MODE: Final = "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE"
NO_PADDING_SINCE: Final = (8, 0, 17)  # MySQL's collation that tells all texts apart


class MysqlConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for MySQL or MariaDB."""

    url: Annotated[
        Secret,
        msgspec.Meta(
            title="URL",
            description="mysql://user:password@host/database?ssl-mode=verify-identity",
        ),
    ]
    table: str | None = None


class _Mysql(Dialect):
    grammar = sql.MYSQL
    json_is_text = False
    renames_outside = True

    def __init__(self) -> None:
        self.collation = "utf8mb4_bin"
        self.is_mariadb = False

    def _text(self, length: int | None) -> sa.types.TypeEngine[Any]:
        kind = types.VARCHAR(length, charset="utf8mb4", collation=self.collation)
        return kind if length else types.LONGTEXT(charset="utf8mb4", collation=self.collation)

    def type_of(self, type_: str, *, of_key: bool) -> sa.types.TypeEngine[Any]:
        own: dict[str, Any] = {
            "string": lambda: self._text(KEY_CHARACTERS if of_key else None),
            "float": types.DOUBLE, "json": types.JSON, "time": lambda: types.TIME(fsp=6),
            "timestamp": lambda: types.DATETIME(fsp=6),
        }  # fmt: skip
        return own[type_]() if type_ in own else super().type_of(type_, of_key=of_key)

    def text_type(self) -> sa.types.TypeEngine[Any]:
        return self._text(None)

    def name_type(self, length: int) -> sa.types.TypeEngine[Any]:
        return self._text(length)

    def columns(self, con: sa.Connection, table: str) -> list[Column]:
        rows = con.exec_driver_sql(
            "select column_name, column_type from information_schema.columns"
            " where table_schema = database() and table_name = %s order by ordinal_position",
            (table,),
        ).fetchall()
        json: set[str] = set()
        if self.is_mariadb:  # to which a JSON is a text with a check of the column's name
            checks = con.exec_driver_sql(
                "select constraint_name from information_schema.check_constraints"
                " where constraint_schema = database() and table_name = %s"
                " and check_clause like 'json_valid(%%'",
                (table,),
            )
            json = set(checks.scalars())
        return [
            Column(name, "json" if name in json else _ours(str(type_).lower()))
            for name, type_ in rows
        ]

    def feed(self, con: sa.Connection, stage: sa.Table, rows: Rows) -> int:
        given = {column.name: column.type for column in rows.columns}
        names = [column.name for column in stage.columns]
        parts = ", ',', ".join(_value(name, given.get(name, "string")) for name in names)
        found = rows.con.execute(f"select concat('(', {parts}, ')') from ({rows.sql})")
        [(packet,)] = con.exec_driver_sql("select @@max_allowed_packet").fetchall()
        driver: Any = con.connection.driver_connection
        head = f"insert into {quoted(stage.name)} ({', '.join(map(quoted, names))}) values "
        landed = 0
        reader = found.to_arrow_reader(VECTOR_ROWS)
        for values in _statements(reader, min(packet // 2, STATEMENT_BYTES)):
            if len(values) + len(head.encode()) >= packet:
                raise Refused(
                    f"A row has {len(values):,} bytes; the server takes {packet:,} at once.",
                    hint="Raise max_allowed_packet.",
                )
            landed += driver.query(head.encode() + values)
            faults.reach("child.half_staged")
        return landed

    def has_attribute(self, name: str) -> str:
        text = name.replace("'", "''")
        return f"json_contains(s.__headrace_attributes, json_quote('{text}'))"

    def widen(self, con: sa.Connection, table: str, columns: Sequence[Column]) -> None:
        for column in columns:
            type_ = self.type_of(column.type, of_key=False).compile(con.dialect)
            con.exec_driver_sql(f"alter table {quoted(table)} modify {quoted(column.name)} {type_}")

    def stays(self, con: sa.Connection, table: str) -> bool:
        found = sa.inspect(con)
        own = (one["name"] or "" for one in found.get_indexes(table))
        return bool(
            [name for name in own if not name.startswith(INDEX)]
            or found.get_foreign_keys(table)
            or found.get_pk_constraint(table)["constrained_columns"]
            or found.get_table_comment(table)["text"]
            or self.in_place(con, table)
        )

    def in_place(self, con: sa.Connection, table: str) -> bool:
        found = con.exec_driver_sql(
            "select (select count(*) from information_schema.key_column_usage where"
            " referenced_table_schema = database() and referenced_table_name = %s)"
            " + (select count(*) from information_schema.triggers where"
            " event_object_schema = database() and event_object_table = %s)", (table, table),
        ).scalar()  # fmt: skip
        return bool(found)


def mysql_type(type_: str) -> str:
    """Return what MySQL calls a column of our type."""
    made = _Mysql().type_of(type_, of_key=False)
    return made.compile(types.dialect()).partition(" CHARACTER")[0]


def _ours(type_: str) -> str:
    """Return our type of a column's."""
    if type_.startswith("tinyint(1)"):
        return "boolean"
    base = type_.partition("(")[0].partition(" ")[0]
    if base == "decimal":
        return type_.partition(" ")[0]
    if base.endswith("int"):
        return "decimal(20,0)" if base == "bigint" and "unsigned" in type_ else "integer"
    if base.endswith(("text", "char")) or base in ("enum", "set"):
        return "string"
    same = {
        "double": "float", "float": "float", "json": "json", "date": "date", "time": "time",
        "datetime": "timestamp", "timestamp": "timestamp", "uuid": "string",
    }  # fmt: skip
    return same.get(base, f"native:{type_}")


def _value(name: str, type_: str) -> str:
    """Return SQL of DuckDB of a value as it is written in a statement of MySQL."""
    column = quoted(name)
    text = f"{column}::varchar"
    if type_ == "float":
        text = (
            f"case when isfinite({column}) then {text} else error('The column {_said(name)} holds"
            f" ' || {text} || ', which MySQL has no number for.') end"
        )
    elif type_ == "boolean":
        text = f"case when {column} then '1' else '0' end"
    elif type_ != "integer" and not decimal_of(type_):
        text = f"'''' || replace({text}, '''', '''''') || ''''"
    return f"case when {column} is null then 'NULL' else {text} end"


def _said(name: str) -> str:
    return name.replace("'", "''")


def _statements(reader: Any, bytes_max: int) -> Iterator[bytes]:
    """Yield the values of an INSERT each: rows with commas between, of about so many bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in reader:
        column = batch.column(0)
        parts = max(1, -(-column.nbytes // bytes_max))
        size = max(1, -(-len(column) // parts))
        for start in range(0, len(column), size):
            some = column.slice(start, size).cast(pa.large_string())
            whole = pa.LargeListArray.from_arrays([0, len(some)], some)
            yield (
                pc.binary_join(whole, pa.scalar(",", pa.large_string()))[0].as_buffer().to_pybytes()
            )


class Mysql(PortableDestination):
    """One database."""

    dialect: _Mysql

    spec: ClassVar[Spec] = Spec(
        name="mysql", title="MySQL, MariaDB", config=MysqlConfig, actions=OF_TASKS, deletes=True,
        verifies=True,
    )  # fmt: skip

    def __init__(self, config: MysqlConfig, tools: Tools) -> None:
        super().__init__(config, tools)
        self.dialect = _Mysql()
        self._engine = sa.create_engine(
            "mysql+pymysql://", creator=self._opened, poolclass=sa.NullPool,
            isolation_level="SERIALIZABLE",
        )  # fmt: skip

    def _opened(self) -> mysql.Connection:
        con = mysql.connect(self._config.url, self._tools, converts=True)
        con.query(f"set session sql_mode = '{MODE}', time_zone = '+00:00'")
        version = con.get_server_info()
        if "mariadb" in version.lower():
            self.dialect.is_mariadb = True
            self.dialect.collation = "utf8mb4_nopad_bin"
        elif tuple(map(int, version.partition("-")[0].split("."))) >= NO_PADDING_SINCE:
            self.dialect.collation = "utf8mb4_0900_bin"
        return con

    def told(self) -> AbstractContextManager[None]:
        return _told(super().told())

    @contextmanager
    def side(self, table: str) -> Iterator[Side]:
        with self.told(), self._engine.connect() as con:
            if not sa.inspect(con).has_table(table):
                raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
        with mysql.told("destination"):
            plain = mysql.connect(self._config.url, self._tools)
            try:
                plain.query("set session time_zone = '+00:00'")
                plain.query("start transaction with consistent snapshot, read only")
                yield side_of(MysqlSnapshot([plain], table, "", self._tools))
            finally:
                plain._force_close()  # noqa: SLF001  # the rows that still come are nobody's


@contextmanager
def _told(usual: AbstractContextManager[None]) -> Iterator[None]:
    with mysql.told("destination"), usual:
        yield


CONNECTOR: Final[DestinationMaker] = Mysql  # type: ignore[assignment]  # narrower config
