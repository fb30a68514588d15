"""Routes of the native API: one service call between two translations."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from litestar import Router, delete, get, patch, post, put
from litestar.concurrency import sync_to_thread
from litestar.di import Provide
from litestar.params import Parameter
from litestar.response import ServerSentEvent

from headrace.api import errors
from headrace.api.auth import AnyRequest, bearer, came_by, services
from headrace.api.bodies import converted, payload, raw_body
from headrace.api.dialects.native import translate, wire
from headrace.domain.clock import Millis, parse_rfc3339
from headrace.domain.errors import Invalid
from headrace.domain.ids import TaskId, is_id
from headrace.domain.job import Job
from headrace.domain.position import Position
from headrace.domain.principal import Principal
from headrace.domain.resources import Authentication, Destination, Source
from headrace.domain.run import ENDED, Mode, Range, RunState, Trigger
from headrace.domain.task import Task
from headrace.domain.verification import BUCKETS_MAX, By, Verify
from headrace.service.hooks import Signed
from headrace.service.services import Services
from headrace.store.jobs import ExecutionsAsked
from headrace.store.paging import Order, Window

ITEMS_MAX: Final = 1000
STREAM_S: Final = 0.25  # between two looks at a run that is watched
KEEP_ALIVE_S: Final = 15.0

Limit = Annotated[int, Parameter(ge=1, le=ITEMS_MAX, description="Items on a page.")]
Cursor = Annotated[str | None, Parameter(description="`next` of the page before.")]
Json = dict[str, Any]


def _offset(cursor: str | None) -> int:
    if cursor is None:
        return 0
    if not cursor.isdecimal() or len(cursor) > 9:  # digits of an offset
        raise Invalid("cursor is not one that this list gave.", field="cursor")
    return int(cursor)


def _moment(text: str, field: str) -> Millis:
    try:
        return parse_rfc3339(text)
    except ValueError:
        raise Invalid(
            f"{text[:40]!r} is no moment.", hint="Write it as RFC 3339: 2026-01-31T12:00:00Z.",
            field=field,
        ) from None  # fmt: skip


def _page(items: list[Any], total: int, offset: int) -> wire.Page:
    end = offset + len(items)
    return wire.Page(items=items, next=str(end) if end < total else None, total=total)


# Authentications.


@post("/authentications", sync_to_thread=True, opt={"body": wire.NewAuthentication})
def add_authentication(
    payload: Json, services: Services, principal: Principal
) -> wire.Authentication:
    """Keep credentials, sealed."""
    given: wire.NewAuthentication = converted(payload, wire.NewAuthentication)
    made = services.catalog.by(principal).add_authentication(
        principal.tenant.id, type_=given.type, name=given.name, platform=None, given=given.input
    )
    return translate.authentication(made)


@get("/authentications", sync_to_thread=True)
def list_authentications(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None
) -> wire.Page:
    """List authentications, newest first."""
    offset = _offset(cursor)
    found, total = services.catalog.listed(
        Authentication, principal.tenant.id, {}, Order("created_at"), Window(limit, offset)
    )
    return _page([translate.authentication(one) for one in found], total, offset)


@get("/authentications/{id:str}", sync_to_thread=True)
def get_authentication(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Authentication:  # fmt: skip
    """Show an authentication, without its secrets."""
    return translate.authentication(services.catalog.get(Authentication, principal.tenant.id, id))


@patch("/authentications/{id:str}", sync_to_thread=True, opt={"body": wire.ChangedAuthentication})
def change_authentication(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.Authentication:  # fmt: skip
    """Change an authentication: a new password, say."""
    given: wire.ChangedAuthentication = converted(payload, wire.ChangedAuthentication)
    changed = services.catalog.by(principal).change_authentication(
        principal.tenant.id, id, name=given.name, given=given.input
    )
    return translate.authentication(changed)


@delete("/authentications/{id:str}", sync_to_thread=True)
def remove_authentication(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove an authentication that nothing uses."""
    services.catalog.by(principal).remove(Authentication, principal.tenant.id, id)


# Sources and destinations.


