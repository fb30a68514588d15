"""Between Algolia's words and ours: pure functions, both ways."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.api.dialects.algolia import wire
from headrace.domain import event, resources, run, task
from headrace.domain.clock import Millis, rfc3339
from headrace.domain.errors import Invalid
from headrace.domain.principal import Tenant
from headrace.domain.run import RunState

Json = dict[str, Any]
# A task's members that are kept as they came.
KEPT: Final = ("subscription_action", "input", "cursor", "notifications", "policies")
STATES: Final[Mapping[str, tuple[RunState, ...]]] = {
    "created": (RunState.QUEUED,),
    "started": (RunState.RUNNING, RunState.CANCELLING),
    "finished": (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED),
    "skipped": (RunState.SKIPPED,),
    "idled": (),  # of the older edition: matches nothing
}
STATUS: Final = {state: status for status, states in STATES.items() for state in states}
CSV_ONLY: Final = ("mapping", "delimiter")


def at(moment: Millis) -> str:
    return rfc3339(moment)


def authentication(thing: resources.Authentication) -> wire.Authentication:
    return wire.Authentication(
        authentication_id=thing.id, type=thing.type, name=thing.name, platform=thing.platform,
        input=dict(thing.input), created_at=at(thing.created_at), updated_at=at(thing.updated_at),
    )  # fmt: skip


def source_input(type_: str, given: wire.SourceInput) -> Json:
    """Return our settings for Algolia's: what no mapping names is a string."""
    members: Json = msgspec.to_builtins(given)
    if type_ == "csv":
        return members | {"unmapped": "string"}
    for name in CSV_ONLY:
        if name in members:
            raise Invalid(f"input.{name} belongs to csv sources.", field=f"input.{name}")
    return members


def source(thing: resources.Source) -> wire.Source:
    shown = {
        name: value
        for name, value in thing.input.items()
        if name in ("url", "uniqueIDColumn", "mapping", "method", "delimiter")
    }
    return wire.Source(
        source_id=thing.id, type=thing.type, name=thing.name, input=shown,
        authentication_id=thing.authentication, created_at=at(thing.created_at),
        updated_at=at(thing.updated_at),
    )  # fmt: skip


def destination_input(given: wire.DestinationInput, *, whole: bool) -> Json:
    members: Json = msgspec.to_builtins(given)
    if prefix := members.get("indexPrefix"):
        members.setdefault("indexName", prefix)
    if whole and not members.get("indexName"):
        raise Invalid("input.indexName is required.", field="input.indexName")
    return members


def destination(thing: resources.Destination) -> wire.Destination:
    return wire.Destination(
        destination_id=thing.id, type=thing.type, name=thing.name, input=dict(thing.input),
        authentication_id=thing.authentication, created_at=at(thing.created_at),
        updated_at=at(thing.updated_at),
    )  # fmt: skip


def kept(given: Any) -> Json:  # Any: one of the task shapes
    """Return the members of a task that are kept as they came."""
    found = {name: getattr(given, name, msgspec.UNSET) for name in KEPT}
    return {name: value for name, value in found.items() if value is not msgspec.UNSET}


def task_changes(given: wire.TaskUpdate) -> Json:
    """Return what a PATCH changes, by the names in the domain."""
    refuse_schedule(given.cron)
    if given.trigger is not msgspec.UNSET:
        refuse_schedule(given.trigger.get("cron"))
    changes: Json = {"extra": kept(given)}
    for name, ours in (
        ("destination_id", "destination"), ("enabled", "enabled"),
        ("failure_threshold", "failure_threshold"),
    ):  # fmt: skip
        if (value := getattr(given, name)) is not msgspec.UNSET:
            changes[ours] = value
    return changes


def refuse_schedule(cron: object) -> None:
    """Raise Invalid for a schedule: never keep a promise that nobody would see to."""
    if cron is not None and cron is not msgspec.UNSET:
        raise Invalid(
            "Schedules are not there yet: the task would never run.",
            hint="Make the task on demand and start it by /run.",
            field="cron",
        )


