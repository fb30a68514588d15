"""Routes of the Algolia dialect: one service call between two translations."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from litestar import Router, delete, get, patch, post, put
from litestar.concurrency import sync_to_thread
from litestar.di import Provide

from headrace.api import errors
from headrace.api.auth import AnyRequest, algolia, services
from headrace.api.bodies import converted, decoded, payload, plain_body
from headrace.api.dialects.algolia import translate, wire
from headrace.api.dialects.algolia.query import Query
from headrace.api.dialects.algolia.search import ROUTES
from headrace.api.rates import limited
from headrace.domain.clock import Millis, now_ms
from headrace.domain.errors import HeadraceError, Invalid, TooLarge
from headrace.domain.event import EventStatus
from headrace.domain.ids import TaskId
from headrace.domain.principal import Principal
from headrace.domain.resources import Authentication, Destination, Source, Transformation
from headrace.domain.run import RunKind, Trigger
from headrace.domain.task import Task
from headrace.service.catalog import AUTHENTICATION_FORMS
from headrace.service.runs import Pushed
from headrace.service.services import Services

Json = dict[str, Any]
T = TypeVar("T")
WEEK_MS: Final = 7 * 86_400_000
THREE_HOURS_MS: Final = 3 * 3_600_000
SOURCES: Final = ("push", *wire.SOURCE_FORMS)
DESTINATIONS: Final = ("search", "insights")
AUTHENTICATION_TYPES: Final = (*AUTHENTICATION_FORMS, "secrets")
SHOPS: Final = ("bigcommerce", "commercetools", "shopify")
PUSH_BYTES_MAX: Final = 5 << 20
WATCH_S: Final = 180.0
LOOK_S: Final = 0.02  # between two looks for a push's event


async def asked(request: AnyRequest) -> Query:
    """Hand a list's query to a route."""
    return Query(request)


def _now() -> str:
    return translate.at(now_ms())


TIMES: Final = {"updatedAt": "updated_at", "createdAt": "created_at"}
ENDS: Final = {"name": "name", "type": "type"} | TIMES

# Authentications.


@post(
    "/1/authentications",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.AuthenticationCreate},
)
def create_authentication(payload: Json, services: Services, principal: Principal) -> Json:
    """Create an authentication."""
    given: wire.AuthenticationCreate = converted(payload, wire.AuthenticationCreate)
    made = services.catalog.by(principal).add_authentication(
        principal.tenant.id, type_=given.type, name=given.name, platform=given.platform,
        given=given.input,
    )  # fmt: skip
    return {
        "authenticationID": made.id, "name": made.name, "createdAt": translate.at(made.created_at),
    }  # fmt: skip


