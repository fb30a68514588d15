"""What sources of tables share: columns, filters, one snapshot, and deltas by a cursor.

The rows come as CSV into the spool and are judged like any CSV; the database's own count of them is
what `read` says. With a cursor column a delta run reads the rows beyond the highest value that the
last committed run has seen, and of those at that edge the ones that it has not.
"""

import csv
import io
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeVar, runtime_checkable

import duckdb
import msgspec

from headrace.connectors.families import files
from headrace.connectors.families.csv_scan import CsvForm, CsvScan, judge_names
from headrace.connectors.families.pouring import PouredScan, Pouring
from headrace.contract.canonical import Dialect
from headrace.contract.columns import literal
from headrace.contract.side import Side, TableColumn
from headrace.contract.source import File, Scan, Stream
from headrace.contract.spec import Config
from headrace.contract.tools import Known, Tools
from headrace.domain.errors import Invalid, Misconfigured, Refused, Unchanged
from headrace.domain.position import GIVEN, Edge
from headrace.native import text

Con = TypeVar("Con")
TOLD_S: Final = 0.2
SEEN_MAX: Final = 50_000  # rows at the edge that a position remembers one by one
LINE_BYTES_MAX: Final = 16_000_000  # of a row at the edge


class TableConfig(Config, frozen=True, kw_only=True):
    """What every source of tables asks for."""

    table: str = ""
    query: Annotated[
        str, msgspec.Meta(description="A query to read instead of a table, in its own SQL.")
    ] = ""
    columns: Annotated[
        list[str] | None, msgspec.Meta(description="All of them if it is left out.")
    ] = None
    where: Annotated[
        str, msgspec.Meta(description="A condition in the database's SQL; t is the table.")
    ] = ""
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
        if bool(self.table) == bool(self.query):
            raise ValueError("`table` or `query` must be given, and not both")


def selected(
    relation: str, columns: Sequence[TableColumn], conditions: Sequence[str],
    quoted: Callable[[str], str],
) -> str:  # fmt: skip
    """Return SQL of some columns of the rows that meet all conditions."""
    items = ", ".join(f"{one.sql} as {quoted(one.name)}" for one in columns)
    where = " where " + " and ".join(f"({one})" for one in conditions) if conditions else ""
    return f"select {items} from {relation} t{where}"


def shared_out(
    queries: Sequence[str], cons: Sequence[Con], copy: Callable[[Con, str], int],
    told: Callable[[], None], stop: Callable[[], None],
) -> int:  # fmt: skip
    """Have every connection copy queries until none is left; return the rows in all.

    `told` is called now and then. Where it or a copy fails, `stop` makes the others fail soon.
    """
    todo: queue.SimpleQueue[str] = queue.SimpleQueue()
    for query in queries:
        todo.put(query)
    stopped = threading.Event()

    def work(con: Con) -> int:
        rows = 0
        while not stopped.is_set():
            try:
                query = todo.get_nowait()
            except queue.Empty:
                break
            rows += copy(con, query)
        return rows

    with ThreadPoolExecutor(len(cons), "headrace-copy") as pool:
        waiting = under_way = {pool.submit(work, con) for con in cons}
        try:
            while waiting:
                done, waiting = wait(waiting, TOLD_S, return_when="FIRST_EXCEPTION")
                for one in done:
                    one.result()
                told()
        except BaseException:
            stopped.set()
            stop()
            raise
    return sum(one.result() for one in under_way)


def number_of(column: TableColumn, text: str) -> Decimal:
    """Read a cursor's value. Raises Invalid."""
    try:
        return Decimal(text)
    except InvalidOperation:
        raise _no_value(column, text) from None


