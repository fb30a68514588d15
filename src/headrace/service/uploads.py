"""Uploads: a client's files, kept on disk as they come, then loaded by one run.

A chunk is there once its row is: the file is written, checked and on disk before. Files that no
row names, and those of runs that have ended, are swept.
"""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from headrace.domain.errors import Conflict, HeadraceError, Invalid, NotFound
from headrace.domain.ids import ChunkId, DestinationId, TenantId, UploadId, is_id, new_id
from headrace.domain.job import Pool
from headrace.domain.principal import Permission, Principal
from headrace.domain.resources import Destination, Source
from headrace.domain.run import ENDED, RunState
from headrace.domain.task import Action, Task, TriggerType
from headrace.domain.upload import Chunk, Form, Upload
from headrace.observe import faults
from headrace.service import pools
from headrace.service.catalog import UPLOADED, Catalog
from headrace.service.runs import Runs
from headrace.settings import Settings
from headrace.store import audit, jobs, resources, runs, uploads
from headrace.store.database import Database, Tx

LISTED_MAX: Final = 1_000
NAME_MAX: Final = 400
INCOMING: Final = ".incoming-"
FOLDER: Final = "uploads"
OTHERS_S: Final = 86_400.0  # what another server may still be writing was touched since

# Returns the columns of a file of a format, or raises what is wrong with it.
Look = Callable[[TenantId, str, Mapping[str, Any]], Sequence[str]]


