"""Uploads: files that a client brings, chunk by chunk, for one table of a pool."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from headrace.domain.clock import Millis
from headrace.domain.ids import ChunkId, PoolId, RunId, TenantId, UploadId
from headrace.domain.run import RunState
from headrace.domain.task import Action


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How an upload's files are written, and what they do to the table.

    `types` by column, in the words of a mapping; empty where the files have types of their own.
    `patches`: columns that a file lacks stay as they are, instead of becoming NULL. `latest`: of
    two rows with one key, the one with the higher value in that column wins, not the later one.
    """

    replaces: bool
    format: str  # "csv" or "parquet"
    key: tuple[str, ...] = ()
    types: Mapping[str, str]
    patches: bool = True
    options: Mapping[str, str]  # of CSV: delimiter, quote, encoding
    latest: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """`run` is None until the client has said that all chunks are there."""

    id: UploadId
    tenant: TenantId
    pool: PoolId
    table: str
    form: Form
    extra: Mapping[str, Any]  # members of a dialect that are kept and given back as they came
    run: RunId | None
    created_at: Millis
    updated_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One file. `deletes`: its rows name, by their key, the rows to be removed."""

    id: ChunkId
    deletes: bool
    bytes: int
    checksum: str  # SHA-256, hexadecimal
    columns: tuple[str, ...]
    created_at: Millis

    def file(self, form: Form) -> str:
        """Return the name of its file in the upload's folder."""
        return f"{self.id}.{form.format}"


class UploadState(StrEnum):
    NEW = "new"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


def state_of(run: RunState | None) -> UploadState:
    """Return where an upload stands, by the state of its run."""
    if run is None:
        return UploadState.NEW
    if run is RunState.CANCELLING:
        return UploadState.RUNNING
    return UploadState(RunState.SUCCEEDED if run is RunState.SKIPPED else run)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Chunks that are loaded in one commit: neighbours that do the same to the same columns."""

    action: Action
    chunks: tuple[Chunk, ...]


def phases(form: Form, chunks: Sequence[Chunk]) -> Iterator[Phase]:
    """Cut an upload into its commits, in order."""
    for (deletes, _), neighbours in groupby(chunks, key=lambda one: (one.deletes, one.columns)):
        if deletes:
            action = Action.DELETE
        elif form.replaces:
            action = Action.REPLACE
        elif not form.key:
            action = Action.APPEND
        else:
            action = Action.PARTIAL if form.patches else Action.SAVE
        yield Phase(action=action, chunks=tuple(neighbours))
