"""Tables in PostgreSQL.

Several COPYs at once fill a stage, a table of its own that the commit puts in the place of the
target, or merges into it. A load that was killed leaves its stage behind; the next one of the same
task drops it.
"""

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, ClassVar, Final, Protocol

import duckdb
import msgspec
import psycopg
from psycopg import errors
from psycopg import sql as pgsql

from headrace.connectors.families import postgres, sql
from headrace.connectors.families.paging import page_of
from headrace.connectors.families.postgres_table import PostgresSnapshot
from headrace.connectors.families.table_source import side_of
from headrace.contract.chunks import VECTOR_ROWS, buffered
from headrace.contract.columns import ATTRIBUTES, FILE, Column, decimal_of, quoted
from headrace.contract.destination import (
    NOTE_DAYS,
    Counts,
    DestinationMaker,
    Load,
    Page,
    Rows,
    Target,
)
from headrace.contract.side import Side
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import (
    HeadraceError,
    LostClaim,
    Misconfigured,
    NotFound,
    Refused,
    Unavailable,
)
from headrace.domain.secret import Secret
from headrace.domain.task import OF_TASKS, Action
from headrace.native.wire import CopyRows
from headrace.observe import faults

BATCH_ROWS: Final = 16_384
BATCH_CELLS: Final = 1_000_000  # a wide table's batches have fewer rows
BATCH_BYTES: Final = 1 << 20  # a batch of so many is a long one too
LONG_BYTES: Final = 16_000_000  # of rows that are encoded at once
BUFFER_BYTES: Final = 64_000_000  # of rows that are ahead of the COPYs
COPIES_MAX: Final = 4
NAME_BYTES_MAX: Final = 63
LOCK_TIMEOUT_MS: Final = 2_000
WAIT_MS: Final = 300_000  # for a lock that others hold: then it is tried again later
LOCK_TRIES: Final = 15
KEYS: Final = "__headrace_keys"
SETUP_LOCK: Final = 0x68656164726163


class PostgresqlConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for PostgreSQL."""

    url: Annotated[
        Secret, msgspec.Meta(title="URL", description="postgresql://user:password@host/database")
    ]
    schema: str = "public"
    table: str | None = None
    digest: Annotated[
        bool,
        msgspec.Meta(
            description="Put a digest of the table into the receipt; it is read once more for that."
        ),
    ] = False


class Postgresql:
    """One PostgreSQL database."""

    spec: ClassVar[Spec] = Spec(
        name="postgresql", title="PostgreSQL", config=PostgresqlConfig,
        actions=OF_TASKS, refuses_nul=True, deletes=True, verifies=True,
    )  # fmt: skip
    document_rules = None

    def __init__(self, config: PostgresqlConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools

    def check(self) -> None:
        with postgres.told(), self._connected() as con:
            con.execute("select 1")

    def table_for(self, wanted: str | None, stream: str) -> str:
        return wanted or self._config.table or stream

    def exclusive(self) -> str | None:
        return None

    def load(self, target: Target) -> Load:
        if target.table.startswith(("_headrace_", "__headrace_")):
            raise Misconfigured(f"{target.table!r} cannot be a table's name.", field="table")
        _fit_name(target.table, "table")
        with postgres.told():
            config = self._config
            return PostgresqlLoad(self._connect, config.schema, target, digests=config.digest)

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        name = pgsql.Identifier(self._config.schema, table)
        with postgres.told(), self._connected() as con:
            try:
                found = con.execute(
                    pgsql.SQL(
                        "select ctid::text, * from {} where ctid >= %s::tid order by ctid limit %s"
                    ).format(name),
                    [cursor or "(0,0)", limit + 1],
                )
            except errors.UndefinedTable as error:
                raise NotFound(
                    f"There is no table {table!r} yet.", hint="Has a run succeeded?"
                ) from error
            except errors.InvalidTextRepresentation as error:
                raise Misconfigured(
                    "cursor is not one that this list gave.", field="cursor"
                ) from error
            names = [column.name for column in found.description or ()][1:]
            return page_of(names, found.fetchall(), limit)

    @contextlib.contextmanager
    def side(self, table: str) -> Iterator[Side]:
        with postgres.told(), self._connected() as con:
            con.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            con.read_only = True
            con.execute("set timezone = 'UTC'")
            schema = self._config.schema
            there = con.execute("select to_regclass(%s)", [f"{quoted(schema)}.{quoted(table)}"])
            if there.fetchall() == [(None,)]:
                raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
            yield side_of(PostgresSnapshot(con, schema, table, "", self._tools, self._connected, 1))

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return postgres.connect(self._config.url, self._tools)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        con = self._connect()
        try:
            yield con
        finally:
            con.close()

    def close(self) -> None:
        pass


def _fit_name(name: str, field: str) -> None:
    if not name or len(name.encode()) > NAME_BYTES_MAX:
        raise Misconfigured(
            f"{name!r} cannot be a name in PostgreSQL: it has 1 to {NAME_BYTES_MAX} bytes.",
            field=field,
        )


class PostgresqlLoad:
    """One load into one table."""

    stages = False
    stage = ""
    temporary = False
    con: duckdb.DuckDBPyConnection | None = None

    def __init__(
        self, connect: Callable[[], psycopg.Connection[tuple[Any, ...]]], schema: str,
        target: Target, *, digests: bool,
    ) -> None:  # fmt: skip
        self._digests = digests
        self._connect = connect
        self._con = connect()
        self._schema = schema
        self._target = target
        self._table = f"{quoted(schema)}.{quoted(target.table)}"
        digest = hashlib.sha256(target.scope.encode()).hexdigest()[:16]
        self._stages = f"__headrace_stage_{digest}_"
        self._stage = f"{quoted(schema)}.{quoted(f'{self._stages}{target.fence}')}"
        self._fences = f"{quoted(schema)}.{sql.FENCES}"
        self._commits = f"{quoted(schema)}.{sql.COMMITS}"
        self._columns: list[Column] = []
        self._internal: list[str] = []
        self._landed = 0
        self._staged: dict[str, int] = {}  # by file
        self._unlogged = False
        self._swapped = False  # the stage has become the table
        self._kept: int | None = None  # keys of the rows that stay
        threading.Thread(target=_warm_up, daemon=True).start()

    def begin(self) -> str | None:
        with postgres.told():
            con, target = self._con, self._target
            con.execute(f"set lock_timeout = {WAIT_MS}")
            con.execute("select pg_advisory_xact_lock(%s)", [SETUP_LOCK])
            con.execute(
                f"create table if not exists {self._fences}"
                " (scope text primary key, fence bigint not null)"
            )
            con.execute(
                f"create table if not exists {self._commits} (token text primary key, fence bigint"
                " not null, note text not null, committed_at timestamptz default now())"
            )
            if found := con.execute(
                f"select note from {self._commits} where token = %s", [target.token]
            ).fetchone():
                con.rollback()
                return str(found[0])
            con.execute(
                f"insert into {self._fences} as f values (%s, %s) on conflict (scope) do update"
                " set fence = excluded.fence where f.fence < excluded.fence",
                [target.scope, target.fence],
            )
            self._check_fence()
            con.commit()
            self._sweep()
        return None

    def _sweep(self) -> None:
        """Drop what earlier attempts have left; one that is still at work keeps its own."""
        stages = self._con.execute(
            "select relname from pg_class where relnamespace = %s::regnamespace"
            " and starts_with(relname, %s)",
            [quoted(self._schema), self._stages],
        ).fetchall()
        self._con.commit()
        for (name,) in stages:
            fence = name.removeprefix(self._stages)
            if fence.isdigit() and int(fence) <= self._target.fence:
                self._drop(f"{quoted(self._schema)}.{quoted(name)}")

    def _drop(self, table: str) -> None:
        with contextlib.suppress(errors.LockNotAvailable), self._con.transaction():
            self._con.execute(f"set local lock_timeout = {LOCK_TIMEOUT_MS}")
            self._con.execute(f"drop table if exists {table}")

    def _check_fence(self) -> None:
        found = self._con.execute(
            f"select fence from {self._fences} where scope = %s for update", [self._target.scope]
        ).fetchone()
        if found and found[0] > self._target.fence:
            raise LostClaim("A newer attempt loads this table.", fence=found[0])

    def columns(self) -> Sequence[Column] | None:
        with postgres.told():
            found = self._there()
            self._con.commit()
        return [Column(name, type_) for name, type_ in found] or None

    def _there(self) -> list[tuple[str, str]]:
        """Return name and type (in our words) of the table's columns; none without a table."""
        found = self._con.execute(
            "select attname, format_type(atttypid, atttypmod) from pg_attribute"
            " where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped"
            " order by attnum",
            [self._table],
        ).fetchall()
        return [(name, _our_type(type_)) for name, type_ in found]

    def write(self, rows: Rows) -> dict[str, int]:
        with postgres.told():
            if not self._columns:
                self._make_stage(rows)
            landed = self._copy(rows)
            if not rows.with_file:
                return {"": landed}
            found = self._con.execute(f"select {FILE}, count(*) from {self._stage} group by 1")
            total = dict(found.fetchall())
            self._con.commit()
            self._check_total(total, landed)
            before, self._staged = self._staged, total
            return {file: rows - before.get(file, 0) for file, rows in total.items()}

    def _copy(self, rows: Rows) -> int:
        """Send rows over as many connections as pay; return how many PostgreSQL has taken."""
        names = ", ".join(map(quoted, [*(c.name for c in self._columns), *self._internal]))
        feed = _Feed(rows, f"select {names} from ({rows.sql})")
        into = f"copy {self._stage} ({names}) from stdin (format binary)"
        # One more than cores: they wait for the database's disk now and then.
        copies = min(COPIES_MAX, (os.cpu_count() or 1) + 1) if feed.is_long else 1

        def copy(number: int) -> int:
            if number == 0:
                return feed.copy(self._con, into, number)
            try:
                con = self._connect()
            except (psycopg.OperationalError, HeadraceError):
                return 0  # no more connections than we have: the others do it
            with contextlib.closing(con):
                return feed.copy(con, into, number)

        try:
            with ThreadPoolExecutor(copies, "headrace-copy") as pool:
                tasks = [pool.submit(copy, number) for number in range(copies)]
        except BaseException as error:  # Ctrl-C: the COPYs end at their next batch
            feed.error = feed.error or error
            raise
        if feed.error is not None:
            raise feed.error
        return sum(task.result() for task in tasks)

    def _check_total(self, total: dict[str, int], landed: int) -> None:
        self._landed += landed
        if sum(total.values()) != self._landed:
            raise Refused("PostgreSQL counts other rows in the stage than COPY told.")

    def _make_stage(self, rows: Rows) -> None:
        self._columns = list(rows.columns)
        self._internal = [FILE] * rows.with_file + [ATTRIBUTES] * rows.with_attributes
        for column in self._columns:
            _fit_name(column.name, f"column {column.name}")
        defined = [f"{quoted(c.name)} {pg_type(c.type)}" for c in self._columns]
        defined += [f"{name} text" for name in self._internal]
        # What is copied out of the stage again need not survive a crash of the database.
        self._unlogged = self._target.action is not Action.REPLACE and self._exists()
        kind = "unlogged table" if self._unlogged else "table"
        self._con.execute(f"create {kind} {self._stage} ({', '.join(defined)})")
        self._con.commit()

    def keep(self, rows: Rows) -> None:
        with postgres.told():
            defined = ", ".join(f"{quoted(c.name)} {pg_type(c.type)}" for c in rows.columns)
            self._con.execute(f"drop table if exists {KEYS}")
            self._con.execute(f"create temp table {KEYS} ({defined})")
            names = ", ".join(quoted(column.name) for column in rows.columns)
            feed = _Feed(rows, rows.sql)
            self._kept = feed.copy(
                self._con, f"copy {KEYS} ({names}) from stdin (format binary)", 0
            )
            if feed.error is not None:
                raise feed.error
            self._con.execute(f"analyze {KEYS}")
            self._con.commit()

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        with postgres.told():
            con, target = self._con, self._target
            self._check_fence()
            counts = self._apply()
            if self._kept is not None:
                counts.removed = sql.remove_others(
                    self._query,
                    self._table,
                    KEYS,
                    target.key,
                    target.within,
                    among=target.among,
                )
            exists = self._exists()
            if not self._swapped or self._kept is not None:  # else they were counted in it
                counts.rows_after = self._count(self._table) if exists else 0
            if self._digests and exists:
                counts.digest = self._digest()
            note = sign(counts)
            if target.tidies:
                con.execute(
                    f"delete from {self._commits}"
                    f" where committed_at < now() - interval '{NOTE_DAYS} days'"
                )
            con.execute(
                f"insert into {self._commits} (token, fence, note) values (%s, %s, %s)",
                [target.token, target.fence, note],
            )
            con.commit()
            con.close()
        return counts

    def _query(self, text: str) -> list[tuple[Any, ...]]:
        found = self._con.execute(text)
        return found.fetchall() if found.description else []

    def _count(self, table: str) -> int:
        return int(self._query(f"select count(*) from {table}")[0][0])

    def _digest(self) -> str:
        """Return what changes when any value of the table does; the order of rows is no matter."""
        self._con.execute("set local datestyle = 'ISO'")
        self._con.execute("set local extra_float_digits = 1")
        found = self._query(
            f"select coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) from {self._table} t"
        )
        return f"postgresql-sum-hash:{int(found[0][0]) % 2**128:x}"

    def _exists(self) -> bool:
        return bool(
            self._con.execute("select to_regclass(%s) is not null", [self._table]).fetchone()[0]  # type: ignore[index]  # one row
        )

    def _apply(self) -> Counts:
        target, exists = self._target, self._exists()
        if exists:
            self._refuse_view()
        if not exists and target.action in sql.NEED_A_TABLE:
            counts = sql.without_table(target.action, self._stage_counts())
            self._con.execute(f"drop table {self._stage}")
            return counts
        stays = target.keeps_columns or bool(target.within) or self._has_dependants()
        if not exists or (target.action is Action.REPLACE and not stays):
            return self._swap(exists=exists)
        nulls = frozenset() if target.action is Action.DELETE else self._evolve()
        unique, with_file = self._is_unique(), FILE in self._internal
        if target.key:
            if with_file or not unique:  # they are joined
                self._con.execute(f"analyze {self._stage}")
            self._con.execute(f"lock table {self._table} in share row exclusive mode")
        counts = sql.Apply(
            query=self._query, table=self._table, stage=self._stage,
            columns=[column.name for column in self._columns], key=target.key,
            with_file=with_file,
            nulls=nulls, in_place=target.action is Action.SAVE and self._has_dependants(),
            others=self._others(), unique=unique,
            has_attribute=_has_attribute if ATTRIBUTES in self._internal else None,
            within=target.within,
        ).run(target.action)  # fmt: skip
        self._con.execute(f"drop table {self._stage}")
        return counts

    def _stage_counts(self) -> dict[str, int]:
        file = FILE if FILE in self._internal else "''::text"
        return dict(self._query(f"select {file}, count(*) from {self._stage} group by 1"))

    def _swap(self, *, exists: bool) -> Counts:
        counts = Counts(inserted=self._stage_counts())
        counts.rows_after = sum(counts.inserted.values())
        self._swapped = True
        for name in self._internal:
            self._con.execute(f"alter table {self._stage} drop column {name}")
        if self._unlogged:  # the table that was there is gone
            self._con.execute(f"alter table {self._stage} set logged")
        for attempt in range(LOCK_TRIES):
            try:
                with self._con.transaction():
                    self._con.execute(f"set local lock_timeout = {LOCK_TIMEOUT_MS}")
                    if exists:
                        self._con.execute(f"lock table {self._table} in access exclusive mode")
                        counts.replaced_out = self._count(self._table)
                        self._con.execute(f"drop table {self._table}")
                    faults.reach("child.in_commit")
                    self._con.execute(
                        f"alter table {self._stage} rename to {quoted(self._target.table)}"
                    )
            except errors.LockNotAvailable:
                if attempt + 1 == LOCK_TRIES:
                    raise Unavailable(
                        f"Somebody has held the table {self._target.table!r} for"
                        f" {LOCK_TRIES * LOCK_TIMEOUT_MS // 1000} s."
                    ) from None
            else:
                break
        return counts

    def _refuse_view(self) -> None:
        kind = self._con.execute(
            "select relkind from pg_class where oid = to_regclass(%s)", [self._table]
        ).fetchone()
        if kind and kind[0] not in ("r", "p"):
            raise Refused(f"{self._target.table!r} is not a table.", field="table")

    def _has_dependants(self) -> bool:
        """Tell whether a rename would lose something that hangs on the table."""
        found = self._con.execute(
            """
            select relacl is not null or relhasindex or relhastriggers or relkind = 'p'
                or exists (select from pg_constraint where conrelid = c.oid or confrelid = c.oid)
                or exists (select from pg_description where objoid = c.oid)
                or exists (select from pg_policy where polrelid = c.oid)
                or exists (select from pg_attrdef where adrelid = c.oid)
                or exists (select from pg_inherits where inhrelid = c.oid or inhparent = c.oid)
                or exists (select from pg_publication_rel where prrelid = c.oid)
                or exists (select from pg_depend d join pg_rewrite r on r.oid = d.objid
                           where d.refobjid = c.oid and r.ev_class <> c.oid)
            from pg_class c where c.oid = to_regclass(%s)
            """,
            [self._table],
        ).fetchone()
        return bool(found and found[0])

    def _others(self) -> list[str]:
        """Return the table's columns that the stage lacks and that are not generated."""
        staged = {column.name for column in self._columns}
        found = self._con.execute(
            "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0"
            " and not attisdropped and attgenerated = '' and attidentity = ''",
            [self._table],
        ).fetchall()
        return [name for (name,) in found if name not in staged]

    def _is_unique(self) -> bool:
        """Tell whether an index holds that no two rows of the table have one key."""
        if not self._target.key:
            return False
        found = self._con.execute(
            """
            select 1 from pg_index i join pg_class c on c.oid = i.indrelid
            where c.oid = to_regclass(%s) and c.relkind = 'r' and i.indisunique and i.indisvalid
                and i.indimmediate and i.indpred is null and i.indexprs is null
                and (select array_agg(a.attname::text order by a.attname::text) from pg_attribute a
                    where a.attrelid = c.oid and a.attnum = any(i.indkey[:i.indnkeyatts - 1]))
                    = (select array_agg(name order by name) from unnest(%s::text[]) as name)
            """,
            [self._table, list(self._target.key)],
        ).fetchone()
        return found is not None

    def _evolve(self) -> frozenset[str]:
        there = {name.casefold(): type_ for name, type_ in self._there()}
        found = sql.evolution(self._target.table, there, self._columns, self._is_empty)
        for column in found.add:
            self._con.execute(
                f"alter table {self._table} add column {quoted(column.name)} {pg_type(column.type)}"
            )
        for column in found.widen:
            self._con.execute(
                f"alter table {self._table} alter {quoted(column.name)} type {pg_type(column.type)}"
            )
        return found.nulls

    def _is_empty(self, name: str) -> bool:
        return not self._query(f"select count({quoted(name)}) from {self._stage}")[0][0]

    def abort(self) -> None:
        self._columns = []
        self._landed, self._staged, self._swapped = 0, {}, False
        with contextlib.suppress(psycopg.Error):
            self._con.rollback()
            self._drop(self._stage)

    def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(psycopg.Error):
            self._con.close()


