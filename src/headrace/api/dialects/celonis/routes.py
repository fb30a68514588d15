"""Routes of Celonis: pools, data jobs, executions; one service call between two translations."""

from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.concurrency import sync_to_thread
from litestar.di import Provide

from headrace.api import errors
from headrace.api.auth import (
    DATA_POOLS,
    DATA_PUSH,
    AnyRequest,
    basic_password,
    celonis,
    services,
)
from headrace.api.bodies import fields, payload
from headrace.api.dialects.celonis.data_push import DATA_PUSH_ROUTERS, empty
from headrace.api.rates import limited
from headrace.domain.clock import Millis
from headrace.domain.errors import Conflict, Invalid, NotFound, Unauthenticated
from headrace.domain.event import EventStatus
from headrace.domain.job import Execution, ExecutionState, Job, Pool
from headrace.domain.principal import Principal, Role
from headrace.domain.run import Mode, RunState
from headrace.domain.task import Task
from headrace.service.access import RANK
from headrace.service.services import Services
from headrace.store.jobs import ExecutionsAsked
from headrace.store.paging import Window

Json = dict[str, Any]
ALL: Final = Window(10_000)
PAGE_MAX: Final = 1_000
LOGS_MAX: Final = 500
TOKEN_S: Final = 899
SCOPES: Final = {DATA_POOLS, DATA_PUSH}
MODES: Final = {"FULL": Mode.FULL, "DELTA": Mode.DELTA}
STATES: Final = {
    ExecutionState.QUEUED: "QUEUED", ExecutionState.RUNNING: "RUNNING",
    ExecutionState.SUCCEEDED: "SUCCESS", ExecutionState.FAILED: "FAIL",
    ExecutionState.CANCELLED: "CANCEL", ExecutionState.SKIPPED: "SKIPPED",
}  # fmt: skip
TASK_STATES: Final = {
    RunState.QUEUED: "QUEUED", RunState.RUNNING: "RUNNING", RunState.CANCELLING: "RUNNING",
    RunState.SUCCEEDED: "SUCCESS", RunState.FAILED: "FAIL", RunState.CANCELLED: "CANCEL",
    RunState.SKIPPED: "SKIPPED",
}  # fmt: skip


def _mode(given: object) -> Mode:
    if given not in MODES:
        raise Invalid("mode must be FULL or DELTA.", field="mode")
    return MODES[str(given)]