@get("/1/authentications", sync_to_thread=True)
def list_authentications(services: Services, principal: Principal, asked: Query) -> Json:
    """List authentications."""
    where: dict[str, list[Any]] = {}
    if (types := asked.one_of("type", AUTHENTICATION_TYPES)) is not None:
        where["type"] = list(types)
    if (platforms := asked.one_of("platform", (*SHOPS, "none"))) is not None:
        where["platform"] = [None if one == "none" else one for one in platforms]
    columns = ENDS | {"auth_type": "type", "platform": "platform"}
    found, total = services.catalog.listed(
        Authentication, principal.tenant.id, where, asked.order(columns, "createdAt"), asked.window
    )
    return {
        "authentications": [translate.authentication(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post(
    "/1/authentications/search",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.AuthenticationIDs},
)
def search_authentications(
    payload: Json, services: Services, principal: Principal
) -> list[wire.Authentication]:
    """Return the authentications named."""
    ids = converted(payload, wire.AuthenticationIDs).authentication_ids
    found = services.catalog.some(Authentication, principal.tenant.id, ids)
    return [translate.authentication(one) for one in found]


@get("/1/authentications/{id:str}", sync_to_thread=True)
def get_authentication(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Authentication:  # fmt: skip
    """Show an authentication."""
    return translate.authentication(services.catalog.get(Authentication, principal.tenant.id, id))


@patch("/1/authentications/{id:str}", sync_to_thread=True, opt={"body": wire.AuthenticationUpdate})
def update_authentication(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change an authentication: members that are left out stay."""
    given: wire.AuthenticationUpdate = converted(payload, wire.AuthenticationUpdate)
    changed = services.catalog.by(principal).change_authentication(
        principal.tenant.id, id, name=given.name, given=given.input, platform=given.platform
    )
    return {
        "authenticationID": changed.id, "name": changed.name,
        "updatedAt": translate.at(changed.updated_at),
    }  # fmt: skip


@delete("/1/authentications/{id:str}", status_code=200, sync_to_thread=True)
def delete_authentication(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete an authentication that nothing uses."""
    services.catalog.by(principal).remove(Authentication, principal.tenant.id, id)
    return {"deletedAt": _now()}


# Sources.


def _known(payload: Json, types: tuple[str, ...]) -> None:
    if payload.get("type") not in types:
        raise Invalid(f"type must be one of {', '.join(types)}.", field="type")


@post("/1/sources", status_code=200, sync_to_thread=True, opt={"body": wire.SourceCreate})
def create_source(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a source."""
    _known(payload, SOURCES)
    given: wire.SourceCreate = converted(payload, wire.SourceCreate)
    made = services.catalog.by(principal).add_end(
        Source, principal.tenant.id, type_=given.type, name=given.name,
        given=translate.source_input(given.type, given.input),
        authentication=given.authentication_id, planned=True,
    )  # fmt: skip
    return {"sourceID": made.id, "name": made.name, "createdAt": translate.at(made.created_at)}


@get("/1/sources", sync_to_thread=True)
def list_sources(services: Services, principal: Principal, asked: Query) -> Json:
    """List sources that this dialect can say."""
    where: dict[str, list[Any]] = {"type": list(asked.one_of("type", SOURCES) or SOURCES)}
    if (ids := asked.many("authenticationID")) is not None:
        where["authentication"] = [None if one == "none" else one for one in ids]
    found, total = services.catalog.listed(
        Source, principal.tenant.id, where, asked.order(ENDS, "createdAt"), asked.window
    )
    return {
        "sources": [translate.source(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post("/1/sources/search", status_code=200, sync_to_thread=True, opt={"body": wire.SourceIDs})
def search_sources(payload: Json, services: Services, principal: Principal) -> list[wire.Source]:
    """Return the sources named."""
    found = services.catalog.some(
        Source, principal.tenant.id, converted(payload, wire.SourceIDs).source_ids
    )
    return [translate.source(one) for one in found if one.type in SOURCES]


@get("/1/sources/{id:str}", sync_to_thread=True)
def get_source(id: str, services: Services, principal: Principal) -> wire.Source:  # noqa: A002
    """Show a source."""
    return translate.source(services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES))


@patch("/1/sources/{id:str}", sync_to_thread=True, opt={"body": wire.SourceUpdate})
def update_source(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a source."""
    given: wire.SourceUpdate = converted(payload, wire.SourceUpdate)
    old = services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES)
    changed = services.catalog.by(principal).change_end(
        Source, principal.tenant.id, id, name=given.name,
        given=None if given.input is None else translate.source_input(old.type, given.input, old),
        authentication=given.authentication_id, whole=True,
    )  # fmt: skip
    return {
        "sourceID": changed.id, "name": changed.name,
        "updatedAt": translate.at(changed.updated_at),
    }  # fmt: skip


@delete("/1/sources/{id:str}", status_code=200, sync_to_thread=True)
def delete_source(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete a source that no task uses."""
    services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES)
    services.catalog.by(principal).remove(Source, principal.tenant.id, id)
    return {"deletedAt": _now()}


@post("/1/sources/validate", status_code=200, sync_to_thread=True, opt={"body": wire.SourceCreate})
def validate_source(payload: Json, services: Services, principal: Principal) -> wire.Watch:
    """Try a source that is not kept, and return some of its records."""
    _known(payload, SOURCES)
    given: wire.SourceCreate = converted(payload, wire.SourceCreate)
    input_ = translate.source_input(given.type, given.input)
    return _tried(services, principal, given.type, input_, given.authentication_id)


@post(
    "/1/sources/{id:str}/validate",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.SourceUpdate},
)
def validate_source_before_update(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> wire.Watch:  # fmt: skip
    """Try a source as it would be after a change, and return some of its records."""
    given: wire.SourceUpdate = converted(payload, wire.SourceUpdate)
    old = services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES)
    input_ = dict(old.input)
    if given.input is not None:
        input_ = translate.source_input(old.type, given.input, old)
    owner = given.authentication_id or old.authentication
    return _tried(services, principal, old.type, input_, owner)


def _tried(
    services: Services, principal: Principal, type_: str, input_: Json, owner: str | None
) -> wire.Watch:
    error: HeadraceError | None = None
    rows: list[Json] = []
    try:
        rows = services.sample(principal.tenant.id, type_, input_, owner)
    except HeadraceError as caught:
        error = caught
    run = services.runs.told(principal.tenant.id, RunKind.VALIDATE, error, len(rows))
    answer = wire.Watch(run_id=run.id, created_at=translate.at(run.queued_at))
    if error is None:
        answer.data = rows
        answer.message = f"The source can be read: {len(rows)} records are shown."
    else:
        events, _ = services.runs.events(principal.tenant.id, run.id)
        answer.events = [translate.event_shown(one) for one in events]
        answer.message = f"{error.message} {error.hint}".strip()
    return answer


@post("/1/sources/{id:str}/discover", status_code=200, sync_to_thread=True)
def discover_source(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Watch:  # fmt: skip
    """Ask a docker source for its streams."""
    error = _undiscovered(services, principal, id)
    run = services.runs.told(principal.tenant.id, RunKind.DISCOVER, error, 0)
    events, _ = services.runs.events(principal.tenant.id, run.id)
    return wire.Watch(
        run_id=run.id, created_at=translate.at(run.queued_at), message=error.message,
        events=[translate.event_shown(one) for one in events],
    )  # fmt: skip


@get("/1/sources/{id:str}/discover", sync_to_thread=True)
def list_streams(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Show the streams of a docker source (older edition)."""
    _undiscovered(services, principal, id)
    return {"streams": []}


def _undiscovered(services: Services, principal: Principal, id_: str) -> Invalid:
    source = services.catalog.get_typed(Source, principal.tenant.id, id_, SOURCES)
    if source.type != "docker":
        raise Invalid(f"A source of type {source.type} has no streams to discover.")
    return Invalid("There is no connector for sources of type docker yet.")


@post(
    "/1/sources/{id:str}/run",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.RunSourceGiven},
)
def run_source(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Start every task of a shop's source."""
    given: wire.RunSourceGiven = converted(payload, wire.RunSourceGiven)
    source = services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES)
    if source.type not in SHOPS:
        raise Invalid(
            f"A source of type {source.type} is not run by itself; {', '.join(SHOPS)} are.",
            hint="Start its tasks.",
        )
    partly = given.entity_ids is not msgspec.UNSET
    started = services.runs.start_all(
        principal.tenant.id, source.id, kind=RunKind.UPDATE if partly else RunKind.REINDEX,
        indices=translate.chosen(given), metadata=given.run_metadata, by=principal,
    )  # fmt: skip
    return {"taskWithRunID": {run.task: run.id for run in started}, "createdAt": _now()}


# Destinations.


@post("/1/destinations", status_code=200, sync_to_thread=True, opt={"body": wire.DestinationCreate})
def create_destination(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a destination."""
    _known(payload, DESTINATIONS)
    given: wire.DestinationCreate = converted(payload, wire.DestinationCreate)
    made = services.catalog.by(principal).add_end(
        Destination, principal.tenant.id, type_=given.type, name=given.name,
        given=translate.destination_input(given.input, whole=True),
        authentication=given.authentication_id, planned=True,
        transformations=given.transformation_ids,
    )  # fmt: skip
    return {"destinationID": made.id, "name": made.name, "createdAt": translate.at(made.created_at)}


@get("/1/destinations", sync_to_thread=True)
def list_destinations(services: Services, principal: Principal, asked: Query) -> Json:
    """List destinations that this dialect can say."""
    types = asked.one_of("type", DESTINATIONS) or DESTINATIONS
    where: dict[str, list[Any]] = {"type": list(types)}
    if (ids := asked.many("authenticationID")) is not None:
        where["authentication"] = [None if one == "none" else one for one in ids]
    if (transformation := asked.text("transformationID")) is not None:
        where["transformation"] = [transformation]
    found, total = services.catalog.listed(
        Destination, principal.tenant.id, where, asked.order(ENDS, "createdAt"), asked.window
    )
    return {
        "destinations": [translate.destination(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post(
    "/1/destinations/search",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.DestinationIDs},
)
def search_destinations(
    payload: Json, services: Services, principal: Principal
) -> list[wire.Destination]:
    """Return the destinations named."""
    ids = converted(payload, wire.DestinationIDs).destination_ids
    found = services.catalog.some(Destination, principal.tenant.id, ids)
    return [translate.destination(one) for one in found if one.type in DESTINATIONS]


@get("/1/destinations/{id:str}", sync_to_thread=True)
def get_destination(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Destination:  # fmt: skip
    """Show a destination."""
    return translate.destination(
        services.catalog.get_typed(Destination, principal.tenant.id, id, DESTINATIONS)
    )


@patch("/1/destinations/{id:str}", sync_to_thread=True, opt={"body": wire.DestinationUpdate})
def update_destination(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a destination."""
    given: wire.DestinationUpdate = converted(payload, wire.DestinationUpdate)
    services.catalog.get_typed(Destination, principal.tenant.id, id, DESTINATIONS)
    changed = services.catalog.by(principal).change_end(
        Destination, principal.tenant.id, id, name=given.name,
        given=translate.destination_input(given.input, whole=False) if given.input else None,
        authentication=given.authentication_id, transformations=given.transformation_ids,
    )  # fmt: skip
    return {
        "destinationID": changed.id, "name": changed.name,
        "updatedAt": translate.at(changed.updated_at),
    }  # fmt: skip


@delete("/1/destinations/{id:str}", status_code=200, sync_to_thread=True)
def delete_destination(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete a destination that no task uses."""
    services.catalog.get_typed(Destination, principal.tenant.id, id, DESTINATIONS)
    services.catalog.by(principal).remove(Destination, principal.tenant.id, id)
    return {"deletedAt": _now()}


# Transformations.


@post(
    "/1/transformations",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.TransformationCreate},
)
def create_transformation(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a transformation."""
    given: wire.TransformationCreate = converted(payload, wire.TransformationCreate)
    type_, input_ = translate.transformation_input(given)
    made = services.catalog.by(principal).add_transformation(
        principal.tenant.id, type_=type_, name=given.name, description=given.description,
        given=input_, authentications=given.authentication_ids or (),
    )  # fmt: skip
    return {"transformationID": made.id, "createdAt": translate.at(made.created_at)}


@get("/1/transformations", sync_to_thread=True)
def list_transformations(services: Services, principal: Principal, asked: Query) -> Json:
    """List transformations."""
    where: dict[str, list[Any]] = {}
    if (types := asked.one_of("type", ("code", "noCode"))) is not None:
        where["type"] = list(types)
    order = asked.order({"name": "name"} | TIMES, "createdAt")
    found, total = services.catalog.listed(
        Transformation, principal.tenant.id, where, order, asked.window
    )
    return {
        "transformations": [translate.transformation(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post(
    "/1/transformations/search",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.TransformationIDs},
)
def search_transformations(
    payload: Json, services: Services, principal: Principal
) -> list[wire.Transformation]:
    """Return the transformations named."""
    ids = converted(payload, wire.TransformationIDs).transformation_ids
    found = services.catalog.some(Transformation, principal.tenant.id, ids)
    return [translate.transformation(one) for one in found]


@get("/1/transformations/{id:str}", sync_to_thread=True)
def get_transformation(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Transformation:  # fmt: skip
    """Show a transformation."""
    return translate.transformation(services.catalog.get(Transformation, principal.tenant.id, id))


@put("/1/transformations/{id:str}", sync_to_thread=True, opt={"body": wire.TransformationCreate})
def update_transformation(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Replace a transformation."""
    given: wire.TransformationCreate = converted(payload, wire.TransformationCreate)
    type_, input_ = translate.transformation_input(given)
    changed = services.catalog.by(principal).replace_transformation(
        principal.tenant.id, id, type_=type_, name=given.name, description=given.description,
        given=input_, authentications=given.authentication_ids or (),
    )  # fmt: skip
    return {"transformationID": changed.id, "updatedAt": translate.at(changed.updated_at)}


@delete("/1/transformations/{id:str}", status_code=200, sync_to_thread=True)
def delete_transformation(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete a transformation that no destination uses."""
    services.catalog.by(principal).remove(Transformation, principal.tenant.id, id)
    return {"deletedAt": _now()}


@post(
    "/1/transformations/try",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.TransformationTry},
)
def try_transformation(payload: Json, services: Services, principal: Principal) -> Json:
    """Run a transformation over one record. Nothing is kept."""
    given: wire.TransformationTry = converted(payload, wire.TransformationTry)
    return _transformed(services, given, {})


@post(
    "/1/transformations/{id:str}/try",
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.TransformationTry},
)
def try_transformation_before_update(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Run a transformation as it would be after a change. Nothing is kept."""
    given: wire.TransformationTry = converted(payload, wire.TransformationTry)
    old = services.catalog.get(Transformation, principal.tenant.id, id)
    return _transformed(services, given, services.catalog.secrets_of(old))


def _transformed(services: Services, given: wire.TransformationTry, secrets: Json) -> Json:
    type_, input_ = translate.transformation_input(given)
    for one in given.authentications:
        secrets |= one.input if one.type == "secrets" else {}
    found = services.try_transformation(type_, input_, secrets, given.sample_record)
    answer: Json = {"payloads": found.payloads}
    if found.error is not None:
        answer["error"] = {"code": 400, "message": found.error}
    return answer


# Tasks, in two versions over one store.


def _tasks(services: Services, principal: Principal, asked: Query) -> tuple[list[Task], int]:
    where: dict[str, list[Any]] = {}
    actions = ("replace", "save", "partial", "partialNoCreate", "append")
    for name, column, known in (
        ("action", "action", actions), ("sourceID", "source", None),
        ("sourceType", "source_type", SOURCES),
        ("destinationID", "destination", None),
        ("triggerType", "trigger", ("onDemand", "schedule", "subscription", "streaming")),
    ):  # fmt: skip
        found = asked.one_of(name, known) if known else asked.many(name)
        if found is not None:
            where[column] = list(found)
    if (enabled := asked.flag("enabled")) is not None:
        where["enabled"] = [enabled]
    if (mails := asked.flag("withEmailNotifications")) is not None:
        where["mails"] = [mails]
    columns = {"enabled": "enabled", "triggerType": "trigger", "action": "action"} | TIMES
    return services.catalog.listed(
        Task, principal.tenant.id, where, asked.order(columns, "createdAt"), asked.window
    )


def _shown(
    services: Services, shown: Callable[[Task, Millis | None], T], found: Sequence[Task]
) -> list[T]:
    """Show tasks as a version does, with the moments of their last runs."""
    last = services.runs.last_moments([one.id for one in found])
    return [shown(one, last.get(one.id)) for one in found]


def _created(task: Task) -> Json:
    return {"taskID": task.id, "createdAt": translate.at(task.created_at)}


def _updated(task: Task) -> Json:
    return {"taskID": task.id, "updatedAt": translate.at(task.updated_at)}


@post("/2/tasks", status_code=200, sync_to_thread=True, opt={"body": wire.TaskCreate})
def create_task(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a task."""
    given: wire.TaskCreate = converted(payload, wire.TaskCreate)
    return _created(
        services.catalog.by(principal).add_task(
            principal.tenant.id, source=given.source_id, destination=given.destination_id,
            action=given.action, enabled=given.enabled, failure_threshold=given.failure_threshold,
            extra=translate.kept(given), cron=translate.cron_of(given.cron),
        )
    )  # fmt: skip


@post("/1/tasks", status_code=200, sync_to_thread=True, opt={"body": wire.TaskCreateV1})
def create_task_v1(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a task (version 1)."""
    given: wire.TaskCreateV1 = converted(payload, wire.TaskCreateV1)
    trigger, cron = translate.trigger_of(given.trigger)
    return _created(
        services.catalog.by(principal).add_task(
            principal.tenant.id, source=given.source_id, destination=given.destination_id,
            action=given.action, enabled=given.enabled, failure_threshold=given.failure_threshold,
            extra=translate.kept(given), trigger=trigger, cron=cron,
        )
    )  # fmt: skip


@get("/2/tasks", sync_to_thread=True)
def list_tasks(services: Services, principal: Principal, asked: Query) -> Json:
    """List tasks."""
    found, total = _tasks(services, principal, asked)
    return {
        "tasks": _shown(services, translate.task_v2, found),
        "pagination": asked.pagination(total),
    }


@get("/1/tasks", sync_to_thread=True)
def list_tasks_v1(services: Services, principal: Principal, asked: Query) -> Json:
    """List tasks (version 1)."""
    found, total = _tasks(services, principal, asked)
    return {
        "tasks": _shown(services, translate.task_v1, found),
        "pagination": asked.pagination(total),
    }


@post("/2/tasks/search", status_code=200, sync_to_thread=True, opt={"body": wire.TaskIDs})
def search_tasks(payload: Json, services: Services, principal: Principal) -> list[wire.Task]:
    """Return the tasks named."""
    found = services.catalog.some(
        Task, principal.tenant.id, converted(payload, wire.TaskIDs).task_ids
    )
    return _shown(services, translate.task_v2, found)


@post("/1/tasks/search", status_code=200, sync_to_thread=True, opt={"body": wire.TaskIDs})
def search_tasks_v1(payload: Json, services: Services, principal: Principal) -> list[wire.TaskV1]:
    """Return the tasks named (version 1)."""
    found = services.catalog.some(
        Task, principal.tenant.id, converted(payload, wire.TaskIDs).task_ids
    )
    return _shown(services, translate.task_v1, found)


@get("/2/tasks/{id:str}", sync_to_thread=True)
def get_task(id: str, services: Services, principal: Principal) -> wire.Task:  # noqa: A002
    """Show a task."""
    found = services.catalog.get(Task, principal.tenant.id, id)
    return _shown(services, translate.task_v2, [found])[0]


@get("/1/tasks/{id:str}", sync_to_thread=True)
def get_task_v1(id: str, services: Services, principal: Principal) -> wire.TaskV1:  # noqa: A002
    """Show a task (version 1)."""
    found = services.catalog.get(Task, principal.tenant.id, id)
    return _shown(services, translate.task_v1, [found])[0]


@patch("/2/tasks/{id:str}", sync_to_thread=True, opt={"body": wire.TaskUpdate})
def update_task(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a task."""
    changes = translate.task_changes(converted(payload, wire.TaskUpdate))
    return _updated(services.catalog.by(principal).change_task(principal.tenant.id, id, **changes))


@patch("/1/tasks/{id:str}", sync_to_thread=True, opt={"body": wire.TaskUpdateV1})
def update_task_v1(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a task (version 1)."""
    changes = translate.task_changes(converted(payload, wire.TaskUpdateV1))
    return _updated(services.catalog.by(principal).change_task(principal.tenant.id, id, **changes))


@put("/2/tasks/{id:str}", sync_to_thread=True, opt={"body": wire.TaskReplace})
def replace_task(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Replace a task; its source stays."""
    changes = translate.task_replaced(converted(payload, wire.TaskReplace))
    return _updated(services.catalog.by(principal).change_task(principal.tenant.id, id, **changes))


@delete(["/1/tasks/{id:str}", "/2/tasks/{id:str}"], status_code=200, sync_to_thread=True)
def delete_task(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete a task."""
    services.catalog.by(principal).remove(Task, principal.tenant.id, id)
    return {"deletedAt": _now()}


@put(["/1/tasks/{id:str}/enable", "/2/tasks/{id:str}/enable"], sync_to_thread=True)
def enable_task(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Enable a task."""
    return _updated(
        services.catalog.by(principal).change_task(principal.tenant.id, id, enabled=True)
    )


@put(["/1/tasks/{id:str}/disable", "/2/tasks/{id:str}/disable"], sync_to_thread=True)
def disable_task(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Disable a task."""
    return _updated(
        services.catalog.by(principal).change_task(principal.tenant.id, id, enabled=False)
    )


@post(
    ["/1/tasks/{id:str}/run", "/2/tasks/{id:str}/run"],
    status_code=200,
    sync_to_thread=True,
    opt={"body": wire.RunGiven},
)
def run_task(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Start a run of a task."""
    given: wire.RunGiven = converted(payload, wire.RunGiven)
    run = services.runs.start(
        principal.tenant.id,
        TaskId(id),
        trigger=Trigger.API,
        metadata=given.run_metadata,
        by=principal,
    )
    return {"runID": run.id, "createdAt": translate.at(run.queued_at)}


# Pushes.


@post("/2/tasks/{id:str}/push", status_code=200, opt={"body": wire.PushGiven})
async def push_task(
    id: str, request: AnyRequest, pushed: bytes, services: Services,  # noqa: A002
    principal: Principal,
) -> wire.Watch:  # fmt: skip
    """Push records to a task."""
    return await _pushed(request, pushed, services, principal, TaskId(id), None)


@post("/1/push/{index:str}", status_code=200, opt={"body": wire.PushGiven})
async def push(
    index: str, request: AnyRequest, pushed: bytes, services: Services, principal: Principal
) -> wire.Watch:
    """Push records to the one task that has an index.

    With `referenceIndexName` they go to `index` by the other index's task.
    """
    known = request.query_params.get("referenceIndexName") or index
    id_ = await sync_to_thread(services.runs.push_task, principal.tenant.id, known)
    table = None if known == index else index
    return await _pushed(request, pushed, services, principal, id_, table)


async def _pushed(
    request: AnyRequest, body: bytes, services: Services, principal: Principal, task: TaskId,
    table: str | None,
) -> wire.Watch:  # fmt: skip
    if len(body) > PUSH_BYTES_MAX:
        raise TooLarge(f"A push has at most {PUSH_BYTES_MAX:,} bytes.", hint="Send less at a time.")
    watch = Query(request).flag("watch")
    given: wire.PushGiven = decoded(body, wire.PushGiven)
    count = len(translate.identified(given))
    kept: Pushed = await sync_to_thread(
        services.runs.push, principal.tenant.id, task, action=given.action, records=count,
        payload=bytes(given.records), table=table,
    )  # fmt: skip
    answer = wire.Watch(run_id=kept.run, event_id=kept.event, created_at=translate.at(kept.at))
    if not watch:
        return answer
    until = time.monotonic() + WATCH_S
    while time.monotonic() < until:
        found = await sync_to_thread(
            services.runs.event_or_none, principal.tenant.id, kept.run, kept.event
        )
        if found is not None:
            answer.message = found.message
            if found.status is not EventStatus.SUCCEEDED:
                answer.events = [translate.event_shown(found)]
            return answer
        await asyncio.sleep(LOOK_S)
    answer.message = "The records are kept; they are not in the index yet."
    return answer


# Runs and events.


@get("/1/runs", sync_to_thread=True)
def list_runs(services: Services, principal: Principal, asked: Query) -> Json:
    """List runs, by default of the last seven days."""
    since, until = asked.span(WEEK_MS)
    statuses = asked.one_of("status", tuple(translate.STATES))
    columns = {"status": "state", "updatedAt": "updated_at", "createdAt": "queued_at"}
    states = None if statuses is None else [s for one in statuses for s in translate.STATES[one]]
    types = asked.one_of("type", tuple(RunKind))
    found, total = services.runs.listed(
        principal.tenant.id, task=asked.text("taskID"), states=states, since=since, until=until,
        kinds=types, order=asked.order(columns, "createdAt"), window=asked.window,
    )  # fmt: skip
    return {
        "runs": [translate.run_shown(one, principal.tenant) for one in found],
        "pagination": asked.pagination(total),
        "window": wire.Window(start_date=translate.at(since), end_date=translate.at(until)),
    }


@get("/1/runs/{id:str}", sync_to_thread=True)
def get_run(id: str, services: Services, principal: Principal) -> wire.Run:  # noqa: A002
    """Show a run."""
    return translate.run_shown(services.runs.get(principal.tenant.id, id), principal.tenant)


@get("/1/runs/{id:str}/events", sync_to_thread=True)
def list_events(
    id: str, services: Services, principal: Principal, asked: Query  # noqa: A002
) -> Json:  # fmt: skip
    """List events of a run, by default of the last three hours."""
    since, until = asked.span(THREE_HOURS_MS)
    statuses = ("created", "started", "retried", "failed", "succeeded", "critical")
    columns = {"status": "status", "type": "kind", "publishedAt": "number"}
    found, total = services.runs.events(
        principal.tenant.id, id,
        kinds=asked.one_of("type", ("fetch", "record", "log", "transform")),
        statuses=asked.one_of("status", statuses), since=since, until=until,
        order=asked.order(columns, "publishedAt"), window=asked.window,
    )  # fmt: skip
    return {
        "events": [translate.event_shown(one) for one in found],
        "pagination": asked.pagination(total),
        "window": wire.Window(start_date=translate.at(since), end_date=translate.at(until)),
    }


@get("/1/runs/{id:str}/events/{event_id:str}", sync_to_thread=True)
def get_event(
    id: str, event_id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Event:  # fmt: skip
    """Show an event."""
    return translate.event_shown(services.runs.event(principal.tenant.id, id, event_id))


def caller_of(request: AnyRequest) -> Principal:
    """Return who calls, within the limits of its address. Raises Denied, TooMany."""
    looks = request.method == "GET" and request.url.path.startswith("/1/runs")
    limited(request, "algolia looks" if looks else "algolia")
    return algolia(request)


ALGOLIA: Final = Router(
    path="/",
    route_handlers=[
        create_authentication, list_authentications, search_authentications, get_authentication,
        update_authentication, delete_authentication,
        create_source, list_sources, search_sources, get_source, update_source, delete_source,
        validate_source, validate_source_before_update, discover_source, list_streams, run_source,
        create_destination, list_destinations, search_destinations, get_destination,
        update_destination, delete_destination,
        create_transformation, list_transformations, search_transformations, get_transformation,
        update_transformation, delete_transformation, try_transformation,
        try_transformation_before_update,
        create_task, create_task_v1, list_tasks, list_tasks_v1, search_tasks, search_tasks_v1,
        get_task, get_task_v1, update_task, update_task_v1, replace_task, delete_task,
        enable_task, disable_task, run_task, push_task, push,
        list_runs, get_run, list_events, get_event, *ROUTES,
    ],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "principal": Provide(caller_of, sync_to_thread=False),
        "payload": Provide(payload),
        "pushed": Provide(plain_body),
        "asked": Provide(asked),
    },
    exception_handlers={Exception: errors.algolia},
    tags=["Algolia Ingestion API"],
)  # fmt: skip
