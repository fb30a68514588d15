"""Routes of Lucidum's API v2: runs of the job `everything`, as its DAG runs."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.di import Provide

from headrace.api import errors
from headrace.api.auth import AnyRequest, bearer, refuse_prefetch, services
from headrace.api.bodies import payload
from headrace.api.rates import limited
from headrace.domain.clock import Millis, rfc3339
from headrace.domain.errors import Conflict, HeadraceError, Invalid, NotFound
from headrace.domain.job import Execution, ExecutionState
from headrace.domain.principal import Principal, Role
from headrace.domain.resources import Source
from headrace.domain.run import Mode, RunKind, RunState, Trigger
from headrace.domain.task import Task
from headrace.service.access import need
from headrace.service.jobs import EVERYTHING
from headrace.service.runs import FED
from headrace.service.services import Services
from headrace.store.jobs import ExecutionsAsked
from headrace.store.paging import Window

Json = dict[str, Any]
HUNDRED: Final = Window(100)
STATES: Final = {
    ExecutionState.QUEUED: "queued", ExecutionState.RUNNING: "running",
    ExecutionState.SUCCEEDED: "success", ExecutionState.SKIPPED: "success",
    ExecutionState.FAILED: "failed", ExecutionState.CANCELLED: "failed",
}  # fmt: skip
TASK_STATES: Final = {
    RunState.QUEUED: "queued", RunState.RUNNING: "running", RunState.CANCELLING: "running",
    RunState.SUCCEEDED: "success", RunState.SKIPPED: "success", RunState.FAILED: "failed",
    RunState.CANCELLED: "failed",
}  # fmt: skip
_RUN_ID: Final = re.compile(r"(manual|scheduled)__(.{32})")


def _at(moment: Millis | None) -> str | None:
    """Write a moment as 2023-07-27T09:15:02.123000+00:00."""
    if moment is None:
        return None
    return rfc3339(moment, millis=True).removesuffix("Z") + "000+00:00"


def _kind(one: Execution) -> str:
    return "scheduled" if one.trigger is Trigger.SCHEDULE else "manual"


def _run_id(one: Execution) -> str:
    return f"{_kind(one)}__{_at(one.queued_at)}"


def _dag_run(one: Execution) -> Json:
    kind = _kind(one)
    queued = _at(one.queued_at)
    return {
        "dag_run_id": _run_id(one), "dag_id": "data_ingestion", "logical_date": queued,
        "execution_date": queued, "data_interval_start": queued, "data_interval_end": queued,
        "external_trigger": kind == "manual", "last_scheduling_decision": _at(one.started_at),
        "run_type": kind, "start_date": _at(one.started_at), "end_date": _at(one.finished_at),
        "state": STATES[one.state], "conf": {}, "note": None,
    }  # fmt: skip


@get("/system/data-ingestion/jobs", sync_to_thread=True)
def list_jobs(services: Services, principal: Principal) -> Json:
    """List the runs of the ingestion, newest first."""
    job = services.jobs.everything(principal)
    asked = ExecutionsAsked(job=job.id)
    found = services.jobs.executions(principal, asked, HUNDRED)
    total = services.jobs.count_executions(principal, asked)
    return {"dag_runs": [_dag_run(one) for one in found], "total_entries": total}


@get("/system/data-ingestion/run", sync_to_thread=True)
def run(request: AnyRequest, services: Services, principal: Principal) -> Response[Json]:
    """Start every connector, or tell of the run that is under way."""
    need(principal, Role.OPERATOR)
    refuse_prefetch(request)
    try:
        found = services.jobs.start(principal, EVERYTHING, mode=Mode.FULL)
    except Conflict as error:
        found = services.jobs.execution(principal, str(error.facts["execution"]))
    return Response(_dag_run(found), headers={"Cache-Control": "no-store"})


@get("/system/metrics/data-ingestion", sync_to_thread=True)
def metrics(services: Services, principal: Principal) -> Json:
    """List the runs in short."""
    job = services.jobs.everything(principal)
    found = services.jobs.executions(principal, ExecutionsAsked(job=job.id), HUNDRED)
    return {
        "data_ingestion_runs": [
            {name: row[other] for name, other in (
                ("run_type", "run_type"), ("id", "dag_run_id"), ("status", "state"),
                ("start_date", "start_date"), ("end_date", "end_date"))}
            for row in map(_dag_run, found)
        ]
    }  # fmt: skip


@get("/system/metrics/data-ingestion/next", sync_to_thread=True)
def next_run(services: Services, principal: Principal) -> Json:
    """Say when the next scheduled run is due."""
    job = services.jobs.everything(principal)
    return {
        "next_run_at": _at(job.next_run), "schedule_interval_value": job.cron,
        "schedule_interval_type": "cron" if job.cron else None,
    }  # fmt: skip


@get("/system/metrics/data-ingestion/detail/{run_id:str}", sync_to_thread=True)
def detail(run_id: str, services: Services, principal: Principal) -> Json:
    """List the tasks of one run."""
    tenant = principal.tenant.id
    found = _found(services, principal, run_id)
    runs = services.jobs.runs_of(found)
    listed = []
    for step in found.steps:
        started = services.runs.get(tenant, runs[step.task][0]) if step.task in runs else None
        listed.append(
            {
                "task_id": step.task, "docker_cmd": None, "docker_image": None,
                "status": TASK_STATES[started.state] if started else "queued",
                "start_date": _at(started.started_at) if started else None,
                "end_date": _at(started.finished_at) if started else None,
            }
        )  # fmt: skip
    return {"task_list": listed}


def _found(services: Services, principal: Principal, run_id: str) -> Execution:
    job = services.jobs.everything(principal)
    if named := _RUN_ID.fullmatch(run_id.replace(" ", "+")):
        try:
            moment = Millis(round(datetime.fromisoformat(named[2]).timestamp() * 1000))
        except ValueError:
            moment = Millis(-1)
        one = services.jobs.execution_at(job, moment)
        if one is not None and _run_id(one) == named[0]:
            return one
    raise NotFound(f"There is no run {run_id[:80]}.")


@get("/connector", sync_to_thread=True)
def connectors(services: Services, principal: Principal) -> Json:
    """List the connectors: one for each source that a task reads."""
    return {
        "connectors": [_connector(one, on) for one, on in _sources(services, principal).values()]
    }


def _sources(services: Services, principal: Principal) -> dict[str, tuple[Source, bool]]:
    """Return the sources that a run reads, by their ids, and whether a task of theirs is on."""
    tenant = principal.tenant.id
    on: dict[str, bool] = {}
    for task in services.catalog.all_of(Task, tenant):
        on[task.source] = on.get(task.source, False) or task.enabled
    return {
        source.id: (source, on[source.id])
        for source in services.catalog.all_of(Source, tenant)
        if source.id in on and source.type not in FED
    }


def _connector(source: Source, on: bool) -> Json:  # noqa: FBT001  # of a pair
    return {
        "connector_name": "api", "bridge_name": source.id, "display_name": source.name,
        "description": f"{source.type} source", "group": source.type,
        "status": "OK" if on else "DISABLED",
    }  # fmt: skip


def _named(services: Services, principal: Principal, given: Mapping[str, Any]) -> Source:
    """Return the source that a connector's name and a bridge's name. Raises Invalid, NotFound."""
    for name in ("connector_name", "bridge_name"):
        if not given.get(name):
            raise Invalid(f"{name} is required.", field=name)
    found = _sources(services, principal).get(str(given["bridge_name"]))
    if given["connector_name"] != "api" or found is None:
        raise NotFound(f"There is no connector {str(given['bridge_name'])[:80]}.")
    if given.get("profile_name") not in (None, found[0].name):
        raise NotFound(f"The connector has no profile {str(given['profile_name'])[:80]}.")
    return found[0]


@get("/connector/config", sync_to_thread=True)
def connector_config(request: AnyRequest, services: Services, principal: Principal) -> Json:
    """Show a connector's settings, and what each of them is."""
    source = _named(services, principal, request.query_params)
    return _connector(source, on=True) | {
        "config": {"field_metadata": services.catalog.members_of(source)}
    }


