"""Uploads, their chunks, and the tables of pools that they go to."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.ids import ChunkId, PoolId, RunId, TaskId, TenantId, UploadId
from headrace.domain.run import RunState
from headrace.domain.upload import Chunk, Form, Upload
from headrace.store import tables
from headrace.store.database import Tx

upload: Final = tables.upload
chunk: Final = tables.upload_chunk
pool_table: Final = tables.pool_table


def add(tx: Tx, new: Upload) -> None:
    tx.add(
        upload, id=new.id, tenant=new.tenant, pool=new.pool, table_name=new.table,
        form=asdict(new.form), extra=dict(new.extra), created_at=new.created_at,
        updated_at=new.updated_at,
    )  # fmt: skip


def find(tx: Tx, tenant: TenantId, pool: PoolId, id_: str, *, lock: bool = False) -> Upload | None:
    query = sa.select(upload).where(
        upload.c.id == id_, upload.c.tenant == tenant, upload.c.pool == pool
    )
    found = tx.first(query.with_for_update() if lock else query)
    return None if found is None else _made(found)


def of_run(tx: Tx, run: RunId) -> Upload | None:
    """Return the upload that a run loads."""
    found = tx.get(upload, run=run)
    return None if found is None else _made(found)


def listed(tx: Tx, pool: PoolId, limit: int) -> list[Upload]:
    """Return a pool's uploads, newest first."""
    query = sa.select(upload).where(upload.c.pool == pool).order_by(upload.c.id.desc())
    return [_made(row) for row in tx.all(query.limit(limit))]


def states(tx: Tx, found: Sequence[Upload]) -> dict[UploadId, RunState]:
    """Return the states of the uploads' runs, of those that have one."""
    run = tables.run
    query = sa.select(upload.c.id, run.c.state).join(run, run.c.id == upload.c.run)
    rows = tx.all(query.where(upload.c.id.in_([one.id for one in found])))
    return {UploadId(row.id): RunState(row.state) for row in rows}


def started(tx: Tx, id_: UploadId, run: RunId, form: Form) -> None:
    """Name the run that loads an upload."""
    tx.change(upload, {"id": id_}, run=run, form=asdict(form), updated_at=tx.now)


def remove(tx: Tx, id_: UploadId) -> None:
    tx.remove(chunk, upload=id_)
    tx.remove(upload, id=id_)


def add_chunk(tx: Tx, of: UploadId, new: Chunk) -> None:
    """Keep a chunk as the last one of an upload that is locked."""
    count = sa.select(sa.func.count()).select_from(chunk).where(chunk.c.upload == of)
    tx.add(
        chunk, id=new.id, upload=of, number=tx.con.execute(count).scalar_one() + 1,
        deletes=new.deletes, bytes=new.bytes, checksum=new.checksum,
        columns=list(new.columns), created_at=new.created_at,
    )  # fmt: skip
    tx.change(upload, {"id": of}, updated_at=tx.now)


def chunks(tx: Tx, of: UploadId) -> list[Chunk]:
    """Return the chunks of an upload in their order."""
    rows = tx.all(sa.select(chunk).where(chunk.c.upload == of).order_by(chunk.c.number))
    return [
        Chunk(
            id=ChunkId(row.id), deletes=row.deletes, bytes=row.bytes, checksum=row.checksum,
            columns=tuple(row.columns), created_at=row.created_at,
        )
        for row in rows
    ]  # fmt: skip


def needed(tx: Tx, ids: Sequence[str]) -> set[str]:
    """Return those of `ids` that are uploads whose files are still needed."""
    run = tables.run
    over = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.SKIPPED)
    query = (
        sa.select(upload.c.id)
        .outerjoin(run, run.c.id == upload.c.run)
        .where(upload.c.id.in_(ids), sa.or_(run.c.id.is_(None), run.c.state.not_in(over)))
    )
    return {row.id for row in tx.all(query)}


# Tables.


def task_of(tx: Tx, pool: PoolId, table: str) -> TaskId | None:
    """Return the task that loads a table of a pool."""
    found = tx.get(pool_table.c.task, pool=pool, name=table)
    return None if found is None else TaskId(found.task)


def add_table(tx: Tx, pool: PoolId, table: str, task: TaskId) -> None:
    tx.add(pool_table, pool=pool, name=table, task=task)


def table_names(tx: Tx, pool: PoolId) -> list[str]:
    """Return the tables of a pool that have been uploaded to, sorted."""
    query = sa.select(pool_table.c.name).where(pool_table.c.pool == pool)
    return [row.name for row in tx.all(query.order_by(pool_table.c.name))]


def has_tables(tx: Tx, pool: PoolId) -> bool:
    return bool(table_names(tx, pool))


def has_any(tx: Tx, pool: PoolId) -> bool:
    """Tell whether a pool has tables, or uploads on their way."""
    return has_tables(tx, pool) or bool(listed(tx, pool, 1))


def _made(row: Any) -> Upload:  # Any: a row of SQLAlchemy's
    form = Form(**row.form)
    return Upload(
        id=UploadId(row.id), tenant=TenantId(row.tenant), pool=PoolId(row.pool),
        table=row.table_name, form=replace(form, key=tuple(form.key)), extra=row.extra,
        run=RunId(row.run) if row.run else None, created_at=row.created_at,
        updated_at=row.updated_at,
    )  # fmt: skip
