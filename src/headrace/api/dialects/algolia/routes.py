"""Routes of the Algolia dialect: one service call between two translations."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from litestar import Router, delete, get, patch, post, put
from litestar.di import Provide

from headrace.api import errors
from headrace.api.auth import AnyRequest, algolia, services
from headrace.api.bodies import converted, payload
from headrace.api.dialects.algolia import translate, wire
from headrace.domain.clock import Millis, now_ms, parse_rfc3339
from headrace.domain.errors import Invalid
from headrace.domain.ids import TaskId
from headrace.domain.principal import Principal
from headrace.domain.resources import Authentication, Destination, Source
from headrace.domain.run import Trigger
from headrace.domain.task import Task
from headrace.service.services import Services
from headrace.store.paging import Order, Window

Json = dict[str, Any]
ITEMS_MAX: Final = 100
ITEMS: Final = 10
WEEK_MS: Final = 7 * 86_400_000
THREE_HOURS_MS: Final = 3 * 3_600_000
SOURCES: Final = ("csv", "json")  # of the vendor's ten types, those whose connectors are there
OWN_DESTINATIONS: Final = ("search",)


class Query:
    """The query of a list: paging, sorting, filters. Unknown keys are ignored."""

    def __init__(self, request: AnyRequest) -> None:
        self._params = request.query_params
        self.items = self._number("itemsPerPage", ITEMS, ITEMS_MAX)
        self.page = self._number("page", 1, 1_000_000)

    def _number(self, name: str, default: int, high: int) -> int:
        text = self._params.get(name)
        if text is None:
            return default
        if not text.isdigit() or not 1 <= int(text) <= high:
            raise Invalid(f"{name} must be a number from 1 to {high}.", field=name)
        return int(text)

    @property
    def window(self) -> Window:
        return Window(self.items, (self.page - 1) * self.items)

    def order(self, columns: Mapping[str, str], default: str) -> Order:
        """Return the order that `sort` and `order` ask for."""
        sort = self._params.get("sort", default)
        if sort not in columns:
            raise Invalid(f"sort must be one of {', '.join(columns)}.", field="sort")
        order = self._params.get("order", "desc")
        if order not in ("asc", "desc"):
            raise Invalid("order must be asc or desc.", field="order")
        return Order(columns[sort], descending=order == "desc")

    def many(self, name: str) -> list[str] | None:
        """Return a list filter: comma-joined, repeated, or both."""
        given = self._params.getall(name, None)
        if not given:
            return None
        return [part for value in given for part in value.split(",") if part]

    def one_of(self, name: str, known: Sequence[str]) -> list[str] | None:
        """Return a list filter of an enum. Raises Invalid for a value that is not in it."""
        found = self.many(name)
        for value in found or ():
            if value not in known:
                raise Invalid(f"{name} must be one of {', '.join(known)}.", field=name)
        return found

    def flag(self, name: str) -> bool | None:
        text = self._params.get(name)
        if text is None:
            return None
        if text not in ("true", "false"):
            raise Invalid(f"{name} must be true or false.", field=name)
        return bool(text == "true")

    def text(self, name: str) -> str | None:
        return self._params.get(name)

    def span(self, back_ms: int) -> tuple[Millis, Millis]:
        """Return the window of moments, by default `back_ms` until now."""
        end = self._moment("endDate") or now_ms()
        start = self._moment("startDate") or Millis(end - back_ms)
        if start > end:
            raise Invalid("startDate must not be after endDate.", field="startDate")
        return start, end

    def _moment(self, name: str) -> Millis | None:
        text = self._params.get(name)
        try:
            return None if text is None else parse_rfc3339(text.replace(" ", "+"))
        except ValueError:
            raise Invalid(f"{name} must be an RFC 3339 date.", field=name) from None

    def pagination(self, total: int) -> wire.Pagination:
        return wire.Pagination(
            nb_pages=max(-(-total // self.items), 1), page=self.page, nb_items=total,
            items_per_page=self.items,
        )  # fmt: skip


def asked(request: AnyRequest) -> Query:
    """Hand a list's query to a route."""
    return Query(request)