class _Feed:
    """Batches of one scan, each to whichever COPY asks next, in COPY's binary form."""

    def __init__(self, rows: Rows, text: str) -> None:
        self.error: BaseException | None = None
        self._json = {column.name for column in rows.columns if column.type == "json"}
        self._readers = [_Reader(reader) for reader in _readers(rows, text)]
        # Each COPY holds a batch, and of rows that are long a batch is a lot.
        has_room = bool(rows.streams) or rows.row_bytes * VECTOR_ROWS < LONG_BYTES
        self.is_long = self._readers[0].is_long and has_room

    def copy(self, con: psycopg.Connection[tuple[Any, ...]], into: str, number: int) -> int:
        """Send batches until there are none; return the rows that PostgreSQL counted.

        The COPY of a `number` begins with the reader of that number.
        """
        turned = number % len(self._readers)
        try:
            # These rows need not be on the disk before the commit that shows them is.
            con.execute("set local synchronous_commit = off")
            with con.cursor() as cursor:
                with cursor.copy(into) as copy:
                    encoder = _encoder(self._readers[0].schema, self._json)
                    copy.write(encoder.header())
                    for reader in (*self._readers[turned:], *self._readers[:turned]):
                        while (batch := reader.next()) is not None:
                            if self.error is not None:
                                raise self.error
                            for part in encoder.parts(batch):
                                copy.write(part)
                            faults.reach("child.half_staged")
                    copy.write(encoder.end())
                landed = cursor.rowcount
            con.commit()
        except BaseException as error:  # told to the caller; the other COPYs end, too
            self.error = self.error or error
            return 0
        return landed


