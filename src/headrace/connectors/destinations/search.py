"""The tenant's embedded search index: one SQLite file an index, with full text (FTS5).

Records are whole JSON documents under their objectID. A load stages in chunks, so that readers and
pushes get in between, and shows everything in one transaction. It is short where most of the index
is written anew: the rest is laid beside it first, and both change places.
"""

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import msgspec

from headrace.connectors.families.attributes import excluded
from headrace.connectors.families.index_form import IndexConfig
from headrace.connectors.families.sqlite import told
from headrace.contract.chunks import chunks
from headrace.contract.columns import DOCUMENT, FILE, KEY
from headrace.contract.destination import (
    NOTE_DAYS,
    Counts,
    DestinationMaker,
    DocumentRules,
    Load,
    Page,
    Rows,
    Target,
)
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import LostClaim, NotFound, Unavailable
from headrace.domain.task import Action
from headrace.observe import faults

CHUNK_ROWS: Final = 10_000
BUSY_S: Final = 30.0
WHOLE: Final = (Action.REPLACE, Action.DROP)
_told: Final = partial(told, "index", "Make room; nothing was published.")
_TEXT: Final = "(select group_concat(atom, ' ') from json_tree(body) where type = 'text')"


class SearchConfig(IndexConfig, frozen=True, kw_only=True):
    """What a user fills in for an index."""


class Search:
    """One embedded index."""

    spec: ClassVar[Spec] = Spec(
        name="search", title="Search index", config=SearchConfig, actions=frozenset(Action),
        documents=True, local=True,
    )  # fmt: skip

    def __init__(self, config: SearchConfig, tools: Tools) -> None:
        self._config = config
        self._path = path_of(tools.data_dir, tools.tenant, config.index_name)
        self._named = (tools.tenant, config.index_name)
        exclude = excluded(config.attributes_to_exclude)
        self.document_rules = DocumentRules(shaped=exclude) if exclude else None

    def check(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)

    def table_for(self, wanted: str | None, stream: str) -> str:
        return self._config.index_name

    def exclusive(self) -> str | None:
        return f"index:{self._config.index_name} ({self._path.stem[:8]})"

    def load(self, target: Target) -> Load:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with _told():
            con = _open(self._path)
            con.execute("insert or replace into named values (1, ?, ?)", self._named)
            return SearchLoad(con, target)

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        if table != self._config.index_name or not self._path.exists():
            raise NotFound(f"There is no index {table!r} yet.", hint="Has a run succeeded?")
        with _told(), contextlib.closing(_open(self._path)) as con:
            found = con.execute(
                "select id, object_id, body from records where id >= ? order by id limit ?",
                [int(cursor or 0), limit + 1],
            ).fetchall()
        rows = [
            {"objectID": row[1]} | json.loads(row[2], parse_float=_exact) for row in found[:limit]
        ]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        following = str(found[limit][0]) if len(found) > limit else None
        return Page(columns=columns, rows=rows, next=following)

    def close(self) -> None:
        pass


def _exact(number: str) -> float | Decimal:
    """Return a number as a double, or as a decimal where a double would be another number."""
    double = float(number)
    exact = Decimal(number)
    return double if Decimal(repr(double)) == exact else exact


def path_of(data_dir: Path, tenant: str, name: str) -> Path:
    """Return the file of an index."""
    digest = hashlib.sha256(f"{tenant}\n{name}".encode()).hexdigest()
    return data_dir / "indexes" / f"{digest[:40]}.db"


def _open(path: Path) -> sqlite3.Connection:
    con = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    con.execute("pragma journal_mode = WAL")
    con.execute("pragma synchronous = FULL")
    con.executescript(
        "create table if not exists records (id integer primary key, object_id text not null"
        " unique, body text not null, file integer);"
        "create virtual table if not exists records_text using fts5(text);"
        "create table if not exists named (id integer primary key, tenant text, name text);"
        "create table if not exists fences (scope text primary key, fence integer not null);"
        "create table if not exists commits (token text primary key, fence integer not null,"
        " note text not null, committed_at text default current_timestamp);"
    )
    return con