def _number(request: AnyRequest, name: str, default: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9 or int(text) > high:
        raise Invalid(f"{name} must be a number from 0 to {high}.", field=name)
    return int(text)


def _job(services: Services, caller: Principal, pool: str, job: str | None) -> Job:
    found = services.jobs.get(caller, job or "")
    if found.pool != pool:
        raise NotFound(f"cannot find job {(job or '')[:80]} in the pool {pool[:80]}")
    return found


def _pool_shown(one: Pool) -> Json:
    return {
        "id": one.id,
        "name": one.name,
        "timeStamp": one.updated_at,
        "configurationStatus": None,
    }


def _job_shown(one: Job, last: Execution | None) -> Json:
    active = last is not None and last.finished_at is None
    return {
        "id": one.id, "name": one.name, "dataPoolId": one.pool, "dataSourceId": None,
        "timeStamp": one.updated_at, "status": STATES[last.state] if last else None,
        "currentExecutionId": last.id if last and active else None,
        "dagBasedExecutionEnabled": any(step.after for step in one.steps),
        "latestExecutionItemId": last.id if last else None,
    }  # fmt: skip


# Starting and stopping.


def _execute(services: Services, caller: Principal, job: Job, mode: Mode) -> Response[bytes]:
    try:
        services.jobs.start(caller, job.id, mode=mode)
    except Conflict as error:
        error.facts["error_code"] = "JOB_ALREADY_RUNNING"
        raise
    return empty(**{"Cache-Control": "no-store"})


@post("/data-pools/{pool:str}/data-jobs/{job:str}/execute", status_code=200, sync_to_thread=True)
def execute(
    pool: str, job: str, request: AnyRequest, services: Services, caller: Principal
) -> Response[bytes]:
    """Start a job in the mode of the query."""
    mode = _mode(request.query_params.get("mode"))
    return _execute(services, caller, _job(services, caller, pool, job), mode)


# The root of the documents, and that of an older edition.
EXECUTE_ROUTERS: Final = [
    Router(path=f"/integration/api/{version}", route_handlers=[execute]) for version in ("v1", "v2")
]


@post(
    "/integration/api/pools/{pool:str}/jobs/{job:str}/execute", status_code=200,
    sync_to_thread=True,
)  # fmt: skip
def execute_by_client(
    pool: str, job: str, payload: Json, services: Services, caller: Principal
) -> Response[bytes]:
    """Start a job as the official client does: with a body."""
    for name in ("transformations", "extractions", "dataModels"):
        if payload.get(name):
            raise Invalid(f"{name}: only a whole job can be started.", field=name)
    mode = _mode(payload.get("mode", "FULL"))
    return _execute(services, caller, _job(services, caller, pool, job), mode)


@post(
    "/integration/api/pools/{pool:str}/jobs/{job:str}/cancel", status_code=200,
    sync_to_thread=True,
)  # fmt: skip
def cancel(pool: str, job: str, services: Services, caller: Principal) -> Response[bytes]:
    """Stop the execution that is under way; nothing if there is none."""
    found = _job(services, caller, pool, job)
    last = services.jobs.last_executions([found.id]).get(found.id)
    if last is not None and last.finished_at is None:
        services.jobs.cancel(caller, last.id)
    return empty()


# Pools and jobs.


@get("/integration/api/pools", sync_to_thread=True)
def list_pools(services: Services, caller: Principal) -> list[Json]:
    """List all pools."""
    found, _ = services.pools.listed(caller, ALL)
    return [_pool_shown(one) for one in found]


@get("/integration/api/pools/paged", sync_to_thread=True)
def page_pools(request: AnyRequest, services: Services, caller: Principal) -> Json:
    """List pools in pages."""
    limit = _number(request, "limit", 100, PAGE_MAX) or 100
    page = _number(request, "page", 0, 1_000_000)
    found, total = services.pools.listed(caller, Window(limit, page * limit))
    return {
        "content": [_pool_shown(one) for one in found], "pageSize": limit, "pageNumber": page,
        "totalCount": total,
    }  # fmt: skip


@get("/integration/api/pools/{pool:str}", sync_to_thread=True)
def get_pool(pool: str, services: Services, caller: Principal) -> Json:
    """Show a pool."""
    return _pool_shown(services.pools.get(caller, pool))


@get("/integration/api/pools/{pool:str}/jobs", sync_to_thread=True)
def list_jobs(pool: str, services: Services, caller: Principal) -> list[Json]:
    """List the jobs of a pool."""
    found = _jobs(services, caller, pool)
    last = services.jobs.last_executions([one.id for one in found])
    return [_job_shown(one, last.get(one.id)) for one in found]


def _jobs(services: Services, caller: Principal, pool: str) -> list[Job]:
    thing = services.pools.get(caller, pool)
    return services.jobs.listed(caller, thing.id, ALL)[0]


@get("/integration/api/pools/{pool:str}/jobs/{job:str}", sync_to_thread=True)
def get_job(pool: str, job: str, services: Services, caller: Principal) -> Json:
    """Show a job and where its last execution stands."""
    found = _job(services, caller, pool, job)
    return _job_shown(found, services.jobs.last_executions([found.id]).get(found.id))


@get("/integration/api/pools/{pool:str}/jobs/{job:str}/tasks", sync_to_thread=True)
def list_tasks(pool: str, job: str, services: Services, caller: Principal) -> list[Json]:
    """List the tasks of a job."""
    found = _job(services, caller, pool, job)
    wanted = [step.task for step in found.steps]
    tasks = services.catalog.some(Task, caller.tenant.id, wanted)
    return [
        {
            "id": task.id, "taskId": task.id, "jobId": found.id, "poolId": found.pool,
            "name": task.name or task.id, "taskType": "EXTRACTION", "disabled": not task.enabled,
            "taskCreatedAt": task.created_at,
        }
        for task in tasks
    ]  # fmt: skip


@get("/integration/api/pools/{pool:str}/tables", sync_to_thread=True)
def list_tables(pool: str, services: Services, caller: Principal) -> list[Json]:
    """List the tables that the pool's jobs have written last."""
    names: dict[str, Json] = {}
    found = _jobs(services, caller, pool)
    for one in services.jobs.last_executions([job.id for job in found]).values():
        for run_id, _ in services.jobs.runs_of(one).values():
            receipt = services.runs.get(caller.tenant.id, run_id).receipt or {"tables": []}
            for table in receipt["tables"]:
                names[table["name"]] = {"name": table["name"], "loaderSource": None}
    for name in services.uploads.tables(caller, pool):
        names[name] = {"name": name, "loaderSource": "PUSH"}
    return list(names.values())


# Logs.


@get("/integration/api/pools/{pool:str}/logs/status", sync_to_thread=True)
def logs_status(pool: str, services: Services, caller: Principal) -> list[Json]:
    """Say where every job of a pool stands, those that never ran too."""
    found = _jobs(services, caller, pool)
    last = services.jobs.last_executions([one.id for one in found])
    return [
        {
            "id": job.id, "status": STATES[last[job.id].state] if job.id in last else None,
            "lastExecutionStartDate": _started(last[job.id]) if job.id in last else None,
        }
        for job in found
    ]  # fmt: skip


def _started(one: Execution) -> Millis:
    return one.started_at or one.queued_at


def _item(one: Execution, job: Job, pool: Pool) -> Json:
    return {
        "id": one.id, "poolId": pool.id, "poolName": pool.name, "executionId": one.id,
        "schedulingId": None, "jobId": job.id, "taskId": None, "stepId": None, "name": job.name,
        "status": STATES[one.state], "startDate": _started(one), "endDate": one.finished_at,
        "type": "JOB", "mode": one.mode.upper(),
    }  # fmt: skip


@get("/integration/api/pools/{pool:str}/logs/{job:str}/executions", sync_to_thread=True)
def list_executions(
    pool: str, job: str, request: AnyRequest, services: Services, caller: Principal
) -> Json:
    """List the executions of a job, newest first."""
    found = _job(services, caller, pool, job)
    owner = services.pools.get(caller, pool)
    limit = _number(request, "limit", 50, PAGE_MAX) or 50
    page = _number(request, "pageNumber", 0, 1_000_000)
    asked = ExecutionsAsked(job=found.id)
    listed = services.jobs.executions(caller, asked, Window(limit, page * limit))
    total = services.jobs.count_executions(caller, asked)
    return {
        "executionItems": [_item(one, found, owner) for one in listed],
        "numOfPages": max(-(-total // limit), 1),
    }


@get("/integration/api/pools/{pool:str}/logs/executions", sync_to_thread=True)
def list_execution_tasks(
    pool: str, request: AnyRequest, services: Services, caller: Principal
) -> Json:
    """List the tasks of one execution."""
    one = services.jobs.execution(caller, request.query_params.get("executionId", ""))
    job = _job(services, caller, pool, one.job)
    owner = services.pools.get(caller, pool)
    items = []
    for task, (run_id, state) in services.jobs.runs_of(one).items():
        run = services.runs.get(caller.tenant.id, run_id)
        items.append(
            _item(one, job, owner) | {
                "id": run.id, "taskId": task, "name": task, "status": TASK_STATES[state],
                "startDate": run.started_at or run.queued_at, "endDate": run.finished_at,
                "type": "TASK",
            }
        )  # fmt: skip
    return {"executionItems": items, "numOfPages": 1}


@get("/integration/api/pools/{pool:str}/logs/executions/detail", sync_to_thread=True)
def execution_detail(pool: str, request: AnyRequest, services: Services, caller: Principal) -> Json:
    """Tell the messages of an execution, or of one of its tasks (`id`)."""
    tenant = caller.tenant.id
    one = services.jobs.execution(caller, request.query_params.get("executionId", ""))
    _job(services, caller, pool, one.job)
    wanted = request.query_params.get("id")
    messages: list[Json] = []
    for task, (run_id, _) in services.jobs.runs_of(one).items():
        if wanted not in (None, task, run_id, one.id):
            continue
        events, _ = services.runs.events(tenant, run_id, window=Window(LOGS_MAX))
        messages += [
            {
                "id": event.id, "date": event.at, "level": _level(event.status),
                "logMessage": event.message, "taskId": task,
            }
            for event in events
        ]  # fmt: skip
    messages.sort(key=lambda row: row["date"])
    return {"logMessages": messages[:LOGS_MAX], "numOfPages": 1}


def _level(status: EventStatus | None) -> str:
    return "ERROR" if status in (EventStatus.FAILED, EventStatus.CRITICAL) else "INFO"


# Who and where.


@get("/api/cloud", sync_to_thread=False)
def cloud(caller: Principal) -> Json:
    """Say that this is a team's cloud."""
    return {"name": caller.tenant.name, "domain": caller.tenant.name}


@get("/api/cloud/permissions", sync_to_thread=False)
def permissions(caller: Principal) -> list[Json]:
    """Say what the caller may do."""
    may = ["VIEW"] + (["MANAGE"] if RANK[caller.role] >= RANK[Role.OPERATOR] else [])
    return [{"serviceName": "event-collection", "permissions": may}]


@get("/api/team", sync_to_thread=False)
def team(caller: Principal) -> Json:
    """Show the team: the tenant."""
    tenant = caller.tenant
    return {"id": tenant.id, "name": tenant.name, "domain": tenant.name, "trackingEnabled": False}


def caller_of(request: AnyRequest) -> Principal:
    """Return who calls, within the limit of its address. Raises Unauthenticated, TooMany."""
    limited(request, "celonis")
    return celonis(request)


# Tokens.


@post("/oauth2/token", status_code=200, exception_handlers={Exception: errors.oauth})
async def token(request: AnyRequest, services: Services) -> Json:
    """Return a token for client credentials (RFC 6749): by Basic, or in the form."""
    given = await fields(request)
    if given.get("grant_type") != "client_credentials":
        raise Invalid("grant_type must be client_credentials.", error="unsupported_grant_type")
    scopes = given.get("scope", DATA_POOLS).split()
    if not scopes or not set(scopes) <= SCOPES:
        raise Invalid(f"scope must be of {', '.join(sorted(SCOPES))}.", error="invalid_scope")
    secret = basic_password(request) or given.get("client_secret")
    if not secret:
        raise Unauthenticated("The client has sent no secret.")
    issued = await sync_to_thread(services.access.token, secret, scopes, TOKEN_S)
    return {
        "access_token": issued, "token_type": "Bearer", "expires_in": TOKEN_S,
        "scope": " ".join(scopes),
    }  # fmt: skip


CELONIS: Final = Router(
    path="/",
    route_handlers=[
        *EXECUTE_ROUTERS, execute_by_client, cancel, list_pools, page_pools, get_pool, list_jobs,
        get_job, list_tasks, list_tables, logs_status, list_executions, list_execution_tasks,
        execution_detail, cloud, permissions, team, token, *DATA_PUSH_ROUTERS,
    ],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "caller": Provide(caller_of, sync_to_thread=False),
        "payload": Provide(payload),
    },
    exception_handlers={Exception: errors.celonis},
    tags=["Celonis data jobs"],
)  # fmt: skip
