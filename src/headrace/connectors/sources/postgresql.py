"""A table of PostgreSQL, read by COPY in one snapshot.

The rows come as CSV into the spool and are judged like any CSV; the server's own count of them is
what `read` says. With a cursor column a delta run reads the rows beyond the highest value that the
last committed run has seen, and of those at that edge the ones that it has not.
"""

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, ClassVar, Final

import duckdb
import msgspec
import psycopg

from headrace.connectors.families import files, postgres
from headrace.connectors.families.csv_scan import CsvForm, CsvScan, judge_names
from headrace.contract.columns import literal, quoted
from headrace.contract.source import File, Scan, SourceMaker
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured, Refused, Unchanged
from headrace.domain.run import Range
from headrace.domain.secret import Secret

SEEN_MAX: Final = 50_000  # rows at the edge that a position remembers one by one
TOLD_BYTES: Final = 8 << 20  # between two words about the progress
WHOLE: Final = ("smallint", "integer", "bigint")
SAME: Final = {  # types that are ours by another name
    "smallint": "integer", "integer": "integer", "bigint": "integer", "oid": "integer",
    "real": "float", "double precision": "float", "boolean": "boolean", "date": "date",
    "time without time zone": "time", "timestamp without time zone": "timestamp",
    "timestamp with time zone": "timestamp", "json": "json", "jsonb": "json",
}  # fmt: skip


class PostgresqlConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for a table of PostgreSQL."""

    url: Annotated[
        Secret, msgspec.Meta(title="URL", description="postgresql://user:password@host/database")
    ]
    table: Annotated[str, msgspec.Meta(min_length=1, max_length=63)]
    schema: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] = "public"
    columns: Annotated[
        list[str] | None, msgspec.Meta(description="All of them if it is left out.")
    ] = None
    cursor: Annotated[
        str | None,
        msgspec.Meta(description="A column that grows with every change: delta runs go by it."),
    ] = None
    overlap: Annotated[
        int,
        msgspec.Meta(
            ge=0, le=31_536_000,
            description="Seconds (of a moment; units of a number) before the cursor's last value"
            " in which rows may still appear late.",
        ),
    ] = 0  # fmt: skip
    mapping: dict[str, str] = msgspec.field(default_factory=dict)
    unique_id_column: str | None = msgspec.field(default=None, name="uniqueIDColumn")

    def __post_init__(self) -> None:
        files.check_mapping(self.mapping)


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    format: str  # PostgreSQL's name of its type, of a domain that of its base
    category: str
    scalar: bool

    @property
    def type(self) -> str:
        """Our type of it."""
        if self.format.startswith("numeric("):
            precision, scale = map(int, self.format[8:-1].split(","))
            fits = precision <= 38 and 0 <= scale <= precision
            return f"decimal({precision},{scale})" if fits else "string"
        base = self.format.partition("(")[0]
        if base in ("time", "timestamp"):  # of a precision: timestamp(3) with time zone
            base += self.format.rpartition(")")[2]
        return "json" if not self.scalar else SAME.get(base, "string")

    @property
    def sql(self) -> str:
        """SQL of its text."""
        name = f"t.{quoted(self.name)}"
        if self.format == "boolean":
            return f"{name}::text"
        if self.format == "bytea":
            return f"translate(encode({name}, 'base64'), E'\\n', '')"
        return name if self.scalar else f"to_json({name})::text"


@dataclass(frozen=True, slots=True)
class _Edge:
    """How far a run has read: the cursor's highest value, and the rows at it.

    `seen` are their hashes, one a row; of more than SEEN_MAX only `digest` is kept, of all of them.
    """

    column: str
    value: str
    digest: str
    seen: Sequence[int]

    def text(self) -> str:
        packed = base64.b64encode(struct.pack(f"<{len(self.seen)}q", *self.seen)).decode()
        told = {"cursor": self.column, "value": self.value, "digest": self.digest, "seen": packed}
        return json.dumps(told)

    @classmethod
    def of(cls, text: str | None, column: str) -> "_Edge | None":
        found = json.loads(text) if text else {}
        if found.get("cursor") != column:
            return None
        packed = base64.b64decode(found["seen"])
        seen = struct.unpack(f"<{len(packed) // 8}q", packed)
        return cls(column, found["value"], found["digest"], seen)


class Postgresql:
    """One table."""

    spec: ClassVar[Spec] = Spec(
        name="postgresql", title="PostgreSQL", config=PostgresqlConfig, ranges=True
    )

    def __init__(self, config: PostgresqlConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        self._table = f"{quoted(config.schema)}.{quoted(config.table)}"
        self._name = f"{config.schema}.{config.table}"

    def check(self) -> None:
        with postgres.told("source"), postgres.connect(self._config.url, self._tools) as con:
            self._columns(con)

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        with postgres.told("source"), postgres.connect(self._config.url, self._tools) as source:
            source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            source.read_only = True
            source.execute("set timezone = 'UTC'")
            source.execute("set datestyle = 'ISO'")
            source.execute("set client_encoding = 'UTF8'")
            columns = self._columns(source)
            file = self._read(source, columns)
        names = [column.name for column in columns]
        mapping = {column.name: column.type for column in columns} | self._config.mapping
        yield CsvScan([file], names, CsvForm(mapping=mapping, unmapped="string"), self._tools)

    def _columns(self, con: postgres.Connection) -> list[_Column]:
        """Return the columns to read. Raises Refused, Misconfigured."""
        found = con.execute(
            "select a.attname, format_type(b.oid, a.atttypmod), b.typcategory,"
            " b.typtype in ('b', 'e', 'r', 'm') and b.typcategory <> 'A'"
            " from pg_attribute as a join pg_type as t on t.oid = a.atttypid"
            " join pg_type as b on b.oid = case t.typtype when 'd' then t.typbasetype"
            " else t.oid end where a.attrelid = to_regclass(%s) and a.attnum > 0"
            " and not a.attisdropped order by a.attnum",
            [self._table],
        ).fetchall()
        if not found:
            raise Refused(
                f"There is no table {self._name}, or it may not be read.",
                hint="Check schema and table; names are case-sensitive.", field="input.table",
            )  # fmt: skip
        there = {row[0]: _Column(*row) for row in found}
        config = self._config
        wanted = [*(config.columns or ()), *config.mapping]
        wanted += [name for name in (config.cursor, config.unique_id_column) if name]
        for name in wanted:
            if name not in there:
                raise Misconfigured(
                    f"{self._name} has no column {name!r}.",
                    hint=f"Its columns: {', '.join(list(there)[:20])}.", field="input",
                )  # fmt: skip
        if config.cursor and _kind(there[config.cursor]) is None:
            raise Misconfigured(
                f"The column {config.cursor!r} is {there[config.cursor].format}: no cursor.",
                hint="A cursor is a whole number, a numeric, a date or a timestamp.",
                field="input.cursor",
            )
        names = config.columns if config.columns is not None else list(there)
        judge_names(names, self._name, "input.columns")
        return [there[name] for name in names]

    def _read(self, con: postgres.Connection, columns: Sequence[_Column]) -> File:
        """Copy the rows into the spool. Raises Unchanged if there is nothing new."""
        cursor = self._config.cursor
        known = self._tools.known
        items = ", ".join(f"{column.sql} as {quoted(column.name)}" for column in columns)
        query = f"select {items} from {self._table} as t"
        before = None
        if known is not None and cursor:
            before = _Edge.of(known.versions.get(self._name), cursor)
        if before is not None and known is not None:
            kind = self._kind_of(con, before.column)
            new = f"{query} where {quoted(before.column)} > {kind.value(before.value)}"
            late = self._late(con, query, before, kind)
            if known.whole:
                [(any_,)] = con.execute(f"select exists({new}) or exists({late})").fetchall()
                if not any_:
                    raise Unchanged(f"{self._name} has not changed since the last run.")
            else:
                query = f"{new} union all ({late})"
        if self._tools.range is not None:
            query, before = self._ranged(con, query, self._tools.range), None
        edge = self._edge(con, before) if cursor and self._tools.range is None else None
        path = files.new_spool_file(self._tools)
        rows = written = told = 0
        with con.cursor() as cur:
            statement = f"copy ({query}) to stdout (format csv, header true)"
            with cur.copy(statement) as copy, path.open("wb") as out:
                for data in copy:  # the driver hands out a row at a time; nobody looks at it
                    written += out.write(data)
                    if written - told > TOLD_BYTES:
                        told = written
                        self._tools.told(f"reading {self._name}", done=written)
            rows = cur.rowcount
        if before is not None and known is not None and not known.whole and not rows:
            raise Unchanged(f"{self._name} has not changed since the last run.")
        return File(
            name=self._name, path=str(path), bytes=written, known=rows,
            version=edge.text() if edge else "",
        )  # fmt: skip

    def _ranged(self, con: postgres.Connection, query: str, wanted: Range) -> str:
        """Return SQL of the rows of a back-fill."""
        if self._config.cursor is None:
            raise Misconfigured(
                "A back-fill goes by a cursor, and the source has none.",
                hint="Name a column in input.cursor.", field="input.cursor",
            )  # fmt: skip
        kind, column = self._kind_of(con, self._config.cursor), quoted(self._config.cursor)
        query += f" where {column} >= {kind.value(wanted.since)}"
        return (
            query if wanted.until is None else f"{query} and {column} < {kind.value(wanted.until)}"
        )

    def _kind_of(self, con: postgres.Connection, name: str) -> "_Kind":
        [(format_,)] = con.execute(
            "select format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = to_regclass(%s) and attname = %s",
            [self._table, name],
        ).fetchall()
        kind = _kind(_Column(name, format_, "", scalar=True))
        assert kind is not None  # it was looked at
        return kind

    def _window(self, at: str, kind: "_Kind") -> str:
        """Return SQL of the rows around the edge: those at it, and as far before as may be late."""
        column = quoted(self._config.cursor or "")
        low = kind.before(at, self._config.overlap)
        return (
            f"select t.*, hashtextextended(t::text, 0) as __headrace_hash from {self._table} as t"
            f" where {column} between {low} and {kind.value(at)}"
        )

    def _late(self, con: postgres.Connection, query: str, before: _Edge, kind: "_Kind") -> str:
        """Return SQL of the rows at the edge that the last run has not read.

        Raises Misconfigured where nobody can tell which ones those are.
        """
        window = self._window(before.value, kind)
        numbered = (
            "select w.*, row_number() over (partition by __headrace_hash) as __headrace_place"
            f" from ({window}) as w"
        )
        rows = query.replace(f"from {self._table} as t", f"from ({numbered}) as t", 1)
        if before.seen:
            seen = f"unnest('{{{','.join(map(str, before.seen))}}}'::bigint[]) as hash"
            return (
                f"{rows} left join (select hash, count(*) as rows from {seen} group by 1) as seen"
                " on seen.hash = t.__headrace_hash"
                " where t.__headrace_place > coalesce(seen.rows, 0)"
            )
        if self._digest(con, window) == before.digest:
            return f"{rows} where false"
        if self._tools.repeatable:
            return rows
        raise Misconfigured(
            f"Rows have come to more than {SEEN_MAX:,} that the cursor's last value is of:"
            " without a key nobody can tell which are new.",
            hint="Choose a finer cursor, or load with a key.", field="input.cursor",
        )  # fmt: skip

    @staticmethod
    def _digest(con: postgres.Connection, window: str) -> str:
        """Return what changes when any row of a window does."""
        [(rows, sum_)] = con.execute(
            f"select count(*), coalesce(sum(__headrace_hash::numeric), 0) from ({window}) as w"
        ).fetchall()
        return f"{rows} {sum_}"

    def _edge(self, con: postgres.Connection, before: _Edge | None) -> _Edge | None:
        """Return how far this snapshot goes; None where no row has a cursor."""
        column = self._config.cursor or ""
        kind = self._kind_of(con, column)
        [(high,)] = con.execute(f"select max({quoted(column)})::text from {self._table}").fetchall()
        if high is None:
            return before
        window = self._window(high, kind)
        seen = con.execute(
            f"select __headrace_hash from ({window}) as w limit {SEEN_MAX + 1}"
        ).fetchall()
        hashes = [row[0] for row in seen] if len(seen) <= SEEN_MAX else []
        return _Edge(column, high, self._digest(con, window), hashes)

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a cursor is: a moment, a day, or a number."""

    format: str
    unit: str  # "seconds", "days", or empty for numbers

    def value(self, text: str) -> str:
        """Return SQL of a value."""
        return f"{literal(text)}::{self.format}"

    def before(self, text: str, overlap: int) -> str:
        """Return SQL of the value that lies `overlap` before another."""
        if not overlap:
            return self.value(text)
        if self.unit == "seconds":
            return f"({self.value(text)} - interval '{overlap} seconds')"
        if self.unit == "days":
            return f"({self.value(text)} - {-(-overlap // 86_400)})"
        return f"({literal(str(Decimal(text) - overlap))}::numeric)"


def _kind(column: _Column) -> _Kind | None:
    base = column.format.partition("(")[0]
    if base in (*WHOLE, "numeric"):
        return _Kind(column.format, "")
    if base == "date":
        return _Kind(base, "days")
    return _Kind(column.format, "seconds") if column.format.startswith("timestamp") else None


CONNECTOR: Final[SourceMaker] = Postgresql  # type: ignore[assignment]  # its config is narrower
