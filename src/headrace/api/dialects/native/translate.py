"""From the domain to our own words: pure functions."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.api.dialects.native import wire
from headrace.domain import event, job, position, principal, resources, run, schedule, task
from headrace.domain import shape as domain_shape
from headrace.domain.clock import Millis, rfc3339
from headrace.domain.ids import TaskId
from headrace.domain.server import Server
from headrace.store.audit import Entry
from headrace.store.breakers import Breaker
from headrace.store.hooks import Hook
from headrace.store.triggers import Trigger

FILES_SHOWN: Final = 10_000  # of a position


def authentication(thing: resources.Authentication) -> wire.Authentication:
    return wire.Authentication(
        id=thing.id, type=thing.type, name=thing.name, input=dict(thing.input),
        created_at=_at(thing.created_at), updated_at=_at(thing.updated_at),
    )  # fmt: skip


def end(thing: resources.Source | resources.Destination) -> wire.End:
    return wire.End(
        id=thing.id, type=thing.type, name=thing.name, input=dict(thing.input),
        authentication_id=thing.authentication, server=thing.host, created_at=_at(thing.created_at),
        updated_at=_at(thing.updated_at),
    )  # fmt: skip


def trigger(thing: Trigger) -> wire.Trigger:
    return wire.Trigger(
        id=thing.id, name=thing.name, task=thing.task, job=thing.job, mode=thing.mode,
        after_task=thing.after_task, after_job=thing.after_job, source=thing.source,
        every=thing.every_s, problem=thing.problem, created_at=_at(thing.created_at),
    )  # fmt: skip


def breaker(thing: Breaker) -> wire.Breaker:
    return wire.Breaker(
        name=thing.name, open=thing.is_open, failures=thing.failures, reason=thing.reason,
        since=_at(thing.since), open_until=_at(thing.open_until) if thing.open_until else None,
    )  # fmt: skip


def server(thing: Server) -> wire.Server:
    return wire.Server(
        id=thing.id, name=thing.name, url=thing.url, roles=sorted(thing.roles),
        version=thing.version, alive=thing.alive, started_at=_at(thing.started_at),
        seen_at=_at(thing.seen_at) if thing.seen_at else None,
    )  # fmt: skip


def timing(given: wire.Timing) -> schedule.Timing:
    return schedule.Timing(
        timezone=given.timezone, missed=given.missed, missed_max=given.missed_max,
        overlap=given.overlap, jitter=given.jitter,
    )  # fmt: skip


def timing_shown(thing: schedule.Timing) -> wire.Timing:
    return wire.Timing(
        timezone=thing.timezone, missed=thing.missed, missed_max=thing.missed_max,
        overlap=thing.overlap, jitter=thing.jitter,
    )  # fmt: skip


def shape(columns: wire.Columns, policy: domain_shape.Policy) -> domain_shape.Shape:
    return domain_shape.Shape(
        select=tuple(columns.select), drop=tuple(columns.drop), rename=columns.rename,
        cast=columns.cast, hash=tuple(columns.hash), mask=columns.mask, compute=columns.compute,
        names=columns.names, policy=policy,
    )  # fmt: skip


def columns_shown(thing: domain_shape.Shape) -> wire.Columns:
    return wire.Columns(
        select=list(thing.select), drop=list(thing.drop), rename=dict(thing.rename),
        cast=dict(thing.cast), hash=list(thing.hash), mask=dict(thing.mask),
        compute=dict(thing.compute),
        names=thing.names,
    )  # fmt: skip


def position_shown(task_: str, thing: position.Position | None) -> wire.Position:
    edge = thing.edge() if thing else None
    files = None if thing is None or edge else dict(thing.versions)
    return wire.Position(
        task=task_, cursor=wire.CursorAt(column=edge.column, value=edge.value) if edge else None,
        after=rfc3339(thing.after) if thing and thing.after is not None else None,
        files=None if files is None else dict(itertools.islice(files.items(), FILES_SHOWN)),
        file_count=None if files is None else len(files),
    )  # fmt: skip


def task_shown(thing: task.Task, *, paused: bool, last_run: Millis | None) -> wire.Task:
    return wire.Task(
        id=thing.id, name=thing.name, source=thing.source, destination=thing.destination,
        action=thing.action, table=thing.table, key=list(thing.key), enabled=thing.enabled,
        failure_threshold=thing.failure_threshold, paused=paused,
        priority=thing.priority, cron=thing.cron,
        timing=timing_shown(thing.timing), columns=columns_shown(thing.shape),
        schema=thing.shape.policy, deletes=thing.deletes, next_run=_maybe(thing.next_run),
        last_run=_maybe(last_run), created_at=_at(thing.created_at),
        updated_at=_at(thing.updated_at),
    )  # fmt: skip


def given_members(given: msgspec.Struct) -> dict[str, Any]:
    """Return the members that were given, by their names in the domain."""
    found = {
        name: getattr(given, name)
        for name in given.__struct_fields__
        if getattr(given, name) is not msgspec.UNSET
    }
    if "key" in found:
        found["key"] = tuple(found["key"])
    if "timing" in found:
        found["timing"] = timing(found["timing"])
    if "columns" in found:
        found["columns"] = shape(found["columns"], domain_shape.Policy.EVOLVE)
    if "schema" in found:
        found["policy"] = found.pop("schema")
    if "stop_on_failure" in found:
        found["stops"] = found.pop("stop_on_failure")
    return found | ({"steps": steps(found["steps"])} if "steps" in found else {})


def run_shown(thing: run.Run) -> wire.Run:
    return wire.Run(
        id=thing.id, task=thing.task, execution=thing.execution, kind=thing.kind.value,
        state=thing.state,
        trigger=thing.trigger, action=thing.action, attempt=thing.attempt,
        waiting_for=thing.waiting_for, progress=dict(thing.progress),
        books=thing.receipt["books"] if thing.receipt else None,
        error=dict(thing.error) if thing.error else None, queued_at=_at(thing.queued_at),
        started_at=_maybe(thing.started_at), finished_at=_maybe(thing.finished_at),
    )  # fmt: skip


def receipt(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a receipt without what only the next delta run needs."""
    shown = {name: value for name, value in (given or {}).items() if name != "passed"}
    if "files" in shown:
        shown["files"] = [
            {name: value for name, value in file.items() if name != "version"}
            for file in shown["files"]
        ]
    return shown


