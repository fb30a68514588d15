"""Between Algolia's words and ours: pure functions, both ways."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.api.bodies import converted
from headrace.api.dialects.algolia import wire
from headrace.domain import event, resources, run, task
from headrace.domain.clock import Millis, parse_rfc3339, rfc3339
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


def at(moment: Millis) -> str:
    return rfc3339(moment)


def authentication(thing: resources.Authentication) -> wire.Authentication:
    return wire.Authentication(
        authentication_id=thing.id, type=thing.type, name=thing.name, platform=thing.platform,
        input={name: value for name, value in thing.input.items() if name != "code"},
        created_at=at(thing.created_at), updated_at=at(thing.updated_at),
    )  # fmt: skip


def source_input(type_: str, given: Json | None, old: resources.Source | None = None) -> Json:
    """Check a source's input against its type's form, and return it as it is kept.

    `old` is the source that a PATCH changes. Raises Invalid, naming the member.
    """
    if type_ == "push":
        if given is not None:
            raise Invalid("A push source has no input.", field="input")
        return {}
    if given is None:
        raise Invalid("input is required.", field="input")
    if old is not None and type_ in wire.MERGED:
        for name in wire.FIXED.get(type_, ()):
            if name in given and given[name] != old.input.get(name):
                raise Invalid(f"input.{name} cannot be changed.", field=f"input.{name}")
        given = dict(old.input) | given
    checked: Json = msgspec.to_builtins(converted(given, wire.SOURCE_FORMS[type_], "input"))
    return checked | ({"unmapped": "string"} if type_ == "csv" else {})


def source(thing: resources.Source) -> wire.Source:
    shown = {name: value for name, value in thing.input.items() if name != "unmapped"}
    return wire.Source(
        source_id=thing.id, type=thing.type, name=thing.name,
        input=msgspec.UNSET if thing.type == "push" else shown,
        authentication_id=thing.authentication or msgspec.UNSET, created_at=at(thing.created_at),
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
        authentication_id=thing.authentication or msgspec.UNSET, created_at=at(thing.created_at),
        updated_at=at(thing.updated_at),
        transformation_ids=list(thing.transformations) or msgspec.UNSET,
    )  # fmt: skip


def transformation_input(given: Any) -> tuple[str, Json]:  # Any: create, replace or try
    """Return type and input; the older edition has only `code`. Raises Invalid."""
    if given.input is None:
        if given.code is None:
            raise Invalid("input is required.", field="input")
        if given.type == "noCode":
            raise Invalid("input.steps is required.", field="input.steps")
        return "code", {"code": given.code}
    type_ = given.type or ("noCode" if "steps" in given.input else "code")
    form = wire.Code if type_ == "code" else wire.Steps
    return type_, msgspec.to_builtins(converted(given.input, form, "input"))


def transformation(thing: resources.Transformation) -> wire.Transformation:
    told = msgspec.UNSET if thing.description is None else thing.description
    return wire.Transformation(
        transformation_id=thing.id, code=str(thing.input.get("code", "")), type=thing.type,
        input=dict(thing.input), name=thing.name, description=told,
        authentication_ids=list(thing.authentications), created_at=at(thing.created_at),
        updated_at=at(thing.updated_at),
    )  # fmt: skip


def kept(given: Any) -> Json:  # Any: one of the task shapes
    """Return the members of a task that are kept as they came. Raises Invalid."""
    found = {}
    for name in KEPT:
        value = getattr(given, name, msgspec.UNSET)
        if value is msgspec.UNSET:
            continue
        if name == "input" and value is not None:
            _task_input(value)
        if name == "cursor" and value is not None:
            try:
                parse_rfc3339(value)
            except ValueError:
                raise Invalid("cursor must be an RFC 3339 date.", field="cursor") from None
        found[name] = msgspec.to_builtins(value)
    return found


def _task_input(given: Json) -> None:
    for name, form in wire.TASK_INPUTS.items():
        if name in given:
            converted(given, form, "input")
            return
    raise Invalid(
        "input fits no kind of task.",
        hint="It has mapping, streams, or metafields and market.",
        field="input",
    )


def cron_of(cron: str | msgspec.UnsetType | None) -> str | None:
    return None if cron is msgspec.UNSET or cron is None else cron


def trigger_of(given: wire.Trigger) -> tuple[task.TriggerType, str | None]:
    """Return the trigger's type and cron line. Raises Invalid."""
    cron = cron_of(given.cron)
    if (given.type == "schedule") != (cron is not None):
        what = "needs" if given.type == "schedule" else "has no"
        raise Invalid(f"A trigger of type {given.type} {what} cron.", field="trigger.cron")
    return task.TriggerType(given.type), cron