def moment_of(column: TableColumn, text: str) -> datetime:
    """Read a cursor's value: a moment in UTC, or a day. Raises Invalid."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise _no_value(column, text) from None
    return found.astimezone(UTC).replace(tzinfo=None) if found.tzinfo else found


def _no_value(column: TableColumn, text: str) -> Invalid:
    said = f"{text[:40]!r} is no value of the cursor {column.name!r}, which is {column.native}."
    return Invalid(said, field="from")


class Snapshot(Protocol):
    """A connection that sees one state of the database from its first read to its last."""

    relation: str  # SQL of what is read, to stand behind `from`

    @property
    def dialect(self) -> Dialect | None:
        """By which its rows can be compared where they are."""

    def quoted(self, name: str) -> str: ...

    def columns(self) -> Sequence[TableColumn]:
        """Return what can be read, in order. Raises Refused where there is nothing."""

    def copy(
        self, columns: Sequence[TableColumn], conditions: Sequence[str], path: Path, *, whole: bool
    ) -> int:
        """Append rows as CSV; return how many the database says they are. `whole`: many are meant.

        An empty cell is NULL, an empty text is quoted.
        """

    def pour(self, query: str, path: Path) -> int:
        """Append the rows of a query as `copy` does."""

    def value(self, query: str) -> str | None:
        """Return the text of a query's only value."""

    def literal(self, column: TableColumn, text: str) -> str:
        """Return SQL of a cursor's value."""

    def before(self, column: TableColumn, text: str, overlap: int) -> str:
        """Return SQL of the value that lies `overlap` before another."""

    def streams(self) -> Sequence[Stream]:
        """Return the tables and views that can be read, sorted."""


@runtime_checkable
class Pourable(Snapshot, Protocol):
    """A snapshot of which a large table can be copied by a thread of its own."""

    told: Callable[[int], None]  # called now and then with the bytes that were copied

    def large(self) -> int:
        """Return about how many bytes a table has that takes its time; 0 for any other."""


def side_of(
    source: Snapshot, columns: Sequence[TableColumn] | None = None, where: str = "",
    cursor: TableColumn | None = None,
) -> Side:  # fmt: skip
    """Return the rows of a snapshot as a side of a comparison: all columns if none are named."""
    found = source.columns() if columns is None else columns
    inferred = any(one.type == "infer" for one in found)
    return Side(
        dialect=None if inferred else source.dialect, relation=source.relation, columns=found,
        pour=source.pour, cursor=cursor, value=source.value, literal=source.literal,
        quoted=source.quoted, conditions=[where] if where else [],
    )  # fmt: skip