def pool(thing: job.Pool) -> wire.Pool:
    return wire.Pool(
        id=thing.id, name=thing.name, destination=thing.destination,
        permissions=None if thing.permissions is None else {
            str(key): str(may) for key, may in thing.permissions.items()
        },
        created_at=_at(thing.created_at), updated_at=_at(thing.updated_at),
    )  # fmt: skip


def key_shown(thing: principal.Key, secret: str | msgspec.UnsetType = msgspec.UNSET) -> wire.Key:
    return wire.Key(
        id=thing.id, name=thing.name, role=thing.role, created_at=_at(thing.created_at),
        revoked_at=_maybe(thing.revoked_at), key=secret,
    )  # fmt: skip


def hook(thing: Hook, secret: str | msgspec.UnsetType = msgspec.UNSET) -> wire.Hook:
    return wire.Hook(
        id=thing.id, name=thing.name, task=thing.task, job=thing.job, mode=thing.mode,
        path=f"/v1/hooks/{thing.id}/call", created_at=_at(thing.created_at), secret=secret,
    )  # fmt: skip


def deed(thing: Entry) -> wire.Deed:
    return wire.Deed(
        id=thing.id, at=_at(thing.at), key=thing.key, deed=thing.deed, thing=thing.thing,
        via=thing.via,
    )  # fmt: skip


def steps(given: Sequence[wire.Step]) -> tuple[job.Step, ...]:
    return tuple(
        job.Step(task=TaskId(step.task), after=tuple(map(TaskId, step.after))) for step in given
    )


def job_shown(thing: job.Job, aliases: Mapping[str, str]) -> wire.Job:
    return wire.Job(
        id=thing.id, alias=aliases[thing.id], pool=thing.pool, name=thing.name,
        everything=thing.everything,
        steps=[wire.Step(task=step.task, after=list(step.after)) for step in thing.steps],
        stop_on_failure=thing.stops, mode=thing.mode, cron=thing.cron,
        timing=timing_shown(thing.timing), next_run=_maybe(thing.next_run),
        created_at=_at(thing.created_at), updated_at=_at(thing.updated_at),
    )  # fmt: skip


def execution_shown(
    thing: job.Execution, runs: Mapping[TaskId, tuple[str, run.RunState]]
) -> wire.Execution:
    over = thing.state in job.OVER
    return wire.Execution(
        id=thing.id, job=thing.job, mode=thing.mode, trigger=thing.trigger, state=thing.state,
        percent=thing.percent,
        steps=[
            wire.ExecutedStep(
                task=step.task, run=runs[step.task][0] if step.task in runs else None,
                state=runs[step.task][1] if step.task in runs
                else "notStarted" if over else "waiting",
            )
            for step in thing.steps
        ],
        queued_at=_at(thing.queued_at), started_at=_maybe(thing.started_at),
        finished_at=_maybe(thing.finished_at),
    )  # fmt: skip


def event_shown(thing: event.Event) -> wire.Event:
    return wire.Event(
        id=thing.id, number=thing.number, kind=thing.kind, status=thing.status,
        message=thing.message, rows=thing.rows, data=dict(thing.data), at=_at(thing.at),
    )  # fmt: skip


def _at(moment: Millis) -> str:
    return rfc3339(moment, millis=True)


def _maybe(moment: Millis | None) -> str | None:
    return None if moment is None else _at(moment)