def refuse_trigger(type_: str) -> None:
    """Raise Invalid for the triggers that are not there yet."""
    if type_ != task.TriggerType.ON_DEMAND:
        raise Invalid(
            f"The trigger {type_!r} is not there yet: the task would never run.",
            hint='Use {"type": "onDemand"} and start it by /run.',
            field="trigger.type",
        )


def task_v2(thing: task.Task, last: run.Run | None) -> wire.Task:
    input_ = thing.extra.get("input", msgspec.UNSET)
    if isinstance(input_, dict) and not {"streams", "mapping", "metafields"} & input_.keys():
        input_ = msgspec.UNSET  # an older edition's input breaks newer clients (contract, trap 4)
    return wire.Task(
        task_id=thing.id, source_id=thing.source, destination_id=thing.destination,
        action=thing.action, enabled=thing.enabled, failure_threshold=thing.failure_threshold,
        created_at=at(thing.created_at), updated_at=at(thing.updated_at), input=input_,
        last_run=at(last.queued_at) if last else msgspec.UNSET,
        **{name: thing.extra[name] for name in KEPT if name in thing.extra and name != "input"},
    )  # fmt: skip


def task_v1(thing: task.Task, last: run.Run | None) -> wire.TaskV1:
    trigger: Json = {"type": "onDemand"} | ({"lastRun": at(last.queued_at)} if last else {})
    return wire.TaskV1(
        task_id=thing.id, source_id=thing.source, destination_id=thing.destination,
        trigger=trigger, action=thing.action, enabled=thing.enabled,
        failure_threshold=thing.failure_threshold, created_at=at(thing.created_at),
        updated_at=at(thing.updated_at), input=thing.extra.get("input", msgspec.UNSET),
        cursor=thing.extra.get("cursor", msgspec.UNSET),
    )  # fmt: skip


def run_shown(thing: run.Run, tenant: Tenant) -> wire.Run:
    shown = wire.Run(
        run_id=thing.id, app_id=tenant.name, task_id=thing.task, status=STATUS[thing.state],  # type: ignore[arg-type]  # the keys of STATES
        type="reindex", created_at=at(thing.queued_at), failure_threshold=thing.failure_threshold,
    )  # fmt: skip
    if thing.started_at is not None:
        shown.started_at = at(thing.started_at)
    if thing.finished_at is not None:
        shown.finished_at = at(thing.finished_at)
    books = thing.receipt["books"] if thing.receipt else None
    if books:
        shown.progress = {
            "expectedNbOfEvents": books["read"],
            "receivedNbOfEvents": books["read"]
            if thing.state is RunState.SUCCEEDED
            else books["inserted"] + books["updated"],
        }
    match thing.state:
        case RunState.SUCCEEDED:
            shown.outcome = "success"
            shown.reason_code = "ok" if books and books["read"] else "no_events"
            shown.reason = _landed(books or {})
        case RunState.FAILED:
            error = thing.error or {}
            shown.outcome = "failure"
            shown.reason = f"{error.get('message', '')} {error.get('hint', '')}".strip()
            shown.reason_code = {"too_many_errors": "too_many_errors", "internal": "internal"}.get(
                str(error.get("code")), "critical"
            )
        case RunState.CANCELLED:
            shown.outcome, shown.reason_code = "failure", "cancelled"
            shown.reason = "The run was cancelled."
        case _ if thing.waiting_for:
            shown.reason = f"waiting for {thing.waiting_for}"
        case _:
            pass
    return shown


def _landed(books: Mapping[str, int]) -> str:
    return (
        f"{books.get('read', 0):,} read, {books.get('inserted', 0):,} inserted,"
        f" {books.get('updated', 0):,} updated, {books.get('rejected', 0):,} rejected."
    )


def event_shown(thing: event.Event) -> wire.Event:
    return wire.Event(
        event_id=thing.id, run_id=thing.run,
        status=None if thing.kind is event.EventKind.LOG else thing.status,
        type=thing.kind.value, batch_size=thing.rows,
        data=dict(thing.data) | {"message": thing.message}, published_at=at(thing.at),
    )  # fmt: skip