@post("/sources", sync_to_thread=True, opt={"body": wire.NewEnd})
def add_source(payload: Json, services: Services, principal: Principal) -> wire.End:
    """Make a source."""
    given: wire.NewEnd = converted(payload, wire.NewEnd)
    made = services.catalog.by(principal).add_end(
        Source, principal.tenant.id, type_=given.type, name=given.name, given=given.input,
        authentication=given.authentication_id,
    )  # fmt: skip
    return translate.end(made)


@get("/sources", sync_to_thread=True)
def list_sources(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None
) -> wire.Page:
    """List sources, newest first."""
    offset = _offset(cursor)
    found, total = services.catalog.listed(
        Source, principal.tenant.id, {}, Order("created_at"), Window(limit, offset)
    )
    return _page([translate.end(one) for one in found], total, offset)


@get("/sources/{id:str}", sync_to_thread=True)
def get_source(id: str, services: Services, principal: Principal) -> wire.End:  # noqa: A002
    """Show a source."""
    return translate.end(services.catalog.get(Source, principal.tenant.id, id))


@get("/sources/{id:str}/streams", sync_to_thread=True)
def list_streams(id: str, services: Services, principal: Principal) -> wire.Page:  # noqa: A002
    """List what else there is to read where a source reads: a database's tables and views."""
    found = services.streams(principal.tenant.id, id)
    items = [msgspec.convert(one, wire.Stream) for one in found]
    return wire.Page(items=items, next=None, total=len(items))