@get("/connector/profile", sync_to_thread=True)
def profiles(request: AnyRequest, services: Services, principal: Principal) -> Json:
    """List the profiles: each connector has one, its settings. Secrets are never shown."""
    if {"connector_name", "bridge_name", "profile_name"} & set(request.query_params):
        found = [_named(services, principal, request.query_params)]
    else:
        found = [source for source, _ in _sources(services, principal).values()]
    return {
        "connectorProfiles": [
            {
                "connector_name": "api", "bridge_name": source.id, "profile_name": source.name,
                "config": dict(source.input),
                "services_list": [{"service": source.type, "activity": True}],
            }
            for source in found
        ]
    }  # fmt: skip


@post("/connector/test/async", status_code=200, sync_to_thread=True)
def start_test(payload: Json, services: Services, principal: Principal) -> Json:
    """Try to read a connector's source; the trace's result is there when this returns."""
    source = _named(services, principal, payload)
    error: HeadraceError | None = None
    rows: list[Json] = []
    try:
        rows = services.try_source(principal.tenant.id, source.id)
    except HeadraceError as caught:
        error = caught
    run = services.runs.told(principal.tenant.id, RunKind.VALIDATE, error, len(rows))
    return {"traceId": run.id}


@get("/connector/test/result", sync_to_thread=True)
def test_result(request: AnyRequest, services: Services, principal: Principal) -> Json:
    """Say what a test has found."""
    run = services.runs.get(principal.tenant.id, request.query_params.get("traceId", ""))
    events, _ = services.runs.events(principal.tenant.id, run.id)
    good = run.state is RunState.SUCCEEDED
    return {
        "test_result": [
            {
                "name": event.kind, "status": "OK" if good else "FAIL", "message": event.message,
                "details": [event.data["reason"]] if "reason" in event.data else [],
            }
            for event in events
        ],
        "status": "done",
    }  # fmt: skip


def caller_of(request: AnyRequest) -> Principal:
    """Return who calls, within the limit of its address. Raises Unauthenticated, TooMany."""
    limited(request, "lucidum")
    return bearer(request)


LUCIDUM: Final = Router(
    path="/CMDB/v2",
    route_handlers=[
        list_jobs, run, metrics, next_run, detail, connectors, connector_config,
        profiles, start_test, test_result,
    ],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "principal": Provide(caller_of, sync_to_thread=False),
        "payload": Provide(payload),
    },
    exception_handlers={Exception: errors.lucidum},
    tags=["Lucidum API v2"],
)  # fmt: skip
