"""A folder of Parquet files, one subfolder a table.

What belongs to the table says `_manifest.json`, renamed over the old one: readers that go by it see
a load whole or not at all. Rows can be replaced or appended; rows in files cannot be changed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import duckdb
import msgspec

from headrace.connectors.families.duckdb_file import confine, our_type
from headrace.connectors.families.duckdb_table import DuckdbSnapshot
from headrace.connectors.families.paging import page_of
from headrace.connectors.families.table_source import side_of
from headrace.contract.columns import FILE, Column, duckdb_type, literal, quoted
from headrace.contract.destination import Counts, DestinationMaker, Load, Page, Rows, Target
from headrace.contract.instance import instance, instance_in
from headrace.contract.meanwhile import meanwhile
from headrace.contract.side import Side
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import LostClaim, Misconfigured, NotFound, Unbalanced
from headrace.domain.task import Action
from headrace.observe import faults

MANIFEST: Final = "_manifest.json"
NOTES_MAX: Final = 1000  # commits that a manifest remembers
STAGE: Final = "__headrace_stage"
SYNC_S: Final = 0.5


class ParquetConfig(Config, frozen=True, kw_only=True):
    """What a user fills in for a folder of Parquet files."""

    path: Annotated[str, msgspec.Meta(min_length=1, title="Folder")]
    table: str | None = None


class Parquet:
    """One folder."""

    spec: ClassVar[Spec] = Spec(
        name="parquet", title="Parquet folder", config=ParquetConfig,
        actions=frozenset({Action.REPLACE, Action.APPEND}), local=True, verifies=True,
    )  # fmt: skip
    document_rules = None

    def __init__(self, config: ParquetConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        self._path = tools.allowed_target(config.path)

    def check(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)

    def table_for(self, wanted: str | None, stream: str) -> str:
        return wanted or self._config.table or stream

    def exclusive(self) -> str | None:
        return f"parquet:{self._path}"

    def load(self, target: Target) -> Load:
        return ParquetLoad(self._folder(target.table), target, self._tools)

    def _folder(self, table: str) -> Path:
        if table in ("", ".", "..") or "/" in table or "\0" in table or table.startswith("_"):
            raise Misconfigured(f"{table!r} cannot be a folder's name.", field="table")
        return self._path / table

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        folder = self._folder(table)
        files = _manifest(folder)["files"]
        if not files:
            raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
        paths = ", ".join(literal(str(folder / file)) for file in files)
        start = int(cursor or 0)
        with instance() as con:
            found = con.execute(
                f"select row_number() over () - 1 as place, * from read_parquet([{paths}],"
                f" union_by_name=true) limit {limit + 1} offset {start}"
            )
            names = [column[0] for column in found.description or ()][1:]
            rows = [(start + at, *row[1:]) for at, row in enumerate(found.fetchall())]
        return page_of(names, rows, limit)

    @contextlib.contextmanager
    def side(self, table: str) -> Iterator[Side]:
        folder = self._folder(table)
        if not (files := _manifest(folder)["files"]):
            raise NotFound(f"There is no table {table!r} yet.", hint="Has a run succeeded?")
        paths = ", ".join(literal(str(folder / file)) for file in files)
        with instance() as con:
            confine(con, self._tools)
            relation = f"read_parquet([{paths}], union_by_name=true)"
            yield side_of(DuckdbSnapshot(con, relation, table, self._tools))

    def close(self) -> None:
        pass


@contextlib.contextmanager
def _written_through(path: Path) -> Iterator[None]:
    """Have a file on the disk at the end, and most of it before: beside its writing."""
    failed: list[OSError] = []

    def sync() -> bool:
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:
            pass  # not begun
        except OSError as error:  # told once, and by no later call
            failed.append(error)
        return True

    with meanwhile(sync, SYNC_S, "headrace-sync"):
        yield
    sync()
    if failed:
        raise failed[0]


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / MANIFEST).read_bytes())  # type: ignore[no-any-return]  # an object, as written
    except FileNotFoundError:
        return {"files": [], "fences": {}, "commits": {}}


class ParquetLoad:
    """One load into one table's folder: files of their own, which a manifest names at the end."""

    stages = False
    stage = ""
    temporary = False

    def __init__(self, folder: Path, target: Target, tools: Tools) -> None:
        self._folder = folder
        self._target = target
        con = instance_in(tools.spool)
        confine(con, tools)
        con.execute(f"set allowed_directories = [{literal(f'{folder}/')}]")
        self.con: duckdb.DuckDBPyConnection | None = con
        self._con = con
        self._group_bytes = tools.memory_bytes // 16  # of rows that a thread collects
        self._part = f"{target.fence:020d}"
        self._written: list[str] = []  # files
        self._counts = Counts()

    def begin(self) -> str | None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._locked() as manifest:
            if note := manifest["commits"].get(self._target.token):
                return str(note)
            self._check_fence(manifest)
            manifest["fences"][self._target.scope] = self._target.fence
            known = {file.partition("/")[0] for file in manifest["files"]}
            for path in self._folder.iterdir():
                if path.is_dir() and path.name not in known:
                    shutil.rmtree(path, ignore_errors=True)  # an orphan of a killed load
            self._write(manifest)
        return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        with (self._folder / "_lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield _manifest(self._folder)

    def _check_fence(self, manifest: dict[str, Any]) -> None:
        fence = manifest["fences"].get(self._target.scope, 0)
        if fence > self._target.fence:
            raise LostClaim("A newer attempt loads this table.", fence=fence)

    def _write(self, manifest: dict[str, Any]) -> None:
        fresh = self._folder / f"{MANIFEST}.new"
        with fresh.open("w") as file:
            json.dump(manifest, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(self._folder / MANIFEST)
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def columns(self) -> Sequence[Column] | None:
        files = _manifest(self._folder)["files"]
        if not files:
            return None
        paths = ", ".join(literal(str(self._folder / file)) for file in files)
        found = self._con.execute(
            f"describe select * from read_parquet([{paths}], union_by_name=true)"
        ).fetchall()
        return [Column(name, our_type(type_)) for name, type_, *_ in found]

    def write(self, rows: Rows) -> dict[str, int]:
        sql = rows.sql
        if rows.with_file:  # which row is of which file is counted before that is forgotten
            rows.con.execute(f"create or replace table {STAGE} as {sql}")
            sql = f"select * from {STAGE}"
            found = rows.con.execute(f"select {FILE}, count(*) from {STAGE} group by 1").fetchall()
            counted = dict(found)
        columns = ", ".join(self._items(rows.columns))
        path = self._new_file()
        rows.con.execute("set preserve_insertion_order = false")  # or groups have no size in bytes
        with _written_through(path):
            copied = rows.con.execute(
                f"copy (select {columns} from ({sql})) to {literal(str(path))} (format parquet,"
                f" compression zstd, row_group_size_bytes {self._group_bytes})"
            ).fetchone()
        if not rows.with_file:
            counted = {"": copied[0] if copied else 0}
        if (landed := self._rows([path])) != sum(counted.values()):
            raise Unbalanced(f"{landed:,} rows are in the file, not what was staged.")
        for file, number in counted.items():
            self._counts.inserted[file] = self._counts.inserted.get(file, 0) + number
        return counted

    def _items(self, columns: Sequence[Column]) -> list[str]:
        """Return what a file gets: the columns that came, and those that a table keeps."""
        items = [quoted(column.name) for column in columns]
        kept = (self.columns() or ()) if self._target.keeps_columns else ()
        came = {column.name.casefold() for column in columns}
        lacking = [column for column in kept if column.name.casefold() not in came]
        return items + [f"null::{duckdb_type(one.type)} as {quoted(one.name)}" for one in lacking]

    def _new_file(self) -> Path:
        part = self._folder / self._part
        part.mkdir(exist_ok=True)
        number = len(self._written)
        self._written.append(f"{self._part}/rows{f'-{number}' if number else ''}.parquet")
        return self._folder / self._written[-1]

    def _rows(self, paths: Sequence[Path]) -> int:
        """Return how many rows files hold, as their own metadata say."""
        if not paths:
            return 0
        found = self._con.execute(
            "select sum(num_rows) from parquet_file_metadata($1)", [list(map(str, paths))]
        ).fetchone()
        return int(found[0]) if found else 0

    def keep(self, rows: Rows) -> None:
        raise NotImplementedError  # its spec says so

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        counts = self._counts
        counts.digest = self._digest()
        landed = sum(counts.inserted.values())
        with self._locked() as manifest:
            self._check_fence(manifest)
            old = manifest["files"]
            there = self._rows([self._folder / name for name in old])
            replace = self._target.action is Action.REPLACE
            counts.replaced_out = there if replace else 0
            counts.rows_after = landed + (0 if replace else there)
            note = sign(counts)
            faults.reach("child.in_commit")
            manifest["files"] = [*([] if replace else old), *self._written]
            notes = [*manifest["commits"].items(), (self._target.token, note)]
            manifest["commits"] = dict(notes[-NOTES_MAX:])
            self._write(manifest)
        if replace:
            for part in {(self._folder / name).parent for name in old}:
                shutil.rmtree(part, ignore_errors=True)
        self.close()
        return counts

    def _digest(self) -> str:
        """Return the SHA-256 of the files that were written, one after the other."""
        digest = hashlib.sha256()
        for name in self._written:
            with (self._folder / name).open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return f"sha256:{digest.hexdigest()}"

    def abort(self) -> None:
        self._written, self._counts = [], Counts()
        with contextlib.suppress(duckdb.Error):
            self._con.execute(f"drop table if exists {STAGE}")
        known = {name.partition("/")[0] for name in _manifest(self._folder)["files"]}
        if self._part not in known:
            shutil.rmtree(self._folder / self._part, ignore_errors=True)

    def close(self) -> None:
        """Let go of the stage."""
        self._con.close()


CONNECTOR: Final[DestinationMaker] = Parquet  # type: ignore[assignment]  # narrower config