class TableSource:
    """One table, view or query of a database. Subclasses connect."""

    def __init__(self, config: TableConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        self._keys: CsvScan | None = None
        self._pourings: list[Pouring] = []
        self._only: str | None = None

    @property
    def _name(self) -> str:
        """What people call what is read."""
        return self._config.table or "query"

    def _snapshot(self, threads: int) -> AbstractContextManager[Snapshot]:
        """Connect. `threads`: how many connections may read at once."""
        raise NotImplementedError

    def check(self) -> None:
        with self._snapshot(1) as source:
            self._chosen(source)

    def discover(self) -> Sequence[Stream]:
        with self._snapshot(1) as source:
            return source.streams()

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        threads = con.execute("select current_setting('threads')").fetchone() or (1,)
        with ExitStack() as stack:
            source = stack.enter_context(self._snapshot(int(threads[0])))
            columns, cursor = self._chosen(source)
            reading = _Reading(
                source, self._name, columns, cursor, self._config, self._tools, self._only
            )
            names = [column.name for column in columns]
            types = {column.name: column.type for column in columns if column.type != "infer"}
            form = CsvForm(mapping=types | self._config.mapping, unmapped="infer")
            if pouring := self._poured(reading, source, names, stack):
                pouring.begin()
                yield PouredScan(pouring, names, form, self._tools)
                return
            file = reading.run(con)
            self._read_keys(reading, names)
        yield CsvScan([file], names, form, self._tools)

    def _read_keys(self, reading: "_Reading", names: Sequence[str]) -> None:
        """Read the keys of all rows, of the same state, if they are wanted."""
        if self._tools.key_columns is not None and self._tools.range is None:
            key = self._tools.key_columns(names)
            self._keys = CsvScan([reading.keys(key)], key, CsvForm(), self._tools)

    def _poured(
        self, reading: "_Reading", source: Snapshot, names: Sequence[str], stack: ExitStack
    ) -> Pouring | None:
        """Return the reading as one that goes on while its rows are loaded, where that pays.

        It takes over the connection. None: the table is small, or not all of it is wanted.
        """
        whole = self._only is None and reading.is_whole()
        if not (whole and text.available() and isinstance(source, Pourable)):
            return None
        if not (size := source.large()):
            return None
        file, own = reading.begun(size), stack.pop_all()

        def pour() -> int:
            with own:
                rows = reading.pour(file)
                self._read_keys(reading, names)
                return rows

        pouring = Pouring(file, pour, self._tools)
        source.told = pouring.proceed
        self._pourings.append(pouring)
        return pouring

    def keys(self) -> Scan | None:
        for pouring in self._pourings:
            pouring.wait()
        return self._keys

    @contextmanager
    def side(self) -> Iterator[Side]:
        """Lend the rows that a full run would read, to be asked about in SQL."""
        with self._snapshot(1) as source:
            columns, cursor = self._chosen(source)
            mapped = self._config.mapping  # to types that the database knows nothing of
            columns = [replace(one, type="infer") if one.name in mapped else one for one in columns]
            yield side_of(source, columns, self._config.where, cursor)

    def only(self, condition: str) -> None:
        """Have the next reading give the rows that meet a condition: a part of no position."""
        self._only = condition

    def _chosen(self, source: Snapshot) -> tuple[list[TableColumn], TableColumn | None]:
        """Return the columns to read, and the cursor. Raises Refused, Misconfigured."""
        config = self._config
        there = {column.name: column for column in source.columns()}
        wanted = [*(config.columns or ()), *config.mapping]
        wanted += [name for name in (config.cursor, config.unique_id_column) if name]
        for name in wanted:
            if name not in there:
                raise Misconfigured(
                    f"{self._name} has no column {name!r}.",
                    hint=f"Its columns: {', '.join(list(there)[:20])}.", field="input",
                )  # fmt: skip
        cursor = there[config.cursor] if config.cursor else None
        if cursor and cursor.cursor is None:
            raise Misconfigured(
                f"The column {cursor.name!r} is {cursor.native}: no cursor.",
                hint="A cursor is a whole number, a decimal, a date or a timestamp.",
                field="input.cursor",
            )
        if self._tools.range is not None and cursor is None:
            raise Misconfigured(
                "A back-fill goes by a cursor, and the source has none.",
                hint="Name a column in input.cursor.", field="input.cursor",
            )  # fmt: skip
        names = config.columns if config.columns is not None else list(there)
        judge_names(names, self._name, "input.columns")
        return [there[name] for name in names], cursor

    def close(self) -> None:
        for pouring in self._pourings:
            pouring.stop()


def _edge_of(known: Known, name: str, column: str) -> Edge | None:
    """Return how far a table was read by a cursor; None if it was not, or by another one."""
    edge = Edge.of(known.versions.get(name) or known.versions.get(GIVEN, ""))
    return edge if edge is not None and edge.column == column else None


class _Reading:
    """The reading of one table into one file of the spool."""

    def __init__(
        self, source: Snapshot, name: str, columns: Sequence[TableColumn],
        cursor: TableColumn | None, config: TableConfig, tools: Tools, only: str | None,
    ) -> None:  # fmt: skip
        self._source = source
        self._name = name
        self._columns = columns
        self._cursor = cursor if only is None else None  # what is read is no state of it all
        self._overlap = config.overlap
        self._tools = tools
        self._always = [one for one in (config.where, only) if one]

    def is_whole(self) -> bool:
        """Tell whether nothing but all rows is to be read."""
        return self._cursor is None

    def begun(self, size: int) -> File:
        """Begin a file of all rows, of about so many bytes."""
        path = self._headed(self._columns)
        return File(name=self._name, path=str(path), bytes=size)

    def pour(self, file: File) -> int:
        """Append all rows to it; return how many there are."""
        return self._copy([], Path(file.path), whole=True)

    def run(self, con: duckdb.DuckDBPyConnection) -> File:
        """Read what there is to read. Raises Unchanged if there is nothing new."""
        path = self._headed(self._columns)
        cursor, known, edge = self._cursor, self._tools.known, None
        before = None
        if cursor is not None and known is not None:
            before = _edge_of(known, self._name, cursor.name)
        if cursor is not None and self._tools.range is not None:
            rows = self._copy(self._ranged(cursor), path, whole=True)
        elif cursor is not None and before is not None and known is not None:
            rows = self._more(con, cursor, before, path, whole=known.whole)
            edge = self._edge(con, cursor) or before
        else:
            rows = self._copy([], path, whole=True)
            edge = self._edge(con, cursor) if cursor is not None else None
        return File(
            name=self._name, path=str(path), bytes=path.stat().st_size, known=rows,
            version=edge.text() if edge else "",
        )  # fmt: skip

    def keys(self, names: Sequence[str]) -> File:
        """Read some columns of every row there is."""
        columns = [column for column in self._columns if column.name in names]
        path = self._headed(columns)
        rows = self._source.copy(columns, self._always, path, whole=True)
        return File(
            name=f"{self._name} (keys)", path=str(path), bytes=path.stat().st_size, known=rows
        )

    def _headed(self, columns: Sequence[TableColumn]) -> Path:
        """Begin a file of the spool with the names of columns."""
        path = files.new_spool_file(self._tools)
        header = io.StringIO(newline="")
        csv.writer(header, lineterminator="\n").writerow([one.name for one in columns])
        path.write_bytes(header.getvalue().encode())
        return path

    def _copy(self, conditions: Sequence[str], path: Path, *, whole: bool = False) -> int:
        return self._source.copy(self._columns, [*self._always, *conditions], path, whole=whole)

    def _ranged(self, cursor: TableColumn) -> list[str]:
        """Return the conditions of a back-fill."""
        wanted, column = self._tools.range, self._source.quoted(cursor.name)
        assert wanted is not None  # of a back-fill
        conditions = [f"t.{column} >= {self._source.literal(cursor, wanted.since)}"]
        if wanted.until is not None:
            conditions.append(f"t.{column} < {self._source.literal(cursor, wanted.until)}")
        return conditions

    def _more(
        self, con: duckdb.DuckDBPyConnection, cursor: TableColumn, before: Edge, path: Path, *,
        whole: bool,
    ) -> int:  # fmt: skip
        """Read what has come since an edge; `whole`: all, if anything has."""
        late = files.new_spool_file(self._tools)
        found = self._late(con, cursor, before, late)
        column = self._source.quoted(cursor.name)
        beyond = f"t.{column} > {self._source.literal(cursor, before.value)}"
        if whole:
            if not found:
                where = " and ".join(f"({one})" for one in [*self._always, beyond])
                counted = f"select count(*) from {self._source.relation} t where {where}"
                if self._source.value(counted) == "0":
                    raise Unchanged(f"{self._name} has not changed since the last run.")
            return self._copy([], path, whole=True)
        with path.open("ab") as out:
            out.write(late.read_bytes())
        late.unlink()
        rows = found + self._copy([beyond], path, whole=True)
        if not rows and self._tools.key_columns is None:
            raise Unchanged(f"{self._name} has not changed since the last run.")
        return rows

    def _late(
        self, con: duckdb.DuckDBPyConnection, cursor: TableColumn, before: Edge, into: Path
    ) -> int:
        """Write the rows at an edge that the run which stood there has not read; return how many.

        Raises Misconfigured where nobody can tell which ones those are.
        """
        window = self._window(cursor, before.value)
        if not before.is_told:
            into.touch()
            if self._digest(con, window) == before.digest:
                return 0
            if self._tools.repeatable:
                into.write_bytes(window.read_bytes())
                return self._count(con, window)
            raise Misconfigured(
                f"Rows have come to more than {SEEN_MAX:,} that the cursor's last value is of:"
                " without a key nobody can tell which are new.",
                hint="Choose a finer cursor, or load with a key.", field="input.cursor",
            )  # fmt: skip
        con.execute("create or replace temp table __headrace_seen (hash ubigint)")
        con.execute("insert into __headrace_seen select unnest(?::ubigint[])", [before.seen])
        names = ", ".join(f"c{number}" for number in range(len(self._columns)))
        con.execute(
            f"copy (select {names} from (select *, row_number() over (partition by hash) as place"
            f" from {self._hashed(window)}) left join (select hash, count(*) as rows"
            " from __headrace_seen group by 1) using (hash) where place > coalesce(rows, 0))"
            f" to {literal(str(into))} (format csv, header false)"
        )
        con.execute("drop table __headrace_seen")
        return self._count(con, into)

    def _edge(self, con: duckdb.DuckDBPyConnection, cursor: TableColumn) -> Edge | None:
        """Return how far this snapshot goes; None where no row has a cursor."""
        always = " and ".join(f"({one})" for one in self._always)
        where = f" where {always}" if always else ""
        high = self._source.value(
            f"select max(t.{self._source.quoted(cursor.name)}) from {self._source.relation} t"
            + where
        )
        if high is None:
            return None
        window = self._window(cursor, high)
        rows = con.execute(
            f"select hash from {self._hashed(window)} limit {SEEN_MAX + 1}"
        ).fetchall()
        hashes = [row[0] for row in rows] if len(rows) <= SEEN_MAX else []
        return Edge(cursor.name, high, self._digest(con, window), hashes)

    def _window(self, cursor: TableColumn, at: str) -> Path:
        """Read the rows around an edge: those at it, and as far before as may be late."""
        path = files.new_spool_file(self._tools)
        path.touch()
        source, column = self._source, self._source.quoted(cursor.name)
        low = source.before(cursor, at, self._overlap)
        self._copy([f"t.{column} between {low} and {source.literal(cursor, at)}"], path)
        return path

    def _text(self, path: Path) -> str:
        columns = ", ".join(f"'c{number}': 'VARCHAR'" for number in range(len(self._columns)))
        return (
            f"read_csv({literal(str(path))}, auto_detect=false, header=false, delim=',',"
            f" quote='\"', escape='\"', allow_quoted_nulls=false, columns={{{columns}}},"
            f" max_line_size={LINE_BYTES_MAX}, buffer_size={4 * LINE_BYTES_MAX})"
        )

    def _hashed(self, path: Path) -> str:
        """Return SQL of rows of text and the hash of each, which other versions tell alike."""
        hash_ = "md5_number_lower(to_json(t)::varchar)::ubigint as hash"
        return f"(select *, {hash_} from {self._text(path)} as t)"

    def _digest(self, con: duckdb.DuckDBPyConnection, path: Path) -> str:
        """Return what changes when any row of a window does."""
        query = f"select count(*), coalesce(sum(hash), 0) from {self._hashed(path)}"
        found = con.execute(query).fetchone()
        assert found is not None  # an aggregate has one row
        return f"{found[0]} {found[1]}"

    def _count(self, con: duckdb.DuckDBPyConnection, path: Path) -> int:
        try:
            found = con.execute(f"select count(c0 is null) from {self._text(path)}").fetchone()
        except duckdb.InvalidInputException as error:
            raise Refused(f"{self._name}: a row at the edge cannot be read.") from error
        return int(found[0]) if found else 0
