"""Tables in a DuckDB file.

Rows are staged by one scan inside the file and shown by a rename. One process holds the file and
locks all others out, so a load waits for a lock that somebody else has, and says who.
"""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import duckdb
import msgspec

from headrace.connectors.families import sql
from headrace.connectors.families.duckdb_file import duckdb_bytes, opened, our_type
from headrace.connectors.families.duckdb_table import DuckdbSnapshot
from headrace.connectors.families.paging import page_of
from headrace.connectors.families.table_source import side_of
from headrace.contract import room
from headrace.contract.chunks import VECTOR_ROWS
from headrace.contract.columns import ATTRIBUTES, FILE, Column, duckdb_type, literal, quoted
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
from headrace.domain.errors import LostClaim, Misconfigured, NotFound, Refused
from headrace.domain.task import KEYED, OF_TASKS, Action
from headrace.observe import faults

STAGE: Final = "__headrace_stage"
KEYS: Final = "__headrace_keys"


class DuckdbConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for a DuckDB file."""

    path: Annotated[
        str, msgspec.Meta(min_length=1, title="File", description="Made when it is not there.")
    ]
    table: str | None = None


class Duckdb:
    """One DuckDB file."""

    spec: ClassVar[Spec] = Spec(
        name="duckdb", title="DuckDB file", config=DuckdbConfig, actions=OF_TASKS, local=True,
        deletes=True, verifies=True,
    )  # fmt: skip
    document_rules = None

    def __init__(self, config: DuckdbConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        self._path = tools.allowed_target(config.path)

    def check(self) -> None:
        parent = self._path.parent
        if not parent.is_dir():
            raise Misconfigured(f"There is no folder {parent}.", field="input.path")
        with opened(self._path, self._tools):
            pass

    def table_for(self, wanted: str | None, stream: str) -> str:
        return wanted or self._config.table or stream

    def exclusive(self) -> str | None:
        return f"duckdb:{self._path}"

    def load(self, target: Target) -> Load:
        if target.table.startswith(("_headrace_", "__headrace_")) or not target.table:
            raise Misconfigured(f"{target.table!r} cannot be a table's name.", field="table")
        return DuckdbLoad(opened(self._path, self._tools), target, duckdb_bytes(self._tools))

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        if not self._path.exists():
            raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
        with opened(self._path, self._tools) as con:
            return read_page(con, table, limit, cursor)

    @contextlib.contextmanager
    def side(self, table: str) -> Iterator[Side]:
        if not self._path.exists():
            raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
        with opened(self._path, self._tools, read_only=True) as con:
            if not _kind(con, table):
                raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
            con.execute("begin transaction")
            yield side_of(DuckdbSnapshot(con, quoted(table), table, self._tools))

    def close(self) -> None:
        pass


def read_page(con: duckdb.DuckDBPyConnection, table: str, limit: int, cursor: str | None) -> Page:
    """Read a page of a table in rowid order; also used beside a running load."""
    if not _kind(con, table):
        raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
    found = con.execute(
        f"select rowid as __headrace_rowid, * from {quoted(table)}"
        f" where rowid >= ? order by rowid limit {limit + 1}",
        [int(cursor or 0)],
    )
    names = [column[0] for column in found.description or ()][1:]
    return page_of(names, found.fetchall(), limit)


def _kind(con: duckdb.DuckDBPyConnection, table: str) -> str:
    """Return `table` or `view`, or nothing if there is neither."""
    found = con.execute(
        "select 'table' from duckdb_tables() where schema_name = 'main' and lower(table_name) ="
        " lower($1) union all select 'view' from duckdb_views() where schema_name = 'main'"
        " and not internal and lower(view_name) = lower($1)",
        [table],
    ).fetchone()
    return str(found[0]) if found else ""


class DuckdbLoad:
    """One load into one table of the file."""

    stages = True

    def __init__(
        self,
        file: contextlib.AbstractContextManager[duckdb.DuckDBPyConnection],
        target: Target,
        memory_bytes: int,
    ) -> None:
        """`memory_bytes`: what DuckDB may take."""
        self._memory_bytes = memory_bytes
        with contextlib.ExitStack() as stack:
            con = stack.enter_context(file)
            self._there = _kind(con, target.table)  # until the commit: nobody else has the file
            self._file = stack.pop_all()
        self.con: duckdb.DuckDBPyConnection | None = con
        self._con = con
        self._target = target
        self._table = quoted(target.table)
        # What is merged into a table is written there; what takes its place is the stage itself.
        self.temporary = target.action in KEYED and bool(self._there)
        own = f"_{hashlib.sha256(target.scope.encode()).hexdigest()[:16]}" if target.inner else ""
        self._stage = f"{STAGE}{own}"
        self.stage = quoted(self._stage)
        self._keys = f"{KEYS}{own}"
        self._closing: threading.Thread | None = None
        self._keeps = False
        self._in_parts = False  # the keys have no room at once

    def begin(self) -> str | None:
        con, target = self._con, self._target
        con.execute(f"create table if not exists {sql.FENCES} (scope text, fence bigint)")
        con.execute(
            f"create table if not exists {sql.COMMITS} (token text, fence bigint, note text,"
            " committed_at timestamp default current_timestamp)"
        )
        self._sweep()
        if found := con.execute(
            f"select note from {sql.COMMITS} where token = ?", [target.token]
        ).fetchone():
            return str(found[0])
        con.begin()
        self._check_fence()
        raised = con.execute(
            f"update {sql.FENCES} set fence = ? where scope = ?", [target.fence, target.scope]
        ).fetchone()
        if raised == (0,):
            con.execute(f"insert into {sql.FENCES} values (?, ?)", [target.scope, target.fence])
        con.commit()
        return None

    def _sweep(self) -> None:
        """Drop what killed loads have left: one run at a time has the file."""
        if self._target.inner:  # but the loads that this one is part of
            self._drop()
            return
        for (name,) in self._query(
            "select table_name from duckdb_tables() where schema_name = 'main'"
            f" and (starts_with(table_name, '{STAGE}') or starts_with(table_name, '{KEYS}'))"
        ):
            self._con.execute(f"drop table {quoted(name)}")

    def _drop(self) -> None:
        self._con.execute(f"drop table if exists {self.stage}")
        self._con.execute(f"drop table if exists {self._keys}")

    def _check_fence(self) -> None:
        found = self._con.execute(
            f"select max(fence) from {sql.FENCES} where scope = ?", [self._target.scope]
        ).fetchone()
        if found and found[0] is not None and found[0] > self._target.fence:
            raise LostClaim("A newer attempt loads this table.", fence=found[0])

    def columns(self) -> Sequence[Column] | None:
        if not self._there:
            return None
        return [Column(name, our_type(type_)) for name, type_ in self._columns(self._target.table)]

    def write(self, rows: Rows) -> dict[str, int]:
        raise NotImplementedError  # the engine stages by SQL on `con`

    def keep(self, rows: Rows) -> None:
        self._con.execute(f"create or replace table {self._keys} as {rows.sql}")
        self._keeps = True

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        con, target = self._con, self._target
        ordered = self.temporary and room.in_order(self._staged(), self._memory_bytes)
        con.execute(f"set preserve_insertion_order = {str(ordered).lower()}")
        con.begin()
        self._check_fence()
        counts = self._apply()
        if self._keeps:
            counts.removed = sql.remove_others(
                self._query,
                self._table,
                self._keys,
                target.key,
                target.within,
                among=target.among,
                grammar=_Deleting(load=self),
            )
            con.execute(f"drop table {self._keys}")
        (counts.rows_after,) = con.execute(f"select count(*) from {self._table}").fetchone() or (0,)
        if target.action is Action.REPLACE:
            counts.digest = self._digest()
        note = sign(counts)
        if target.tidies:
            con.execute(
                f"delete from {sql.COMMITS} where committed_at <"
                f" (current_timestamp - interval {NOTE_DAYS} day)::timestamp"
            )
        con.execute(
            f"insert into {sql.COMMITS} (token, fence, note) values (?, ?, ?)",
            [target.token, target.fence, note],
        )
        con.commit()
        # What is committed is put on record meanwhile.
        self._closing = threading.Thread(target=self._close, name="headrace-close", daemon=True)
        self._closing.start()
        return counts

    def _apply(self) -> Counts:
        con, target = self._con, self._target
        columns = staged = [name for name, _ in self._columns(self._stage)]
        with_file = FILE in columns
        columns = [name for name in columns if name not in sql.INTERNAL]
        if self._there == "view":
            raise Refused(f"{target.table!r} is a view.", field="table")
        exists = bool(self._there)
        if not exists and target.action in sql.NEED_A_TABLE:
            return sql.without_table(target.action, self._stage_counts(with_file=with_file))
        if not exists or (target.action is Action.REPLACE and not self._stays()):
            return self._swap(exists=exists, with_file=with_file)
        replaced_out = 0
        after: list[str] = []
        if target.action is Action.REPLACE and not target.within:
            replaced_out, after = self._make_anew()
        nulls = frozenset() if target.action is Action.DELETE else self._evolve(columns)
        apply = sql.Apply(
            query=self._query, table=self._table, stage=self.stage, columns=columns,
            key=target.key, with_file=with_file,
            nulls=nulls, in_place=target.action is Action.SAVE and self._has_dependants(),
            others=[n for n, _ in self._columns(target.table) if n not in columns],
            has_attribute=_has_attribute if ATTRIBUTES in staged else None,
            within=target.within,
            # Of keyed actions a row goes for one that comes.
            grammar=_Deleting(load=self, of_stage=target.action in KEYED),
        )  # fmt: skip
        counts = apply.run(target.action)
        counts.replaced_out += replaced_out
        for statement in after:
            con.execute(statement)
        con.execute(f"drop table {self.stage}")
        return counts

    def parts(
        self, other: sql.Named, key: Sequence[str], *, also_one: bool = False
    ) -> list[dict[str, str]]:
        """Return conditions, by alias, on rows of the table `t` and another: of each part.

        None where all have room, but for `also_one`. Rows of one key are in one part, whatever
        their types: what is equal can be cast.
        """
        [(rows,)] = self._query(
            f"select least((select count(*) from {self._table}),"
            f" (select count(*) from {other.table}))"
        )
        count = room.parts(rows, room.KEY_BYTES, self._memory_bytes)
        self._in_parts |= count > 1
        if count == 1 and not also_one:
            return []
        types = {name.casefold(): type_ for name, type_ in self._columns(self._target.table)}
        if "rowid" in types:
            return []
        own = [f"t.{quoted(name)}" for name in key]
        others = [
            f"try_cast({other.alias}.{quoted(name)} as {types[name.casefold()]})" for name in key
        ]
        return [
            {"t": room.part(own, number, count), other.alias: room.part(others, number, count)}
            for number in range(count)
        ]

    def deleting(self, rows: Sequence[sql.Some], *, of_stage: bool) -> str:
        """Return SQL that deletes rows of the table `t`; of many it makes the table anew, without.

        `of_stage`: at most one for each row of the stage. Until a transaction ends DuckDB holds 8
        bytes for each row of every vector of which it deletes one: for all of a large table, where
        its rows go here and there.
        """
        own = f"{self._table} as t"
        ids = [f"select t.rowid {some}" for some in rows]
        wheres = [
            some.where if some.source == own else f"t.rowid in ({id_})"
            for some, id_ in zip(rows, ids, strict=True)
        ]
        plain = sql.STANDARD.deleting(self._table, [sql.Some(own, where) for where in wheres])
        [(there,)] = self._query(f"select count(*) from {self._table}")
        vectors_max = room.vectors_max(self._memory_bytes)
        if there // VECTOR_ROWS < vectors_max:
            most = self._staged() if of_stage and there >= room.REBUILD_ROWS else there
            if not room.is_much(most, there):
                return plain
        if not self._is_plain():
            return plain
        gone = quoted(f"{self._stage}_gone")
        self._con.execute(f"create temp table {gone} (id bigint)")
        for some in ids:
            self._query(f"insert into {gone} {some}")
        fresh = quoted(f"{self._stage}_anew")
        room.confine(self._con, self._memory_bytes, copies=2)  # until the transaction ends
        done = room.going(self._con, self._table, gone, fresh, self._memory_bytes)
        # The rows that stay may be many.
        return "; ".join(["set preserve_insertion_order = false", *done, f"drop table {gone}"])

    def _is_plain(self) -> bool:
        """Tell whether a table made of its rows is the same: nothing hangs on it, no defaults."""
        names = [name.casefold() for name, _ in self._columns(self._target.table)]
        if self._has_dependants() or "rowid" in names:
            return False
        probe = f"{self._stage}_probe"
        self._con.execute(f"create table {quoted(probe)} as select * from {self._table} limit 0")
        texts = {
            text.partition("(")[2]
            for (text,) in self._con.execute(
                "select sql from duckdb_tables() where schema_name = 'main' and lower(table_name)"
                " in (lower($1), $2)",
                [self._target.table, probe],
            ).fetchall()
        }
        self._con.execute(f"drop table {quoted(probe)}")
        return len(texts) == 1

    def _digest(self) -> str:
        """Return what changes when any value of the table does; the order of rows is no matter."""
        names = ", ".join(quoted(name) for name, _ in self._columns(self._target.table))
        found = self._query(f"select coalesce(sum(hash({names})), 0) from {self._table}")
        return f"duckdb-sum-hash:{int(found[0][0]):x}"

    def _query(self, text: str) -> list[tuple[Any, ...]]:
        if self._in_parts:
            self._con.execute(room.freeing(self._con))
        return self._con.execute(text).fetchall()

    def _staged(self) -> int:
        [(rows,)] = self._query(f"select count(*) from {self.stage}")
        return int(rows)

    def _stage_counts(self, *, with_file: bool) -> dict[str, int]:
        what = f"{FILE}, count(*)" if with_file else "'', count(*)"
        by = " group by 1" if with_file else ""
        return dict(self._query(f"select {what} from {self.stage}{by}"))

    def _swap(self, *, exists: bool, with_file: bool) -> Counts:
        """Put the stage in the table's place by a rename: no row is written again."""
        counts = Counts(inserted=self._stage_counts(with_file=with_file))
        for name in sql.INTERNAL & {name for name, _ in self._columns(self._stage)}:
            self._con.execute(f"alter table {self.stage} drop column {name}")
        if exists:
            counts.replaced_out = self._query(f"select count(*) from {self._table}")[0][0]
            self._con.execute(f"drop table {self._table}")
        faults.reach("child.in_commit")
        self._con.execute(f"alter table {self.stage} rename to {self._table}")
        return counts

    def _make_anew(self) -> tuple[int, list[str]]:
        """Make the table anew, empty; return its rows before and what to execute after loading.

        DuckDB checks unique keys against rows that the same transaction deleted, so the table
        itself goes, and its constraints, indexes and comments come back.
        """
        name = [self._target.table]
        where = "where schema_name = 'main' and lower(table_name) = lower(?)"
        rows = self._query(f"select count(*) from {self._table}")[0][0]
        [(made, comment)] = self._con.execute(
            f"select sql, comment from duckdb_tables() {where}", name
        ).fetchall()
        after = [
            row[0]
            for row in self._con.execute(
                f"select sql from duckdb_indexes() {where} and sql is not null", name
            ).fetchall()
        ]
        if comment is not None:
            after.append(f"comment on table {self._table} is {literal(comment)}")
        for column, told in self._con.execute(
            f"select column_name, comment from duckdb_columns() {where} and comment is not null",
            name,
        ).fetchall():
            after.append(f"comment on column {self._table}.{quoted(column)} is {literal(told)}")
        self._con.execute(f"drop table {self._table}")
        self._con.execute(made)
        return rows, after

    def _columns(self, table: str) -> list[tuple[str, str]]:
        """Return name and type of the columns of a table that is there."""
        # duckdb_columns() would look at every column that there is.
        found = self._con.execute(f"describe {quoted(table)}").fetchall()
        return [(name, type_) for name, type_, *_ in found]

    def _stays(self) -> bool:
        """Tell whether a replace leaves the table, and changes its rows."""
        target = self._target
        return target.keeps_columns or bool(target.within) or self._has_dependants()

    def _has_dependants(self) -> bool:
        """Tell whether a rename would lose something that hangs on the table."""
        where = "where lower(table_name) = lower($1)"
        found = self._con.execute(
            f"select 1 from duckdb_indexes() {where}"
            f" union all select 1 from duckdb_constraints() {where}"
            f" union all select 1 from duckdb_tables() {where} and comment is not null"
            f" union all select 1 from duckdb_columns() {where} and comment is not null",
            [self._target.table],
        )
        return found.fetchone() is not None

    def _evolve(self, columns: list[str]) -> frozenset[str]:
        there = {
            name.casefold(): our_type(type_) for name, type_ in self._columns(self._target.table)
        }
        coming = [
            Column(name, our_type(type_))
            for name, type_ in self._columns(self._stage)
            if name in columns
        ]
        found = sql.evolution(self._target.table, there, coming, self._is_empty)
        for column in found.add:
            self._con.execute(
                f"alter table {self._table} add column {quoted(column.name)}"
                f" {duckdb_type(column.type)}"
            )
        for column in found.widen:
            self._con.execute(
                f"alter table {self._table} alter {quoted(column.name)} type"
                f" {duckdb_type(column.type)}"
            )
        return found.nulls

    def _is_empty(self, name: str) -> bool:
        return not self._query(f"select count({quoted(name)}) from {self.stage}")[0][0]

    def abort(self) -> None:
        if self._closing:
            return
        with contextlib.suppress(duckdb.Error):
            self._con.rollback()
        with contextlib.suppress(duckdb.Error):
            self._drop()

    def _close(self) -> None:
        with contextlib.suppress(duckdb.Error):  # to close a file takes memory of its own
            self._con.execute(room.freeing(self._con))
        with contextlib.suppress(duckdb.Error):  # what is committed is in the log beside the file
            self._file.close()

    def close(self) -> None:
        """Let go of the file: nobody here has it any more when this returns."""
        if self._closing:
            self._closing.join()
        else:
            self.abort()
            self._file.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deleting(sql.Grammar):
    """DuckDB's, whose load says how rows are deleted."""

    load: DuckdbLoad
    of_stage: bool = False

    def met(
        self, outer: sql.Named, inner: sql.Named, key: Sequence[str], *, lacks: bool = False
    ) -> Sequence[sql.Some]:
        # Of `exists` beside another condition DuckDB makes a join that groups all keys first: in a
        # part, and where rows that are gone are looked for.
        other = inner if outer.alias == "t" else outer
        names = ", ".join(map(quoted, key))
        return [
            sql.Some(
                f"{outer} {'anti' if lacks else 'semi'} join"
                f" (select {names} from {inner} where {part[inner.alias]}) as {inner.alias}"
                f" on {sql.equal(outer, inner, key)}",
                part[outer.alias],
            )
            for part in self.load.parts(other, key, also_one=lacks)
        ] or sql.STANDARD.met(outer, inner, key, lacks=lacks)

    def shares(self, outer: sql.Named, inner: sql.Named, names: Sequence[str]) -> str:
        def told(named: sql.Named) -> str:
            return ", ".join(f"{named.alias}.{quoted(name)}" for name in names)

        return f"({told(outer)}) in (select {told(inner)} from {inner})"

    def joined(self, outer: sql.Named, inner: sql.Named, key: Sequence[str]) -> Sequence[str]:
        same = sql.STANDARD.joined(outer, inner, key)
        parts = self.load.parts(inner, key)
        return [" and ".join([*same, *part.values()]) for part in parts] or same

    def deleting(self, table: str, rows: Sequence[sql.Some]) -> str:
        return self.load.deleting(rows, of_stage=self.of_stage)


def _has_attribute(name: str) -> str:
    return f"list_contains(s.{ATTRIBUTES}::json::varchar[], {literal(name)})"


CONNECTOR: Final[DestinationMaker] = Duckdb  # type: ignore[assignment]  # narrower config