class _Encoder(Protocol):
    """Makes COPY's binary form of Arrow batches."""

    def header(self) -> bytes: ...

    def parts(self, batch: Any) -> Iterator[bytes | memoryview]: ...

    def end(self) -> bytes: ...


def _encoder(schema: Any, json: Collection[str]) -> _Encoder:
    return CopyRows.of(schema, json) or _LibraryRows(schema, json)


class _LibraryRows:
    """What CopyRows does, where our own library is missing or does not know a type."""

    def __init__(self, schema: Any, json: Collection[str]) -> None:
        from pgpq import ArrowToPostgresBinaryEncoder as Encoder
        from pgpq.encoders import StringEncoderBuilder
        from pgpq.schema import Jsonb

        made = {
            field.name: StringEncoderBuilder.new_with_output(field, Jsonb())
            if field.name in json
            else Encoder.infer_encoder(field)
            for field in schema
        }
        self._encoder = Encoder.new_with_encoders(schema, made)

    def header(self) -> bytes:
        return bytes(self._encoder.write_header())

    def parts(self, batch: Any) -> Iterator[bytes | memoryview]:
        few = max(LONG_BYTES * int(batch.num_rows) // max(int(batch.nbytes), 1), 1)
        for start in range(0, batch.num_rows, few):
            yield self._encoder.write_batch(batch.slice(start, few))

    def end(self) -> bytes:
        return bytes(self._encoder.finish())


class _Reader:
    """An Arrow reader that several COPYs share."""

    def __init__(self, reader: Any) -> None:
        self.schema = reader.schema
        self._batches = iter(reader)
        self._one_at_a_time = threading.Lock()
        self._first = next(self._batches, None)
        self.is_long = self._first is not None and (
            self._first.num_rows >= BATCH_ROWS or self._first.nbytes >= BATCH_BYTES
        )

    def next(self) -> Any:
        """Return a batch, or None at the end."""
        with self._one_at_a_time:
            first, self._first = self._first, None
            return next(self._batches, None) if first is None else first


def _readers(rows: Rows, text: str) -> list[Any]:
    import pyarrow as pa

    if rows.streams:
        return [pa.RecordBatchReader.from_stream(stream) for stream in rows.streams]
    # Measured on 6 M rows: 3.3 s so, 6.5 s with either setting at its quick-looking value,
    # because without batches in order, or room for them, DuckDB scans on one core.
    rows.con.execute("set preserve_insertion_order = true")
    ahead = buffered(BUFFER_BYTES, len(rows.columns), rows.row_bytes)
    rows.con.execute(f"set streaming_buffer_size = '{ahead}B'")
    few = min(BATCH_ROWS, BATCH_CELLS // len(rows.columns), LONG_BYTES // (rows.row_bytes + 1))
    return [rows.con.execute(text).to_arrow_reader(max(few, 1))]


def _warm_up() -> None:
    """Import beside the reading of the source what is needed a moment later."""
    import pyarrow as pa

    del pa


def _has_attribute(name: str) -> str:
    return "s.{}::jsonb ? '{}'".format(ATTRIBUTES, name.replace("'", "''").replace("%", "%%"))


def pg_type(type_: str) -> str:
    if found := decimal_of(type_):
        return f"numeric({found[0]},{found[1]})"
    ours = {
        "string": "text", "integer": "bigint", "float": "double precision", "boolean": "boolean",
        "json": "jsonb", "date": "date", "time": "time", "timestamp": "timestamp",
    }  # fmt: skip
    if type_ not in ours:
        raise Misconfigured(f"PostgreSQL has no column type for {type_}.", hint="Map it to json.")
    return ours[type_]


def _our_type(type_: str) -> str:
    if type_.startswith("numeric("):
        return type_.replace("numeric", "decimal")
    if type_.startswith("character varying"):
        return "string"
    theirs = {
        "text": "string", "bigint": "integer", "integer": "integer", "smallint": "integer",
        "double precision": "float", "real": "float", "boolean": "boolean", "jsonb": "json",
        "json": "json", "date": "date", "time without time zone": "time",
        "timestamp without time zone": "timestamp", "timestamp with time zone": "timestamp",
    }  # fmt: skip
    return theirs.get(type_, f"native:{type_}")


CONNECTOR: Final[DestinationMaker] = Postgresql  # type: ignore[assignment]  # narrower config