def _saved(updated: dict[str, int], total: dict[str, int]) -> Counts:
    inserted = {name: rows - updated.get(name, 0) for name, rows in total.items()}
    return Counts(inserted=inserted, updated=updated)


def _merged(old: str, new: str) -> str:
    """Lay the attributes of one document over another's, at the top level, byte for byte."""
    raw = dict[str, msgspec.Raw]
    both = msgspec.json.decode(old, type=raw) | msgspec.json.decode(new, type=raw)
    return msgspec.json.encode(both).decode()


class SearchLoad:
    """One load into the index."""

    stages = False
    stage = ""
    temporary = False
    con: duckdb.DuckDBPyConnection | None = None

    def __init__(self, con: sqlite3.Connection, target: Target) -> None:
        self._db = con
        self._target = target
        con.create_function("merged", 2, _merged, deterministic=True)
        self._stage = f"stage_{target.fence}"
        self._files: list[str] = []
        self._staged: dict[str, int] = {}  # rows by file
        self._whole = False  # the stage takes the place of the records: its text is made with it
        self._base = 0  # rows of the stage come behind it; records of the index stand before
        self._state = 0  # of the file when that was looked up, which others' writing changes

    def begin(self) -> str | None:
        with _told():
            db, target = self._db, self._target
            if found := db.execute(
                "select note from commits where token = ?", [target.token]
            ).fetchone():
                return str(found[0])
            db.execute("begin immediate")
            self._check_fence()
            db.execute("insert or replace into fences values (?, ?)", [target.scope, target.fence])
            for (name,) in db.execute(
                "select name from sqlite_master where type = 'table' and name glob 'stage_[0-9]*'"
                " and (name not glob '*_text_*')"
            ).fetchall():
                db.execute(f'drop table if exists "{name}"')  # an orphan: loads go one by one
            db.execute(
                f"create table {self._stage} (id integer primary key, object_id text not null"
                " unique, body text not null, file integer)"
            )
            self._whole = target.action in WHOLE or (
                target.action in (Action.SAVE, Action.APPEND) and self._is_empty()
            )
            if self._whole:
                db.execute(f"create virtual table {self._stage}_text using fts5(text)")
            else:
                (self._base,) = db.execute("select coalesce(max(id), 0) from records").fetchone()
                self._state = self._changes()
            db.execute("commit")
        return None

    def _check_fence(self) -> None:
        found = self._db.execute(
            "select fence from fences where scope = ?", [self._target.scope]
        ).fetchone()
        if found and found[0] > self._target.fence:
            raise LostClaim("A newer attempt loads this index.", fence=found[0])

    def columns(self) -> None:
        return None  # records have no columns of a table

    def write(self, rows: Rows) -> dict[str, int]:
        names = [KEY, DOCUMENT, *([FILE] if rows.with_file else [])]
        found = rows.con.execute(f"select {', '.join(names)} from ({rows.sql})")
        with _told():
            for chunk in chunks(found, CHUNK_ROWS):
                self._write_chunk(chunk, with_file=rows.with_file)
            counted = self._db.execute(
                f"select file, count(*) from {self._stage} group by file"
            ).fetchall()
        total = {("" if number is None else self._files[number]): n for number, n in counted}
        before, self._staged = self._staged, total
        return {file: number - before.get(file, 0) for file, number in total.items()}

    def _write_chunk(self, chunk: list[tuple[Any, ...]], *, with_file: bool) -> None:
        db = self._db
        if with_file:
            for path in dict.fromkeys(row[2] for row in chunk):
                if path not in self._files:
                    self._files.append(path)
            number = {path: at for at, path in enumerate(self._files)}
            chunk = [(row[0], row[1], number[row[2]]) for row in chunk]
        (first,) = db.execute(
            f"select coalesce(max(id), {self._base}) from {self._stage}"
        ).fetchone()
        marks = "?, ?, ?" if with_file else "?, ?, null"
        row, *others = chunk
        db.execute("begin immediate")
        insert = f"insert into {self._stage} (id, object_id, body, file) values"
        db.execute(f"{insert} ({first + 1}, {marks})", row)  # the others follow it
        db.executemany(f"{insert} (null, {marks})", others)
        if self._whole:
            self._add_text(first)
        db.execute("commit")
        if first == self._base:
            faults.reach("child.half_staged")

    def _add_text(self, after: int, last: int = 1 << 62) -> None:
        self._db.execute(
            f"insert into {self._stage}_text (rowid, text) select id, {_TEXT}"
            f" from {self._stage} where id > ? and id <= ?",
            [after, last],
        )

    def keep(self, rows: Rows) -> None:
        raise NotImplementedError  # its spec says so

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        with _told():
            db, target = self._db, self._target
            anew = self._lay_anew()
            db.execute("begin immediate")
            self._check_fence()
            counts = self._apply() if anew is None else self._show(anew)
            (counts.rows_after,) = db.execute("select count(*) from records").fetchone()
            note = sign(counts)
            if target.tidies:
                db.execute(
                    f"delete from commits where committed_at < datetime('now', '-{NOTE_DAYS} days')"
                )
            db.execute(
                "insert into commits (token, fence, note) values (?, ?, ?)",
                [target.token, target.fence, note],
            )
            db.execute("commit")
            db.close()
        return counts

    def _apply(self) -> Counts:
        match self._target.action:
            case Action.REPLACE:
                return self._replace()
            case Action.DROP:
                self._db.execute("delete from named")
                return self._replace()
            case Action.DELETE:
                return self._delete()
            case Action.PARTIAL | Action.PARTIAL_NO_CREATE:
                return self._partial(create=self._target.action is Action.PARTIAL)
            case _ if self._whole and self._is_empty():
                return self._replace()
            case _:
                self._db.execute(f"drop table if exists {self._stage}_text")
                return self._save()

    def _lay_anew(self) -> Counts | None:
        """Make of the stage what the index is to be, where most of that is staged already.

        Returns the counts; None where it is less work to change the index in place.
        """
        db, action = self._db, self._target.action
        partial = action in (Action.PARTIAL, Action.PARTIAL_NO_CREATE)
        if not partial and action not in (Action.SAVE, Action.APPEND):
            return None
        staged = sum(self._staged.values())
        if self._whole or staged < CHUNK_ROWS:
            return None
        if self._changes() != self._state:
            return None  # what has come in may stand where the stage begins
        (there,) = db.execute("select count(*) from records").fetchone()
        if there - staged > staged + staged // 4:
            return None  # even if each of them is there already
        updated = self._by_file(self._known)
        matched = sum(updated.values())
        if there - matched > matched + staged // 4:  # to be copied; against what would be removed
            return None
        if partial:
            counts = self._merge(updated, create=action is Action.PARTIAL)
        else:
            counts = _saved(updated, self._by_file("true"))
        db.execute(f"create virtual table {self._stage}_text using fts5(text)")
        for after, last in self._parts(self._stage, self._base):
            db.execute("begin immediate")
            self._add_text(after, last)
            db.execute("commit")
        for after, last in self._parts("records", 0):
            left = f"id > {after} and id <= {last} and object_id not in (select object_id from"
            db.execute("begin immediate")
            db.execute(
                f"insert into {self._stage} (id, object_id, body) select id, object_id, body"
                f" from records where {left} {self._stage})"
            )
            db.execute(
                f"insert into {self._stage}_text (rowid, text) select s.id, t.text"
                f" from {self._stage} as s join records_text as t on t.rowid = s.id"
                f" where s.id > {after} and s.id <= {last}"
            )
            db.execute("commit")
        return counts

    def _parts(self, table: str, after: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of ids, of CHUNK_ROWS rows each: after the first, up to the second."""
        while True:
            (last,) = self._db.execute(
                f"select max(id) from (select id from {table} where id > ? order by id"
                f" limit {CHUNK_ROWS})",
                [after],
            ).fetchone()
            if last is None:
                return
            yield after, last
            after = last

    def _show(self, counts: Counts) -> Counts:
        """Have the stage, which was made of a state of the index, take its place."""
        if self._changes() != self._state:
            raise Unavailable("The index was written to by somebody else meanwhile.")
        self._put_in_place()
        return counts

    def _changes(self) -> int:
        """Return what is another number when another connection has written."""
        return int(self._db.execute("pragma data_version").fetchone()[0])

    def _is_empty(self) -> bool:
        return self._db.execute("select 1 from records limit 1").fetchone() is None

    def _by_file(self, where: str) -> dict[str, int]:
        found = self._db.execute(
            f"select file, count(*) from {self._stage} as s where {where} group by file"
        ).fetchall()
        return {("" if number is None else self._files[number]): n for number, n in found}

    _known: Final = "exists (select 1 from records as r where r.object_id = s.object_id)"

    def _replace(self) -> Counts:
        db = self._db
        counts = Counts(inserted=self._by_file("true"))
        (counts.replaced_out,) = db.execute("select count(*) from records").fetchone()
        self._put_in_place()
        return counts

    def _put_in_place(self) -> None:
        db = self._db
        db.execute("drop table records")
        db.execute("drop table records_text")
        faults.reach("child.in_commit")
        db.execute(f"alter table {self._stage} rename to records")
        db.execute(f"alter table {self._stage}_text rename to records_text")

    def _save(self) -> Counts:
        counts = _saved(self._by_file(self._known), self._by_file("true"))
        self._forget_matched()
        self._insert("true")
        return counts

    def _partial(self, *, create: bool) -> Counts:
        counts = self._merge(self._by_file(self._known), create=create)
        self._forget_matched()
        self._insert("true")
        return counts

    def _merge(self, updated: dict[str, int], *, create: bool) -> Counts:
        """Lay the staged attributes over those that the records have."""
        new = self._by_file(f"not {self._known}")
        self._db.execute(
            f"update {self._stage} set body = (select merged(r.body, {self._stage}.body)"
            f" from records as r where r.object_id = {self._stage}.object_id)"
            f" where object_id in (select object_id from records)"
        )
        if not create:
            self._db.execute(
                f"delete from {self._stage} where object_id not in (select object_id from records)"
            )
        return Counts(
            inserted=new if create else {}, updated=updated, filtered={} if create else new
        )

    def _delete(self) -> Counts:
        deleted = self._by_file(self._known)
        missed = self._by_file(f"not {self._known}")
        self._forget_matched()
        self._db.execute(f"drop table {self._stage}")
        return Counts(deleted=deleted, unchanged=missed)

    def _forget_matched(self) -> None:
        matched = f"select r.id from records as r join {self._stage} as s using (object_id)"
        self._db.execute(f"delete from records_text where rowid in ({matched})")
        self._db.execute(f"delete from records where id in ({matched})")

    def _insert(self, where: str) -> None:
        db = self._db
        (first,) = db.execute("select coalesce(max(id), 0) from records").fetchone()
        db.execute(
            f"insert into records (object_id, body, file) select object_id, body, null"
            f" from {self._stage} where {where} order by id"
        )
        db.execute(
            f"insert into records_text (rowid, text) select id, {_TEXT} from records where id > ?",
            [first],
        )
        db.execute(f"drop table {self._stage}")

    def abort(self) -> None:
        self._files, self._staged = [], {}
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("rollback")
            self._db.execute(f"drop table if exists {self._stage}")
            self._db.execute(f"drop table if exists {self._stage}_text")

    def close(self) -> None:
        """Let go of the file."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


CONNECTOR: Final[DestinationMaker] = Search  # type: ignore[assignment]  # narrower config
