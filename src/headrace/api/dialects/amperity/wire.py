"""Amperity's words, field for field (version 2024-04-01). Its objects are closed: nothing else."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType


class NewRun(Struct, forbid_unknown_fields=True):
    """What a workflow is started with."""

    config_id: Annotated[str, Meta(min_length=1)]
    range_from: str | None = None
    range_to: str | None = None
    run_mode: str | None = None


class File(Struct):
    """Rows of one file; `file_id` is its batch and its name."""

    file_id: str
    name: str
    read: int
    errors: int


class Table(Struct):
    """What happened to one table: read = errors + rejected + inserted + updated."""

    feed_id: str
    job_id: str
    table_name: str
    state: str
    read: int
    errors: int
    rejected: int
    inserted: int
    updated: int
    started_at: str
    ended_at: str
    files: list[File]


class Job(Struct):
    """An ingest job."""

    id: str
    workflow_id: str
    tables: list[Table]


class Jobs(Struct):
    """The ingest jobs of a window of time."""

    data: list[Job]
    next_token: str | UnsetType = UNSET
    total: int | UnsetType = UNSET


class Workflow(Struct):
    """A workflow; what `view=verbose` adds is unset otherwise."""

    id: str
    state: str
    type: str
    name: str
    tenant: str
    created_at: str
    ended_at: str | UnsetType = UNSET
    task_instances: list[dict[str, Any]] | UnsetType = UNSET
    error: dict[str, Any] | UnsetType = UNSET


class Workflows(Struct):
    """A page of workflows; the last one has no token."""

    data: list[Workflow]
    next_token: str | UnsetType = UNSET
    total: int | UnsetType = UNSET


class Token(Struct):
    """What a client gets for its credentials."""

    access_token: str
    expires_in: int
    token_type: str