class Uploads:
    """Uploads of every tenant."""

    def __init__(
        self, database: Database, catalog: Catalog, started: Runs, settings: Settings, look: Look
    ) -> None:
        self._database = database
        self._catalog = catalog
        self._runs = started
        self._settings = settings
        self._look = look
        self.folder = settings.common / FOLDER

    def add(
        self, caller: Principal, pool: str, *, table: str, form: Form, extra: Mapping[str, Any]
    ) -> Upload:
        """Begin an upload. Raises Invalid, naming the member."""
        if not table.strip() or len(table) > NAME_MAX or table.casefold().startswith("_headrace_"):
            raise Invalid(f"targetName must have 1 to {NAME_MAX} characters.", field="targetName")
        for column in form.key:
            if form.types and column not in form.types:
                raise Invalid(f"keys names {column!r}, which is not in the schema.", field="keys")
        with self._database.begin() as tx:
            owner = pools.of(tx, caller, pool, Permission.MANAGE)
            new = Upload(
                id=UploadId(new_id()), tenant=owner.tenant, pool=owner.id, table=table, form=form,
                extra=extra, run=None, created_at=tx.now, updated_at=tx.now,
            )  # fmt: skip
            uploads.add(tx, new)
            audit.add(tx, caller, "upload.added", new.id)
        return new

    def get(self, caller: Principal, pool: str, id_: str) -> tuple[Upload, RunState | None]:
        """Return an upload, and the state of its run if it has one."""
        with self._database.read() as tx:
            found = self._get(tx, caller, pool, id_, Permission.VIEW)
            return found, uploads.states(tx, [found]).get(found.id)

    def _get(
        self, tx: Tx, caller: Principal, pool: str, id_: str, permission: Permission, *,
        lock: bool = False,
    ) -> Upload:  # fmt: skip
        owner = pools.of(tx, caller, pool, permission)
        found = None
        if is_id(id_):
            found = uploads.find(tx, owner.tenant, owner.id, id_, lock=lock)
        if found is None:
            raise NotFound(f"cannot find job {id_[:80]} of the pool {owner.name!r}")
        return found

    def listed(self, caller: Principal, pool: str) -> list[tuple[Upload, RunState | None]]:
        """Return a pool's uploads, newest first."""
        with self._database.read() as tx:
            owner = pools.of(tx, caller, pool, Permission.VIEW)
            found = uploads.listed(tx, owner.id, LISTED_MAX)
            known = uploads.states(tx, found)
        return [(one, known.get(one.id)) for one in found]

    def tables(self, caller: Principal, pool: str) -> list[str]:
        """Return the tables of a pool that have been uploaded to."""
        with self._database.read() as tx:
            return uploads.table_names(tx, pools.of(tx, caller, pool, Permission.VIEW).id)

    def remove(self, caller: Principal, pool: str, id_: str) -> None:
        """Remove an upload; one that is being loaded is cancelled. What landed stays."""
        with self._database.begin() as tx:
            found = self._get(tx, caller, pool, id_, Permission.MANAGE, lock=True)
            run = runs.find(tx, found.tenant, found.run) if found.run else None
            if run is not None and run.state not in ENDED:
                if run.state is not RunState.QUEUED:
                    raise Conflict(
                        "The files are being loaded.", hint=f"Cancel the run {run.id} first."
                    )
                self._runs.stop(tx, run)
            uploads.remove(tx, found.id)
            audit.add(tx, caller, "upload.removed", found.id)
        shutil.rmtree(self.folder / found.id, ignore_errors=True)

    # Chunks.

    def incoming(self, caller: Principal, pool: str, id_: str, *, deletes: bool) -> Path:
        """Return where a new chunk may be written to. Raises what forbids one."""
        with self._database.read() as tx:
            found = self._get(tx, caller, pool, id_, Permission.MANAGE)
        self._judge_new(found, deletes=deletes)
        path = self.folder / found.id / f"{INCOMING}{new_id()}"
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        return path

    @staticmethod
    def _judge_new(found: Upload, *, deletes: bool) -> None:
        if found.run is not None:
            raise Conflict("The job has been started: it takes no more chunks.")
        if deletes and found.form.replaces:
            raise Invalid("A job of type REPLACE takes no chunk of deleted rows.", field="type")
        if deletes and not found.form.key:
            raise Invalid("Rows can be deleted by their keys only: the job has none.", field="keys")

    def keep(
        self, caller: Principal, pool: str, id_: str, path: Path, *, deletes: bool, size: int,
        checksum: str,
    ) -> Chunk:  # fmt: skip
        """Check a chunk that has been written to `path`, and keep it.

        Raises Invalid for a file of another format or with other columns; then nothing is kept.
        """
        with self._database.read() as tx:
            found = self._get(tx, caller, pool, id_, Permission.MANAGE)
        columns = self._columns(found, path)
        new = ChunkId(new_id())
        with self._database.begin() as tx:
            found = self._get(tx, caller, pool, id_, Permission.MANAGE, lock=True)
            self._judge_new(found, deletes=deletes)
            self._judge_columns(tx, found, columns)
            chunk = Chunk(
                id=new, deletes=deletes, bytes=size, checksum=checksum, columns=tuple(columns),
                created_at=tx.now,
            )  # fmt: skip
            path.rename(path.parent / chunk.file(found.form))
            _sync_folder(path.parent)
            faults.reach("server.chunk_written")
            uploads.add_chunk(tx, found.id, chunk)
        return chunk

    def _columns(self, found: Upload, path: Path) -> Sequence[str]:
        given: dict[str, Any] = {"url": str(path)}
        if found.form.format == "csv":
            given |= dict(found.form.options) | {"unmapped": "string"}
        try:
            return self._look(found.tenant, found.form.format, given)
        except HeadraceError as error:
            if error.status >= 500:
                raise
            raise Invalid(
                error.message.replace(str(path), "The file"),
                hint=f"The job takes files of the type {found.form.format.upper()}.", field="file",
            ) from None  # fmt: skip

    @staticmethod
    def _judge_columns(tx: Tx, found: Upload, columns: Sequence[str]) -> None:
        form = found.form
        for name in columns:
            if form.types and name not in form.types:
                raise Invalid(
                    f"The column {name!r} is not in the schema of the job.",
                    hint=f"Its columns: {', '.join(list(form.types)[:20])}.", field="file",
                )  # fmt: skip
        for name in form.key:
            if name not in columns:
                raise Invalid(f"The key column {name!r} is not in the file.", field="file")
        if form.replaces:
            earlier = uploads.chunks(tx, found.id)
            if earlier and set(earlier[0].columns) != set(columns):
                raise Invalid(
                    "The chunks of a job of type REPLACE must have the same columns.",
                    hint=f"The first has: {', '.join(earlier[0].columns[:20])}.", field="file",
                )  # fmt: skip

    def chunks(self, caller: Principal, pool: str, id_: str) -> list[Chunk]:
        """Return an upload's chunks in their order."""
        with self._database.read() as tx:
            found = self._get(tx, caller, pool, id_, Permission.VIEW)
            return uploads.chunks(tx, found.id)

    # The load.

    def start(self, caller: Principal, pool: str, id_: str, latest: str | None = None) -> Upload:
        """Load an upload whose chunks are all there, by a run. `latest` as in its form."""
        with self._database.begin() as tx:
            found = self._get(tx, caller, pool, id_, Permission.MANAGE, lock=True)
            if found.run is not None:
                raise Conflict("The job has been started already.")
            there = uploads.chunks(tx, found.id)
            if not there:
                raise Invalid("The job has no chunks.", hint="Send them first.", field="file")
            if latest is not None and any(latest not in one.columns for one in there):
                raise Invalid(
                    f"duplicateRemovalColumn: no column {latest[:80]!r} in every chunk.",
                    field="duplicateRemovalColumn",
                )
            owner = pools.of(tx, caller, pool, Permission.MANAGE)
            task = self._task(tx, owner, found)
            run = self._runs.queue_upload(tx, task, _action(found.form), found.pool)
            form = replace(found.form, latest=latest or found.form.latest)
            uploads.started(tx, found.id, run.id, form)
            audit.add(tx, caller, "upload.started", found.id)
        faults.reach("server.upload_started")
        self._runs.wake()
        return replace(found, run=run.id, form=form)

    def _task(self, tx: Tx, owner: Pool, found: Upload) -> Task:
        """Return the task that loads a table of the pool, made on its first upload."""
        known = uploads.task_of(tx, owner.id, found.table)
        if known is not None:
            task = resources.find(tx, Task, owner.tenant, known)
            assert task is not None  # a foreign key
            return task
        tx.lock_claims()
        end = owner.destination or self._destination(tx, owner)
        source = self._catalog.keep_end(
            tx, Source, owner.tenant, type_=UPLOADED, name=f"uploads to {owner.name}"[:NAME_MAX],
            given={"pool": owner.id, "table": found.table}, planned=True,
        )  # fmt: skip
        task = self._catalog.keep_task(
            tx, owner.tenant, source=source.id, destination=end, action=Action.REPLACE,
            name=f"{owner.name}: {found.table}"[:NAME_MAX], table=found.table,
            trigger=TriggerType.SUBSCRIPTION,
        )  # fmt: skip
        uploads.add_table(tx, owner.id, found.table, task.id)
        return task

    def _destination(self, tx: Tx, owner: Pool) -> DestinationId:
        """Make the DuckDB file in which a pool's tables are."""
        path = f"lake/{owner.tenant}/{owner.id}.duckdb"
        (self._settings.data_dir / path).parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        end = self._catalog.keep_end(
            tx, Destination, owner.tenant, type_="duckdb", given={"path": path},
            name=f"tables of {owner.name}"[:NAME_MAX],
        )  # fmt: skip
        jobs.change_pool(tx, replace(owner, destination=end.id, updated_at=tx.now))
        return end.id

    def sweep(self, *, starting: bool = False) -> int:
        """Remove the files of uploads that are over or gone; at the start, all half-written ones.

        In a shared folder only those that nobody has written to for long. Returns how many
        folders were removed.
        """
        before = time.time() - OTHERS_S if self._settings.shared else float("inf")
        with contextlib.suppress(FileNotFoundError):
            names = [entry.name for entry in os.scandir(self.folder) if entry.is_dir()]
            with self._database.read() as tx:
                needed = uploads.needed(tx, names)
                kept = {name: uploads.chunks(tx, UploadId(name)) for name in needed if starting}
            for name in needed if starting else ():
                known = {str(chunk.id) for chunk in kept[name]}
                for path in (self.folder / name).iterdir():
                    if path.is_file() and path.stem not in known and path.stat().st_mtime < before:
                        path.unlink()
            for name in set(names) - needed:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            return len(set(names) - needed)
        return 0


def _action(form: Form) -> Action:
    return Action.REPLACE if form.replaces else Action.SAVE if form.key else Action.APPEND


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