@patch("/sources/{id:str}", sync_to_thread=True, opt={"body": wire.ChangedEnd})
def change_source(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.End:  # fmt: skip
    """Change a source."""
    given: wire.ChangedEnd = converted(payload, wire.ChangedEnd)
    changed = services.catalog.by(principal).change_end(
        Source, principal.tenant.id, id, name=given.name, given=given.input,
        authentication=given.authentication_id, whole=False,
    )  # fmt: skip
    return translate.end(changed)


@delete("/sources/{id:str}", sync_to_thread=True)
def remove_source(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a source that no task uses."""
    services.catalog.by(principal).remove(Source, principal.tenant.id, id)


@post("/destinations", sync_to_thread=True, opt={"body": wire.NewEnd})
def add_destination(payload: Json, services: Services, principal: Principal) -> wire.End:
    """Make a destination."""
    given: wire.NewEnd = converted(payload, wire.NewEnd)
    made = services.catalog.by(principal).add_end(
        Destination, principal.tenant.id, type_=given.type, name=given.name, given=given.input,
        authentication=given.authentication_id,
    )  # fmt: skip
    return translate.end(made)


@get("/destinations", sync_to_thread=True)
def list_destinations(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None
) -> wire.Page:
    """List destinations, newest first."""
    offset = _offset(cursor)
    found, total = services.catalog.listed(
        Destination, principal.tenant.id, {}, Order("created_at"), Window(limit, offset)
    )
    return _page([translate.end(one) for one in found], total, offset)


@get("/destinations/{id:str}", sync_to_thread=True)
def get_destination(id: str, services: Services, principal: Principal) -> wire.End:  # noqa: A002
    """Show a destination."""
    return translate.end(services.catalog.get(Destination, principal.tenant.id, id))


@patch("/destinations/{id:str}", sync_to_thread=True, opt={"body": wire.ChangedEnd})
def change_destination(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.End:  # fmt: skip
    """Change a destination."""
    given: wire.ChangedEnd = converted(payload, wire.ChangedEnd)
    changed = services.catalog.by(principal).change_end(
        Destination, principal.tenant.id, id, name=given.name, given=given.input,
        authentication=given.authentication_id,
    )  # fmt: skip
    return translate.end(changed)


@delete("/destinations/{id:str}", sync_to_thread=True)
def remove_destination(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a destination that no task uses; what landed there stays."""
    services.catalog.by(principal).remove(Destination, principal.tenant.id, id)


# Tasks.


@post("/tasks", sync_to_thread=True, opt={"body": wire.NewTask})
def add_task(payload: Json, services: Services, principal: Principal) -> wire.Task:
    """Make a task."""
    given: wire.NewTask = converted(payload, wire.NewTask)
    made = services.catalog.by(principal).add_task(
        principal.tenant.id, source=given.source, destination=given.destination,
        action=given.action, name=given.name, enabled=given.enabled, table=given.table,
        failure_threshold=given.failure_threshold, priority=given.priority, key=given.key,
        cron=given.cron,
        timing=translate.timing(given.timing),
        shape=translate.shape(given.columns, given.schema), deletes=given.deletes,
    )  # fmt: skip
    return _tasks(services, principal, [made])[0]


def _tasks(services: Services, principal: Principal, found: list[Task]) -> list[wire.Task]:
    ids = [task.id for task in found]
    all_, some = services.runs.paused(principal.tenant.id, ids)
    last = services.runs.last_moments(ids)
    return [
        translate.task_shown(task, paused=all_ or task.id in some, last_run=last.get(task.id))
        for task in found
    ]


@get("/tasks", sync_to_thread=True)
def list_tasks(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None
) -> wire.Page:
    """List tasks, newest first."""
    offset = _offset(cursor)
    found, total = services.catalog.listed(
        Task, principal.tenant.id, {}, Order("created_at"), Window(limit, offset)
    )
    return _page(_tasks(services, principal, found), total, offset)


@get("/tasks/{id:str}", sync_to_thread=True)
def get_task(id: str, services: Services, principal: Principal) -> wire.Task:  # noqa: A002
    """Show a task."""
    found = services.catalog.get(Task, principal.tenant.id, id)
    return _tasks(services, principal, [found])[0]


@patch("/tasks/{id:str}", sync_to_thread=True, opt={"body": wire.ChangedTask})
def change_task(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.Task:  # fmt: skip
    """Change a task."""
    given = translate.given_members(converted(payload, wire.ChangedTask))
    changed = services.catalog.by(principal).change_task(principal.tenant.id, id, **given)
    return _tasks(services, principal, [changed])[0]


@delete("/tasks/{id:str}", sync_to_thread=True)
def remove_task(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a task and its runs."""
    services.catalog.by(principal).remove(Task, principal.tenant.id, id)


@get("/tasks/{id:str}/position", sync_to_thread=True)
def get_position(id: str, services: Services, principal: Principal) -> wire.Position:  # noqa: A002
    """Show how far a task has read."""
    return translate.position_shown(id, services.catalog.position(principal.tenant.id, id))


@put(
    "/tasks/{id:str}/position", sync_to_thread=True, status_code=200,
    opt={"body": wire.NewPosition},
)  # fmt: skip
def set_position(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.Position:  # fmt: skip
    """Say how far a task has read: its next delta run goes on from there."""
    given: wire.NewPosition = converted(payload, wire.NewPosition)
    catalog, tenant = services.catalog.by(principal), principal.tenant.id
    if (given.cursor, given.after, given.files).count(None) != 2:  # one of three
        raise Invalid("Give one of cursor, after and files.", field="cursor")
    if given.cursor is not None:
        new = catalog.cursor_at(tenant, id, given.cursor.column, given.cursor.value)
    else:
        after = None if given.after is None else _moment(given.after, "after")
        new = Position(given.files or {}, after)
    catalog.set_position(tenant, id, new)
    return translate.position_shown(id, new)


@delete("/tasks/{id:str}/position", sync_to_thread=True)
def reset_position(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Forget how far a task has read: its next run reads everything."""
    services.catalog.by(principal).set_position(principal.tenant.id, id, None)


@post("/tasks/{id:str}/pause", sync_to_thread=True, status_code=200)
def pause_task(id: str, services: Services, principal: Principal) -> wire.Task:  # noqa: A002
    """Let no run of a task start, nor its schedule fire; what runs goes on."""
    services.runs.pause(principal, id, paused=True)
    found = services.catalog.get(Task, principal.tenant.id, id)
    return _tasks(services, principal, [found])[0]


@post("/tasks/{id:str}/resume", sync_to_thread=True, status_code=200)
def resume_task(id: str, services: Services, principal: Principal) -> wire.Task:  # noqa: A002
    """Let a task's runs start again; missed moments are made up for as its timing says."""
    services.runs.pause(principal, id, paused=False)
    found = services.catalog.get(Task, principal.tenant.id, id)
    return _tasks(services, principal, [found])[0]


@post("/pause", sync_to_thread=True, status_code=200)
def pause(services: Services, principal: Principal) -> wire.Paused:
    """Let nothing of this tenant start; what runs goes on."""
    services.runs.pause(principal, None, paused=True)
    return wire.Paused(paused=True)


@post("/resume", sync_to_thread=True, status_code=200)
def resume(services: Services, principal: Principal) -> wire.Paused:
    """Let everything of this tenant start again."""
    services.runs.pause(principal, None, paused=False)
    return wire.Paused(paused=False)


@post("/server/pause", sync_to_thread=True, status_code=200)
def pause_server(services: Services, principal: Principal) -> wire.Paused:
    """Let nothing of any tenant start; what runs goes on. For admins."""
    services.runs.pause_server(principal, paused=True)
    return wire.Paused(paused=True)


@post("/server/resume", sync_to_thread=True, status_code=200)
def resume_server(services: Services, principal: Principal) -> wire.Paused:
    """Let the tenants' runs start again. For admins."""
    services.runs.pause_server(principal, paused=False)
    return wire.Paused(paused=False)


@post("/tasks/{id:str}/runs", sync_to_thread=True)
def start_run(
    id: str, services: Services, principal: Principal,  # noqa: A002
    key: Annotated[str | None, Parameter(header="Idempotency-Key")] = None,
    mode: Mode | None = None,
    since: Annotated[str | None, Parameter(query="from", max_length=100)] = None,
    until: Annotated[str | None, Parameter(query="to", max_length=100)] = None,
) -> wire.Run:  # fmt: skip
    """Start a run of a task; with an Idempotency-Key twice is once.

    `mode=delta` reads only what has changed since the last run that landed. `from` and `to` make it
    a back-fill: rows from a value of the cursor to before another, or files changed in between.
    """
    if until is not None and since is None:
        raise Invalid("to needs from.", field="from")
    run = services.runs.start(
        principal.tenant.id, TaskId(id), trigger=Trigger.API, key=key, mode=mode,
        range_=None if since is None else Range(since=since, until=until), by=principal,
    )  # fmt: skip
    return translate.run_shown(run)


@post("/tasks/{id:str}/verify", sync_to_thread=True)
def verify_task(
    id: str, services: Services, principal: Principal,  # noqa: A002
    repair: bool = False, by: By | None = None,  # noqa: FBT001, FBT002
    buckets: Annotated[int | None, Parameter(ge=1, le=BUCKETS_MAX)] = None,
) -> wire.Run:  # fmt: skip
    """Start a run that compares a task's table with its source; it fails if they differ.

    Its receipt says what was found. With `repair` the buckets that differ are loaded again. `by`:
    key or cursor; `buckets`: how many.
    """
    wanted = Verify(repair=repair, by=by, buckets=buckets)
    return translate.run_shown(services.runs.verify(principal.tenant.id, id, wanted, by=principal))


@post("/runs/{id:str}/retry", sync_to_thread=True)
def retry_run(id: str, services: Services, principal: Principal) -> wire.Run:  # noqa: A002
    """Start a run that has failed or was cancelled again, as it was started."""
    return translate.run_shown(services.runs.retry(principal.tenant.id, id, principal))


# Pools, jobs, executions.


@post("/pools", sync_to_thread=True, opt={"body": wire.NewPool})
def add_pool(payload: Json, services: Services, principal: Principal) -> wire.Pool:
    """Make a pool: a group of jobs, and a place for what is uploaded."""
    given = translate.given_members(converted(payload, wire.NewPool))
    return translate.pool(services.pools.add(principal, **given))


@get("/pools", sync_to_thread=True)
def list_pools(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None
) -> wire.Page:
    """List pools, oldest first."""
    offset = _offset(cursor)
    found, total = services.pools.listed(principal, Window(limit, offset))
    return _page([translate.pool(one) for one in found], total, offset)


@get("/pools/{id:str}", sync_to_thread=True)
def get_pool(id: str, services: Services, principal: Principal) -> wire.Pool:  # noqa: A002
    """Show a pool."""
    return translate.pool(services.pools.get(principal, id))


@patch("/pools/{id:str}", sync_to_thread=True, opt={"body": wire.ChangedPool})
def change_pool(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.Pool:  # fmt: skip
    """Change a pool; who may view or manage it is for admins to say."""
    given = translate.given_members(converted(payload, wire.ChangedPool))
    return translate.pool(services.pools.change(principal, id, **given))


@delete("/pools/{id:str}", sync_to_thread=True)
def remove_pool(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a pool that holds no job and no table."""
    services.pools.remove(principal, id)


def _job(services: Services, thing: Job) -> wire.Job:
    return translate.job_shown(thing, services.aliases.of([thing.id]))


@post("/jobs", sync_to_thread=True, opt={"body": wire.NewJob})
def add_job(payload: Json, services: Services, principal: Principal) -> wire.Job:
    """Make a job: tasks that are started together, perhaps in an order."""
    given: wire.NewJob = converted(payload, wire.NewJob)
    made = services.jobs.add(
        principal, pool=given.pool, name=given.name, steps=translate.steps(given.steps),
        stops=given.stop_on_failure, mode=given.mode, cron=given.cron,
        timing=translate.timing(given.timing),
    )  # fmt: skip
    return _job(services, made)


@get("/jobs", sync_to_thread=True)
def list_jobs(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None,
    pool: str | None = None,
) -> wire.Page:  # fmt: skip
    """List jobs, oldest first."""
    offset = _offset(cursor)
    found, total = services.jobs.listed(principal, pool, Window(limit, offset))
    aliases = services.aliases.of([one.id for one in found])
    return _page([translate.job_shown(one, aliases) for one in found], total, offset)


@get("/jobs/{id:str}", sync_to_thread=True)
def get_job(id: str, services: Services, principal: Principal) -> wire.Job:  # noqa: A002
    """Show a job; `everything` names the built-in one."""
    return _job(services, services.jobs.get(principal, id))


@patch("/jobs/{id:str}", sync_to_thread=True, opt={"body": wire.ChangedJob})
def change_job(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.Job:  # fmt: skip
    """Change a job."""
    given = translate.given_members(converted(payload, wire.ChangedJob))
    thing = services.jobs.get(principal, id)
    return _job(services, services.jobs.change(principal, thing.id, **given))


@delete("/jobs/{id:str}", sync_to_thread=True)
def remove_job(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a job; its runs stay."""
    services.jobs.remove(principal, id)


@post("/jobs/{id:str}/executions", sync_to_thread=True)
def start_job(
    id: str, services: Services, principal: Principal, mode: Mode = Mode.FULL  # noqa: A002
) -> wire.Execution:  # fmt: skip
    """Start every task of a job."""
    started = services.jobs.start(principal, id, mode=mode)
    return translate.execution_shown(started, services.jobs.runs_of(started))


@get("/executions", sync_to_thread=True)
def list_executions(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None,
    job: str | None = None,
) -> wire.Page:  # fmt: skip
    """List executions, newest first; those of tasks that were started alone too."""
    asked = ExecutionsAsked(job=job, before=_place(cursor))
    found = services.jobs.executions(principal, asked, Window(limit + 1))
    page = found[:limit]
    shown = [translate.execution_shown(one, services.jobs.runs_of(one)) for one in page]
    more = len(found) > len(page)
    return wire.Page(items=shown, next=f"{page[-1].queued_at}.{page[-1].id}" if more else None)


def _place(cursor: str | None) -> tuple[Millis, str] | None:
    """Read the cursor of a list that goes on after a moment and an id."""
    if cursor is None:
        return None
    at, _, id_ = cursor.partition(".")
    if not at.isdecimal() or len(at) > 15 or not is_id(id_):
        raise Invalid("cursor is not one that this list gave.", field="cursor")
    return Millis(int(at)), id_


@get("/executions/{id:str}", sync_to_thread=True)
def get_execution(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Execution:  # fmt: skip
    """Show an execution and where each of its steps stands."""
    found = services.jobs.execution(principal, id)
    return translate.execution_shown(found, services.jobs.runs_of(found))


@post("/executions/{id:str}/cancel", sync_to_thread=True, status_code=200)
def cancel_execution(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Execution:  # fmt: skip
    """Stop an execution: what runs is cancelled, what has not started never will."""
    found = services.jobs.cancel(principal, id)
    return translate.execution_shown(found, services.jobs.runs_of(found))


@post("/executions/{id:str}/retry", sync_to_thread=True)
def retry_execution(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Execution:  # fmt: skip
    """Start the steps again that did not succeed, in a new execution."""
    found = services.jobs.retry(principal, id)
    return translate.execution_shown(found, services.jobs.runs_of(found))


# Runs.


@get("/runs", sync_to_thread=True)
def list_runs(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None,
    task: str | None = None,
    in_state: Annotated[RunState | None, Parameter(query="state")] = None,
) -> wire.Page:  # fmt: skip
    """List runs, newest first."""
    offset = _offset(cursor)
    found, total = services.runs.listed(
        principal.tenant.id, task=task, states=None if in_state is None else [in_state],
        window=Window(limit, offset),
    )  # fmt: skip
    return _page([translate.run_shown(one) for one in found], total, offset)


@get("/runs/{id:str}", sync_to_thread=True)
def get_run(id: str, services: Services, principal: Principal) -> wire.Run:  # noqa: A002
    """Show a run."""
    return translate.run_shown(services.runs.get(principal.tenant.id, id))


@get("/runs/{id:str}/receipt", sync_to_thread=True)
def get_receipt(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Show the whole receipt: books of tables and files, rejected rows by rule."""
    run = services.runs.get(principal.tenant.id, id)
    return {"run": run.id, "state": run.state} | translate.receipt(run.receipt)


@get("/runs/{id:str}/tables", sync_to_thread=True)
def get_tables(id: str, services: Services, principal: Principal) -> wire.Page:  # noqa: A002
    """Show the books of a run's tables."""
    run = services.runs.get(principal.tenant.id, id)
    return wire.Page(items=list((run.receipt or {}).get("tables", [])))


@get("/runs/{id:str}/files", sync_to_thread=True)
def get_files(id: str, services: Services, principal: Principal) -> wire.Page:  # noqa: A002
    """Show the books of a run's files."""
    run = services.runs.get(principal.tenant.id, id)
    return wire.Page(items=list(translate.receipt(run.receipt).get("files", [])))


@get("/runs/{id:str}/rejects", sync_to_thread=True)
def get_rejects(
    id: str, services: Services, principal: Principal, limit: Limit = 50,  # noqa: A002
    cursor: Cursor = None,
) -> wire.Page:  # fmt: skip
    """List the rows that a run rejected: where they stood, why, and their text."""
    found = services.runs.rejects(principal.tenant.id, id, limit, cursor)
    return wire.Page(items=list(found.rows), next=found.next, total=found.total)


@get("/runs/{id:str}/events", sync_to_thread=True)
def get_events(
    id: str, services: Services, principal: Principal, limit: Limit = 100,  # noqa: A002
    after: Annotated[int, Parameter(ge=0, description="Number of the last event seen.")] = 0,
) -> wire.Page:  # fmt: skip
    """List events in order; `after` continues where an earlier answer ended."""
    found, total = services.runs.events(principal.tenant.id, id, after=after, window=Window(limit))
    more = str(found[-1].number) if found and total > len(found) else None
    return wire.Page(items=[translate.event_shown(one) for one in found], next=more)


@post("/runs/{id:str}/cancel", sync_to_thread=True, status_code=200)
def cancel_run(id: str, services: Services, principal: Principal) -> wire.Run:  # noqa: A002
    """Ask for a run to stop."""
    return translate.run_shown(services.runs.cancel(principal.tenant.id, id, principal))


@get("/runs/{id:str}/stream", sync_to_thread=False)
def stream_run(id: str, services: Services, principal: Principal) -> ServerSentEvent:  # noqa: A002
    """Watch a run: `run` messages when it changes, `event` messages as they happen, `end`."""
    services.runs.get(principal.tenant.id, id)
    return ServerSentEvent(_watched(id, services, principal))


async def _watched(id_: str, services: Services, principal: Principal) -> AsyncIterator[Json]:
    tenant, last, after, quiet = principal.tenant.id, b"", 0, 0.0
    while True:
        run = await asyncio.to_thread(services.runs.get, tenant, id_)
        found, _ = await asyncio.to_thread(services.runs.events, tenant, id_, after=after)
        for one in found:
            after = one.number
            yield {
                "event": "event",
                "data": msgspec.json.encode(translate.event_shown(one)).decode(),
            }
        shown = msgspec.json.encode(translate.run_shown(run))
        if shown != last:
            last, quiet = shown, 0.0
            yield {"event": "run", "data": shown.decode()}
        if run.state in ENDED and not found:
            yield {"event": "end", "data": "{}"}
            return
        quiet += STREAM_S
        if quiet >= KEEP_ALIVE_S:
            quiet = 0.0
            yield {"comment": "still here"}
        await asyncio.sleep(STREAM_S)


# Keys, and who did what.


@post("/keys", sync_to_thread=True, opt={"body": wire.NewKey})
def add_key(payload: Json, services: Services, principal: Principal) -> wire.Key:
    """Make a key: viewer, operator or admin. Only this answer holds the key itself."""
    given: wire.NewKey = converted(payload, wire.NewKey)
    made, secret = services.access.add_key(principal, given.name, given.role)
    return translate.key_shown(made, secret)


@get("/keys", sync_to_thread=True)
def list_keys(services: Services, principal: Principal) -> wire.Page:
    """List keys, the revoked ones too."""
    found = services.access.keys(principal)
    return wire.Page(items=[translate.key_shown(one) for one in found], total=len(found))


@delete("/keys/{id:str}", sync_to_thread=True, status_code=200)
def revoke_key(id: str, services: Services, principal: Principal) -> wire.Key:  # noqa: A002
    """Take a key out of use, with every token that was issued for it."""
    return translate.key_shown(services.access.revoke_key(principal, id))


@post("/hooks", sync_to_thread=True, opt={"body": wire.NewHook})
def add_hook(payload: Json, services: Services, principal: Principal) -> wire.Hook:
    """Make a hook: signed calls (Standard Webhooks) to its path start a task or a job."""
    given: wire.NewHook = converted(payload, wire.NewHook)
    made, secret = services.hooks.add(
        principal, name=given.name, task=given.task, job=given.job, mode=given.mode
    )
    return translate.hook(made, secret)


@get("/hooks", sync_to_thread=True)
def list_hooks(services: Services, principal: Principal) -> wire.Page:
    """List hooks, oldest first."""
    found = services.hooks.listed(principal)
    return wire.Page(items=[translate.hook(one) for one in found], total=len(found))


@delete("/hooks/{id:str}", sync_to_thread=True)
def remove_hook(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a hook: its calls are refused from now on."""
    services.hooks.remove(principal, id)


@post("/hooks/{id:str}/call", status_code=202)
async def call_hook(id: str, request: AnyRequest, services: Services) -> wire.Called:  # noqa: A002
    """Start what a hook is for. No key, but the headers of Standard Webhooks."""
    header = request.headers.get
    given = Signed(
        message=header("webhook-id", ""), seconds=header("webhook-timestamp", ""),
        signatures=header("webhook-signature", ""), body=await raw_body(request),
        via=came_by(request),
    )  # fmt: skip
    return wire.Called(execution=await sync_to_thread(services.hooks.call, id, given))


@post("/triggers", sync_to_thread=True, opt={"body": wire.NewTrigger})
def add_trigger(payload: Json, services: Services, principal: Principal) -> wire.Trigger:
    """Make a trigger: a task or job starts after another one, or when files have come."""
    given: wire.NewTrigger = converted(payload, wire.NewTrigger)
    made = services.triggers.add(
        principal, name=given.name, task=given.task, job=given.job, mode=given.mode,
        after_task=given.after_task, after_job=given.after_job, source=given.source,
        every_s=given.every,
    )  # fmt: skip
    return translate.trigger(made)


@get("/triggers", sync_to_thread=True)
def list_triggers(services: Services, principal: Principal) -> wire.Page:
    """List triggers, oldest first."""
    found = services.triggers.listed(principal)
    return wire.Page(items=[translate.trigger(one) for one in found], total=len(found))


@delete("/triggers/{id:str}", sync_to_thread=True)
def remove_trigger(id: str, services: Services, principal: Principal) -> None:  # noqa: A002
    """Remove a trigger: it starts nothing from now on."""
    services.triggers.remove(principal, id)


@get("/servers", sync_to_thread=True)
def list_servers(services: Services, principal: Principal) -> wire.Page:
    """List the servers over this store; for admins."""
    found = services.servers.listed(principal)
    return wire.Page(items=[translate.server(one) for one in found], total=len(found))


@get("/audit", sync_to_thread=True)
def list_deeds(
    services: Services, principal: Principal, limit: Limit = 50, cursor: Cursor = None
) -> wire.Page:
    """List who did what, newest first; for admins."""
    offset = _offset(cursor)
    found, total = services.audit.listed(principal, Window(limit, offset))
    return _page([translate.deed(one) for one in found], total, offset)


# What landed, and limits.


@get("/tables/{destination:str}/{table:str}/rows", sync_to_thread=True)
def read_rows(
    destination: str, table: str, services: Services, principal: Principal, limit: Limit = 50,
    cursor: Cursor = None,
) -> wire.RowsPage:  # fmt: skip
    """Read back what landed in a destination."""
    page = services.read_table(principal, destination, table, limit, cursor)
    return wire.RowsPage(
        columns=list(page.columns), rows=[dict(row) for row in page.rows], next=page.next
    )


@put("/limits/{name:str}", sync_to_thread=True, status_code=200, opt={"body": wire.Limit})
def set_limit(name: str, payload: Json, services: Services, principal: Principal) -> wire.SetLimit:
    """Set how many runs go at a time, and start in a minute: `source`, `source:ID`, `pool:ID` …."""
    given: wire.Limit = converted(payload, wire.Limit)
    services.runs.limit(principal, name, most=given.runs, per_minute=given.per_minute)
    return wire.SetLimit(name=name, runs=given.runs, per_minute=given.per_minute)


@get("/breakers", sync_to_thread=True)
def list_breakers(services: Services, principal: Principal) -> wire.Page:
    """List the sources and destinations that were down when runs met them last."""
    found = services.runs.breakers(principal)
    return wire.Page(items=[translate.breaker(one) for one in found], total=len(found))


@delete("/breakers/{name:str}", sync_to_thread=True)
def reset_breaker(name: str, services: Services, principal: Principal) -> None:
    """Forget that a source or destination was down: runs try it at once."""
    services.runs.reset_breaker(principal, name)


@get("/limits", sync_to_thread=True)
def list_limits(services: Services, principal: Principal) -> wire.Page:
    """List the limits that were set. Without one: 8 runs a source and destination, 100 a tenant."""
    found = services.runs.limits(principal)
    shown = [
        wire.SetLimit(name=name, runs=one.runs, per_minute=one.per_minute)
        for name, one in found.items()
    ]
    return wire.Page(items=shown, total=len(shown))


@delete("/limits/{name:str}", sync_to_thread=True)
def remove_limit(name: str, services: Services, principal: Principal) -> None:
    """Remove a limit: the one of its kind counts, or what is usual."""
    services.runs.limit(principal, name, most=None)


NATIVE: Final = Router(
    path="/v1",
    route_handlers=[
        add_authentication, list_authentications, get_authentication, change_authentication,
        remove_authentication, add_source, list_sources, get_source, list_streams,
        change_source, remove_source,
        add_destination, list_destinations, get_destination, change_destination,
        remove_destination,
        add_task, list_tasks, get_task, change_task, remove_task, start_run,
        get_position, set_position, reset_position, verify_task,
        pause_task, resume_task, pause, resume, pause_server, resume_server,
        list_runs, get_run, get_receipt, get_tables, get_files, get_rejects, get_events,
        cancel_run, retry_run, stream_run, read_rows,
        set_limit, list_limits, remove_limit, list_breakers, reset_breaker,
        add_pool, list_pools, get_pool, change_pool, remove_pool,
        add_job, list_jobs, get_job, change_job, remove_job, start_job,
        list_executions, get_execution, cancel_execution, retry_execution,
        add_key, list_keys, revoke_key, list_deeds, list_servers,
        add_trigger, list_triggers, remove_trigger, add_hook, list_hooks, remove_hook,
        call_hook,
    ],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "principal": Provide(bearer, sync_to_thread=False),
        "payload": Provide(payload),
    },
    exception_handlers={Exception: errors.problem},
)  # fmt: skip