def task_changes(given: wire.TaskUpdate | wire.TaskUpdateV1) -> Json:
    """Return what a PATCH changes, by the names in the domain."""
    changes: Json = {"extra": kept(given)}
    if isinstance(given, wire.TaskUpdateV1):
        if given.trigger is not msgspec.UNSET:
            changes["cron"] = given.trigger.cron
    elif given.cron is not msgspec.UNSET:
        changes["cron"] = given.cron or None
    for name, ours in (
        ("destination_id", "destination"), ("enabled", "enabled"),
        ("failure_threshold", "failure_threshold"),
    ):  # fmt: skip
        if (value := getattr(given, name)) is not msgspec.UNSET:
            changes[ours] = value
    return changes


def task_replaced(given: wire.TaskReplace) -> Json:
    """Return what a PUT changes: all there is but the source."""
    return {
        "destination": given.destination_id, "action": given.action,
        "cron": cron_of(given.cron), "enabled": given.enabled,
        "failure_threshold": given.failure_threshold,
        "extra": dict.fromkeys(KEPT) | kept(given),
    }  # fmt: skip


def _kept_of(thing: task.Task) -> Json:
    return {name: thing.extra[name] for name in KEPT if thing.extra.get(name) is not None}


def task_v2(thing: task.Task, last: Millis | None) -> wire.Task:
    extra = _kept_of(thing)
    if not {"streams", "mapping", "metafields"} & extra.get("input", {}).keys():
        extra.pop("input", None)  # an older edition's breaks newer clients (contract, trap 4)
    return wire.Task(
        task_id=thing.id, source_id=thing.source, destination_id=thing.destination,
        action=thing.action, enabled=thing.enabled, failure_threshold=thing.failure_threshold,
        created_at=at(thing.created_at), updated_at=at(thing.updated_at),
        cron=thing.cron or msgspec.UNSET,
        next_run=at(thing.next_run) if thing.next_run else msgspec.UNSET,
        last_run=at(last) if last else msgspec.UNSET, **extra,
    )  # fmt: skip


def task_v1(thing: task.Task, last: Millis | None) -> wire.TaskV1:
    trigger: Json = {"type": thing.trigger.value}
    timed = thing.trigger in (task.TriggerType.ON_DEMAND, task.TriggerType.SCHEDULE)
    if last and timed:
        trigger["lastRun"] = at(last)
    if thing.cron and thing.next_run:
        trigger |= {"cron": thing.cron, "nextRun": at(thing.next_run)}
    extra = _kept_of(thing)
    extra.pop("subscription_action", None)
    if {"startDate", "timeframe"} & extra.get("input", {}).keys():
        extra["input"] = extra["input"] | {"streams": []}  # parses in both worlds (trap 4)
    return wire.TaskV1(
        task_id=thing.id, source_id=thing.source, destination_id=thing.destination,
        trigger=trigger, action=thing.action, enabled=thing.enabled,
        failure_threshold=thing.failure_threshold, created_at=at(thing.created_at),
        updated_at=at(thing.updated_at), **extra,
    )  # fmt: skip


def run_shown(thing: run.Run, tenant: Tenant) -> wire.Run:
    shown = wire.Run(
        run_id=thing.id, app_id=tenant.name, task_id=thing.task, status=_status(thing),  # type: ignore[arg-type]  # the keys of STATES
        type=thing.kind.value, created_at=at(thing.queued_at),
        failure_threshold=thing.failure_threshold,
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
            else books["read"] - books["rejected"],
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
        case RunState.SKIPPED:
            shown.outcome, shown.reason_code = "success", "no_events"
            shown.reason = "Nothing has changed since the last run."
        case RunState.CANCELLED:
            shown.outcome, shown.reason_code = "failure", "cancelled"
            shown.reason = "The run was cancelled."
        case _ if thing.waiting_for:
            shown.reason = f"waiting for {thing.waiting_for}"
        case _:
            pass
    return shown


def _status(thing: run.Run) -> str:
    # A push run that waits for more is between two of its commits, not before its start.
    waits = thing.kind is run.RunKind.PUSH and thing.started_at is not None
    return "started" if waits and thing.state is RunState.QUEUED else STATUS[thing.state]


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


def identified(given: wire.PushGiven) -> list[Any]:
    """Return the records of a push as far as they are looked at. Raises Invalid."""
    try:
        if given.action in ("clear", "delete"):
            return msgspec.json.decode(given.records, type=list[Json])
        return msgspec.json.decode(given.records, type=list[wire.Identified])
    except msgspec.ValidationError as error:
        where = str(error).partition(" - at `$")[2].rstrip("`")
        raise Invalid(
            f"records{where}: {str(error).partition(' - at')[0]}.",
            hint="Each record is an object with an objectID, a string.",
            field=f"records{where}",
        ) from error


def chosen(given: wire.RunSourceGiven) -> Callable[[str], bool]:
    """Return what tells whether an index was asked for."""
    only = None if given.index_to_include is msgspec.UNSET else set(given.index_to_include)
    never = set() if given.index_to_exclude is msgspec.UNSET else set(given.index_to_exclude)
    return lambda index: (only is None or index in only) and index not in never
