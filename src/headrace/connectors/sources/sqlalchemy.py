"""A table, view or query of any other database that SQLAlchemy has a driver for.

It is the slow way: drivers give an object of Python for every cell.
"""

import base64
import datetime as dt
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import msgspec
import sqlalchemy as sa

from headrace.connectors.families import alchemy
from headrace.connectors.families.table_source import (
    Snapshot,
    TableConfig,
    TableSource,
    moment_of,
    number_of,
    selected,
)
from headrace.contract.chunks import FEW, chunks
from headrace.contract.columns import literal
from headrace.contract.side import CursorKind, TableColumn
from headrace.contract.source import SourceMaker, Stream
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Refused, Unavailable
from headrace.domain.secret import Secret

ROWS_AT_ONCE: Final = 5_000
VERBATIM: Final = {"no_parameters": True}  # a percent sign in a query is what it is
TYPES: Final[tuple[tuple[type, str, CursorKind | None], ...]] = (
    (sa.Boolean, "boolean", None), (sa.Integer, "integer", "number"), (sa.Float, "float", None),
    (sa.DateTime, "timestamp", "moment"), (sa.Date, "date", "day"), (sa.Time, "time", None),
    (sa.JSON, "json", None), (sa.ARRAY, "json", None),
)  # fmt: skip


class SqlalchemyConfig(TableConfig, frozen=True, kw_only=True):
    """What a user fills in for a table of any database."""

    url: Annotated[
        Secret,
        msgspec.Meta(title="URL", description="dialect+driver://user:password@host/database"),
    ]
    schema: str | None = None


class Sqlalchemy(TableSource):
    """One table, view or query."""

    spec: ClassVar[Spec] = Spec(
        name="sqlalchemy", title="Database (SQLAlchemy)", config=SqlalchemyConfig, ranges=True,
        deletes=True,
    )  # fmt: skip
    _config: SqlalchemyConfig

    @contextmanager
    def _snapshot(self, threads: int) -> Iterator[Snapshot]:
        engine = alchemy.engine_of(self._config.url, self._tools)
        try:
            with engine.connect() as con, con.begin() as whole:
                yield _Snapshot(con, self._config, self._name, self._tools)
                whole.rollback()  # it only reads
        except sa.exc.NoSuchTableError as error:
            raise Refused(
                f"There is no table {self._name}.", hint="Check its name and its schema.",
                field="input.table",
            ) from error  # fmt: skip
        except sa.exc.DBAPIError as error:
            line = (str(error.orig).splitlines() or ["nothing"])[0][:300]
            if error.connection_invalidated or isinstance(error, sa.exc.OperationalError):
                raise Unavailable(f"The database does not answer: {line}", end="source") from error
            raise Refused(f"The database refused: {line}") from error
        finally:
            engine.dispose()