def _ids(payload: Json, name: str) -> list[str]:
    found = payload.get(name)
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise Invalid(f"{name} must be a list of strings.", field=name)
    return found


def _now() -> str:
    return translate.at(now_ms())


TIMES: Final = {"updatedAt": "updated_at", "createdAt": "created_at"}
ENDS: Final = {"name": "name", "type": "type"} | TIMES

# Authentications.


@post("/1/authentications", status_code=200, sync_to_thread=True)
def create_authentication(payload: Json, services: Services, principal: Principal) -> Json:
    """Create an authentication."""
    given: wire.AuthenticationCreate = converted(payload, wire.AuthenticationCreate)
    made = services.catalog.add_authentication(
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
    if (types := asked.many("type")) is not None:
        where["type"] = list(types)
    if (platforms := asked.many("platform")) is not None:
        where["platform"] = [None if one == "none" else one for one in platforms]
    columns = ENDS | {"auth_type": "type", "platform": "platform"}
    found, total = services.catalog.listed(
        Authentication, principal.tenant.id, where, asked.order(columns, "createdAt"), asked.window
    )
    return {
        "authentications": [translate.authentication(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post("/1/authentications/search", status_code=200, sync_to_thread=True)
def search_authentications(
    payload: Json, services: Services, principal: Principal
) -> list[wire.Authentication]:
    """Return the authentications named."""
    ids = _ids(payload, "authenticationIDs")
    found = services.catalog.some(Authentication, principal.tenant.id, ids)
    return [translate.authentication(one) for one in found]


@get("/1/authentications/{id:str}", sync_to_thread=True)
def get_authentication(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Authentication:  # fmt: skip
    """Show an authentication."""
    return translate.authentication(services.catalog.get(Authentication, principal.tenant.id, id))


@patch("/1/authentications/{id:str}", sync_to_thread=True)
def update_authentication(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change an authentication: members that are left out stay."""
    given: wire.AuthenticationUpdate = converted(payload, wire.AuthenticationUpdate)
    changed = services.catalog.change_authentication(
        principal.tenant.id, id, name=given.name, given=given.input
    )
    return {
        "authenticationID": changed.id, "name": changed.name,
        "updatedAt": translate.at(changed.updated_at),
    }  # fmt: skip


@delete("/1/authentications/{id:str}", status_code=200, sync_to_thread=True)
def delete_authentication(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete an authentication that nothing uses."""
    services.catalog.remove(Authentication, principal.tenant.id, id)
    return {"deletedAt": _now()}


# Sources.


@post("/1/sources", status_code=200, sync_to_thread=True)
def create_source(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a source."""
    _known(payload, SOURCES)
    given: wire.SourceCreate = converted(payload, wire.SourceCreate)
    made = services.catalog.add_source(
        principal.tenant.id, type_=given.type, name=given.name,
        given=translate.source_input(given.type, given.input),
        authentication=given.authentication_id,
    )  # fmt: skip
    return {"sourceID": made.id, "name": made.name, "createdAt": translate.at(made.created_at)}


def _known(payload: Json, types: Sequence[str]) -> None:
    if payload.get("type") not in types:
        raise Invalid(
            f"type must be one of {', '.join(types)} (others are not there yet).", field="type"
        )


@get("/1/sources", sync_to_thread=True)
def list_sources(services: Services, principal: Principal, asked: Query) -> Json:
    """List sources that this dialect can say."""
    where: dict[str, list[Any]] = {"type": list(SOURCES)}
    if (types := asked.many("type")) is not None:
        where["type"] = [one for one in types if one in SOURCES]
    if (ids := asked.many("authenticationID")) is not None:
        where["authentication"] = [None if one == "none" else one for one in ids]
    found, total = services.catalog.listed(
        Source, principal.tenant.id, where, asked.order(ENDS, "createdAt"), asked.window
    )
    return {
        "sources": [translate.source(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post("/1/sources/search", status_code=200, sync_to_thread=True)
def search_sources(payload: Json, services: Services, principal: Principal) -> list[wire.Source]:
    """Return the sources named."""
    found = services.catalog.some(Source, principal.tenant.id, _ids(payload, "sourceIDs"))
    return [translate.source(one) for one in found if one.type in SOURCES]


@get("/1/sources/{id:str}", sync_to_thread=True)
def get_source(id: str, services: Services, principal: Principal) -> wire.Source:  # noqa: A002
    """Show a source."""
    return translate.source(services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES))


@patch("/1/sources/{id:str}", sync_to_thread=True)
def update_source(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a source: its input is replaced whole."""
    given: wire.SourceUpdate = converted(payload, wire.SourceUpdate)
    old = services.catalog.get_typed(Source, principal.tenant.id, id, SOURCES)
    changed = services.catalog.change_source(
        principal.tenant.id, id, name=given.name,
        given=translate.source_input(old.type, given.input) if given.input else None,
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
    services.catalog.remove(Source, principal.tenant.id, id)
    return {"deletedAt": _now()}


# Destinations.


@post("/1/destinations", status_code=200, sync_to_thread=True)
def create_destination(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a destination."""
    _known(payload, OWN_DESTINATIONS)
    given: wire.DestinationCreate = converted(payload, wire.DestinationCreate)
    made = services.catalog.add_destination(
        principal.tenant.id, type_=given.type, name=given.name,
        given=translate.destination_input(given.input, whole=True),
        authentication=given.authentication_id,
    )  # fmt: skip
    return {"destinationID": made.id, "name": made.name, "createdAt": translate.at(made.created_at)}


@get("/1/destinations", sync_to_thread=True)
def list_destinations(services: Services, principal: Principal, asked: Query) -> Json:
    """List destinations that this dialect can say."""
    where: dict[str, list[Any]] = {"type": list(OWN_DESTINATIONS)}
    if (types := asked.many("type")) is not None:
        where["type"] = [one for one in types if one in OWN_DESTINATIONS]
    if (ids := asked.many("authenticationID")) is not None:
        where["authentication"] = [None if one == "none" else one for one in ids]
    found, total = services.catalog.listed(
        Destination, principal.tenant.id, where, asked.order(ENDS, "createdAt"), asked.window
    )
    return {
        "destinations": [translate.destination(one) for one in found],
        "pagination": asked.pagination(total),
    }


@post("/1/destinations/search", status_code=200, sync_to_thread=True)
def search_destinations(
    payload: Json, services: Services, principal: Principal
) -> list[wire.Destination]:
    """Return the destinations named."""
    ids = _ids(payload, "destinationIDs")
    found = services.catalog.some(Destination, principal.tenant.id, ids)
    return [translate.destination(one) for one in found if one.type in OWN_DESTINATIONS]


@get("/1/destinations/{id:str}", sync_to_thread=True)
def get_destination(
    id: str, services: Services, principal: Principal  # noqa: A002
) -> wire.Destination:  # fmt: skip
    """Show a destination."""
    return translate.destination(
        services.catalog.get_typed(Destination, principal.tenant.id, id, OWN_DESTINATIONS)
    )


@patch("/1/destinations/{id:str}", sync_to_thread=True)
def update_destination(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a destination."""
    given: wire.DestinationUpdate = converted(payload, wire.DestinationUpdate)
    services.catalog.get_typed(Destination, principal.tenant.id, id, OWN_DESTINATIONS)
    changed = services.catalog.change_destination(
        principal.tenant.id, id, name=given.name,
        given=translate.destination_input(given.input, whole=False) if given.input else None,
        authentication=given.authentication_id,
    )  # fmt: skip
    return {
        "destinationID": changed.id, "name": changed.name,
        "updatedAt": translate.at(changed.updated_at),
    }  # fmt: skip


@delete("/1/destinations/{id:str}", status_code=200, sync_to_thread=True)
def delete_destination(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete a destination that no task uses."""
    services.catalog.get_typed(Destination, principal.tenant.id, id, OWN_DESTINATIONS)
    services.catalog.remove(Destination, principal.tenant.id, id)
    return {"deletedAt": _now()}


# Tasks, in two versions over one store.


def _tasks(services: Services, principal: Principal, asked: Query) -> tuple[list[Task], int]:
    where: dict[str, list[Any]] = {}
    actions = ("replace", "save", "partial", "partialNoCreate", "append")
    for name, column, known in (
        ("action", "action", actions), ("sourceID", "source", None),
        ("destinationID", "destination", None),
        ("triggerType", "trigger", ("onDemand", "schedule", "subscription", "streaming")),
    ):  # fmt: skip
        found = asked.one_of(name, known) if known else asked.many(name)
        if found is not None:
            where[column] = list(found)
    if (enabled := asked.flag("enabled")) is not None:
        where["enabled"] = [enabled]
    columns = {"enabled": "enabled", "triggerType": "trigger", "action": "action"} | TIMES
    return services.catalog.listed(
        Task, principal.tenant.id, where, asked.order(columns, "createdAt"), asked.window
    )


def _created(task: Task) -> Json:
    return {"taskID": task.id, "createdAt": translate.at(task.created_at)}


def _updated(task: Task) -> Json:
    return {"taskID": task.id, "updatedAt": translate.at(task.updated_at)}


@post("/2/tasks", status_code=200, sync_to_thread=True)
def create_task(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a task."""
    given: wire.TaskCreate = converted(payload, wire.TaskCreate)
    translate.refuse_schedule(given.cron)
    return _created(
        services.catalog.add_task(
            principal.tenant.id, source=given.source_id, destination=given.destination_id,
            action=given.action, enabled=given.enabled, failure_threshold=given.failure_threshold,
            extra=translate.kept(given),
        )
    )  # fmt: skip


@post("/1/tasks", status_code=200, sync_to_thread=True)
def create_task_v1(payload: Json, services: Services, principal: Principal) -> Json:
    """Create a task (version 1)."""
    given: wire.TaskCreateV1 = converted(payload, wire.TaskCreateV1)
    translate.refuse_trigger(given.trigger.type)
    return _created(
        services.catalog.add_task(
            principal.tenant.id, source=given.source_id, destination=given.destination_id,
            action=given.action, enabled=given.enabled, failure_threshold=given.failure_threshold,
            extra=translate.kept(given),
        )
    )  # fmt: skip


@get("/2/tasks", sync_to_thread=True)
def list_tasks(services: Services, principal: Principal, asked: Query) -> Json:
    """List tasks."""
    found, total = _tasks(services, principal, asked)
    return {
        "tasks": [translate.task_v2(one, services.runs.last_of(one.id)) for one in found],
        "pagination": asked.pagination(total),
    }


@get("/1/tasks", sync_to_thread=True)
def list_tasks_v1(services: Services, principal: Principal, asked: Query) -> Json:
    """List tasks (version 1)."""
    found, total = _tasks(services, principal, asked)
    return {
        "tasks": [translate.task_v1(one, services.runs.last_of(one.id)) for one in found],
        "pagination": asked.pagination(total),
    }


@post("/2/tasks/search", status_code=200, sync_to_thread=True)
def search_tasks(payload: Json, services: Services, principal: Principal) -> list[wire.Task]:
    """Return the tasks named."""
    found = services.catalog.some(Task, principal.tenant.id, _ids(payload, "taskIDs"))
    return [translate.task_v2(one, services.runs.last_of(one.id)) for one in found]


@post("/1/tasks/search", status_code=200, sync_to_thread=True)
def search_tasks_v1(payload: Json, services: Services, principal: Principal) -> list[wire.TaskV1]:
    """Return the tasks named (version 1)."""
    found = services.catalog.some(Task, principal.tenant.id, _ids(payload, "taskIDs"))
    return [translate.task_v1(one, services.runs.last_of(one.id)) for one in found]


@get("/2/tasks/{id:str}", sync_to_thread=True)
def get_task(id: str, services: Services, principal: Principal) -> wire.Task:  # noqa: A002
    """Show a task."""
    found = services.catalog.get(Task, principal.tenant.id, id)
    return translate.task_v2(found, services.runs.last_of(found.id))


@get("/1/tasks/{id:str}", sync_to_thread=True)
def get_task_v1(id: str, services: Services, principal: Principal) -> wire.TaskV1:  # noqa: A002
    """Show a task (version 1)."""
    found = services.catalog.get(Task, principal.tenant.id, id)
    return translate.task_v1(found, services.runs.last_of(found.id))


@patch(["/1/tasks/{id:str}", "/2/tasks/{id:str}"], sync_to_thread=True)
def update_task(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Change a task."""
    changes = translate.task_changes(converted(payload, wire.TaskUpdate))
    return _updated(services.catalog.change_task(principal.tenant.id, id, **changes))


@delete(["/1/tasks/{id:str}", "/2/tasks/{id:str}"], status_code=200, sync_to_thread=True)
def delete_task(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Delete a task."""
    services.catalog.remove(Task, principal.tenant.id, id)
    return {"deletedAt": _now()}


@put(["/1/tasks/{id:str}/enable", "/2/tasks/{id:str}/enable"], sync_to_thread=True)
def enable_task(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Enable a task."""
    return _updated(services.catalog.change_task(principal.tenant.id, id, enabled=True))


@put(["/1/tasks/{id:str}/disable", "/2/tasks/{id:str}/disable"], sync_to_thread=True)
def disable_task(id: str, services: Services, principal: Principal) -> Json:  # noqa: A002
    """Disable a task."""
    return _updated(services.catalog.change_task(principal.tenant.id, id, enabled=False))


@post(["/1/tasks/{id:str}/run", "/2/tasks/{id:str}/run"], status_code=200, sync_to_thread=True)
def run_task(
    id: str, payload: Json, services: Services, principal: Principal  # noqa: A002
) -> Json:  # fmt: skip
    """Start a run of a task."""
    converted(payload, wire.RunGiven)
    run = services.runs.start(principal.tenant.id, TaskId(id), trigger=Trigger.API)
    return {"runID": run.id, "createdAt": translate.at(run.queued_at)}


# Runs and events.


@get("/1/runs", sync_to_thread=True)
def list_runs(services: Services, principal: Principal, asked: Query) -> Json:
    """List runs, by default of the last seven days."""
    since, until = asked.span(WEEK_MS)
    statuses = asked.one_of("status", tuple(translate.STATES))
    columns = {"status": "state", "updatedAt": "updated_at", "createdAt": "queued_at"}
    states = None if statuses is None else [s for one in statuses for s in translate.STATES[one]]
    types = asked.one_of("type", ("reindex", "update", "discover", "validate", "push"))
    if types is not None and "reindex" not in types:
        states = []
    found, total = services.runs.listed(
        principal.tenant.id, task=asked.text("taskID"), states=states, since=since, until=until,
        order=asked.order(columns, "createdAt"), window=asked.window,
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


ALGOLIA: Final = Router(
    path="/",
    route_handlers=[
        create_authentication, list_authentications, search_authentications, get_authentication,
        update_authentication, delete_authentication,
        create_source, list_sources, search_sources, get_source, update_source, delete_source,
        create_destination, list_destinations, search_destinations, get_destination,
        update_destination, delete_destination,
        create_task, create_task_v1, list_tasks, list_tasks_v1, search_tasks, search_tasks_v1,
        get_task, get_task_v1, update_task, delete_task, enable_task, disable_task, run_task,
        list_runs, get_run, list_events, get_event,
    ],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "principal": Provide(algolia, sync_to_thread=False),
        "payload": Provide(payload),
        "asked": Provide(asked, sync_to_thread=False),
    },
    exception_handlers={Exception: errors.algolia},
    include_in_schema=False,
)  # fmt: skip