class _Snapshot:
    """One connection in one transaction."""

    dialect = None  # what it has of digests nobody knows

    def __init__(
        self, con: sa.Connection, config: SqlalchemyConfig, name: str, tools: Tools
    ) -> None:
        self._con = con
        self._config = config
        self._name = name
        self._tools = tools
        self._quote = con.dialect.identifier_preparer.quote_identifier
        schema = f"{self._quote(config.schema)}." if config.schema else ""
        table = f"{schema}{self._quote(config.table)}"
        self.relation = f"({config.query})" if config.query else table

    def quoted(self, name: str) -> str:
        return self._quote(name)

    def columns(self) -> Sequence[TableColumn]:
        if self._config.table:
            found = sa.inspect(self._con).get_columns(self._config.table, self._config.schema)
            return [self._column(str(one["name"]), one["type"]) for one in found]
        asked = self._con.exec_driver_sql(
            f"select * from {self.relation} t where 1 = 0", execution_options=VERBATIM
        )
        return [self._column(name, sa.types.NullType()) for name in list(asked.keys())]

    def _column(self, name: str, type_: sa.types.TypeEngine[Any]) -> TableColumn:
        ours, cursor = _ours(type_)
        return TableColumn(
            name=name, type=ours, sql=f"t.{self._quote(name)}", native=_named(type_), cursor=cursor
        )

    def copy(
        self, columns: Sequence[TableColumn], conditions: Sequence[str], path: Path, *, whole: bool
    ) -> int:
        return self.pour(selected(self.relation, columns, conditions, self._quote), path)

    def pour(self, query: str, path: Path) -> int:
        import pyarrow as pa
        import pyarrow.csv as arrow_csv

        plain = arrow_csv.WriteOptions(include_header=False)
        streaming = self._con.execution_options(stream_results=True, max_row_buffer=FEW, **VERBATIM)
        found = streaming.exec_driver_sql(query)
        names = [f"c{number}" for number in range(len(found.keys()))]
        schema = pa.schema([(name, pa.string()) for name in names])
        rows = 0
        with path.open("ab") as out, arrow_csv.CSVWriter(out, schema, write_options=plain) as to:
            for some in chunks(found, ROWS_AT_ONCE):
                columns = [list(map(_text, column)) for column in zip(*some, strict=True)]
                arrays = [pa.array(column, pa.string()) for column in columns]
                to.write_batch(pa.record_batch(arrays, schema=schema))
                rows += len(some)
                self._tools.told(f"reading {self._name}", done=rows)
        return rows

    def value(self, query: str) -> str | None:
        return _text(self._con.exec_driver_sql(query, execution_options=VERBATIM).scalar())

    def literal(self, column: TableColumn, text: str) -> str:
        if column.cursor == "number":
            return f"{number_of(column, text):f}"
        return self._moment(column, moment_of(column, text))

    def _moment(self, column: TableColumn, moment: dt.datetime) -> str:
        day = column.cursor == "day"
        text = literal(str(moment.date()) if day else moment.isoformat(" "))
        return (
            text
            if self._con.dialect.name == "mssql"
            else f"{'date' if day else 'timestamp'} {text}"
        )

    def before(self, column: TableColumn, text: str, overlap: int) -> str:
        if column.cursor == "number":
            return f"{number_of(column, text) - overlap:f}"
        days = -(-overlap // 86_400)
        back = dt.timedelta(days=days) if column.cursor == "day" else dt.timedelta(seconds=overlap)
        return self._moment(column, moment_of(column, text) - back)

    def streams(self) -> Sequence[Stream]:
        found, schema = sa.inspect(self._con), self._config.schema
        tables = [
            Stream(
                name=name, schema=schema or "",
                key=found.get_pk_constraint(name, schema)["constrained_columns"],
            )
            for name in found.get_table_names(schema)
        ]  # fmt: skip
        views = [
            Stream(name=name, schema=schema or "", kind="view")
            for name in found.get_view_names(schema)
        ]
        return sorted([*tables, *views], key=lambda stream: stream.name)


def _ours(type_: sa.types.TypeEngine[Any]) -> tuple[str, CursorKind | None]:
    """Return our type of a column's, and what it is as a cursor."""
    if isinstance(type_, sa.Numeric) and not isinstance(type_, sa.Float):
        precision, scale = type_.precision or 0, type_.scale or 0
        fits = 0 < precision <= 38 and 0 <= scale <= precision  # digits
        return (f"decimal({precision},{scale})" if fits else "string"), "number"
    for theirs, ours, cursor in TYPES:
        if isinstance(type_, theirs):
            return ours, cursor
    # Of a query only the values tell; whether they can be a cursor its author knows.
    return ("infer", "number") if isinstance(type_, sa.types.NullType) else ("string", None)


def _named(type_: sa.types.TypeEngine[Any]) -> str:
    try:
        return str(type_)
    except sa.exc.SQLAlchemyError:
        return type(type_).__name__


def _text(value: Any) -> str | None:
    """Return a value's text as it is read here."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value)
        case Decimal():
            return f"{value:f}"
        case dt.datetime():
            utc = value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value
            return utc.isoformat(" ")
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case dict() | list():
            return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


CONNECTOR: Final[SourceMaker] = Sqlalchemy  # type: ignore[assignment]  # its config is narrower
