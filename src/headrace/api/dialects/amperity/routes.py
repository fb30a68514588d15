"""Routes of Amperity: ingest jobs and workflows; one service call between two translations."""

import asyncio
import base64
import binascii
from typing import Any, Final

from litestar import Router, get, post
from litestar.concurrency import sync_to_thread
from litestar.di import Provide
from msgspec import UNSET

from headrace.api import errors
from headrace.api.auth import AnyRequest, bearer, services
from headrace.api.bodies import converted, fields, payload
from headrace.api.dialects.amperity import translate, wire
from headrace.api.rates import limited
from headrace.domain.alias import Kind
from headrace.domain.clock import Millis, parse_rfc3339
from headrace.domain.errors import Denied, Invalid, NotFound
from headrace.domain.job import OVER, Execution, ExecutionState
from headrace.domain.principal import Principal
from headrace.domain.run import Mode, Run, RunKind
from headrace.service.services import Services
from headrace.store.jobs import ExecutionsAsked
from headrace.store.paging import Window

Json = dict[str, Any]
VERSIONS: Final = ("2024-04-01", "unstable")
WINDOW_MS: Final = 7 * 86_400_000  # of created_from to created_to
JOBS_MAX: Final = 10_000  # ingest jobs in one answer
LIMIT_MAX: Final = 1_000
TOKEN_S: Final = 3600
BEARER: Final = "Bearer"
STOP_S: Final = 5.0  # that an answer waits for what it has stopped
LOADS: Final = (RunKind.REINDEX, RunKind.UPDATE, RunKind.PUSH)
ALONE: Final = {translate.GROUP: False, translate.ALONE: True}
MODES: Final = {None: None, "source": None, "full": Mode.FULL, "refresh": Mode.DELTA}


def amperity(request: AnyRequest) -> Principal:
    """Return who calls, with tenant and version told. Raises what is wrong with those."""
    found = bearer(request)
    tenant = request.headers.get("amperity-tenant")
    if not tenant:
        raise Invalid("The header amperity-tenant is missing.", field="amperity-tenant")
    if tenant != found.tenant.name:
        raise Denied("The token is of another tenant than the header amperity-tenant names.")
    limited(request, "amperity", found.tenant.id)
    version = request.headers.get("api-version") or request.query_params.get("api_version")
    if version not in VERSIONS:
        said = "is missing" if not version else f"{version[:40]!r} is not supported"
        raise Invalid(
            f"api-version {said}.", hint=f"Send api-version: {VERSIONS[0]}.", field="api-version"
        )
    return found


def _moment(request: AnyRequest, name: str, *, required: bool = False) -> Millis | None:
    text = str(request.query_params.get(name) or "")
    if not text and not required:
        return None
    try:
        return parse_rfc3339(text.replace(" ", "+"))
    except (ValueError, OverflowError):
        said = "is required" if not text else f"{text[:40]!r} is no moment"
        raise Invalid(f"{name} {said}.", hint="Write 2024-06-01 or 2024-06-01T04:02:54Z.",
                      field=name) from None  # fmt: skip


def _flag(request: AnyRequest, name: str) -> bool:
    text = request.query_params.get(name)
    if text not in (None, "true", "false"):
        raise Invalid(f"{name} must be true or false.", field=name)
    return text == "true"


# Ingest jobs.


@get("/ingest/jobs", sync_to_thread=True)
def list_jobs(request: AnyRequest, services: Services, caller: Principal) -> wire.Jobs:
    """List the ingest jobs of at most seven days."""
    since = _moment(request, "created_from", required=True)
    until = _moment(request, "created_to", required=True)
    assert since is not None  # required
    assert until is not None
    if not 0 <= until - since <= WINDOW_MS:
        raise Invalid("created_to must be after created_from, by at most 7 days.",
                      field="created_to")  # fmt: skip
    with_total = _flag(request, "with_total")
    found, total = services.runs.started_between(
        caller.tenant.id, since, until, LOADS, Window(JOBS_MAX)
    )
    shown = wire.Jobs(data=_jobs(services, found))
    if with_total:
        shown.total = total
    if total > len(found):
        shown.next_token = "more"  # noqa: S105  # it says so; this list cannot be continued
    return shown


@get("/ingest/jobs/{id:str}", sync_to_thread=True)
def get_job(id: str, services: Services, caller: Principal) -> wire.Job:  # noqa: A002
    """Show an ingest job: its tables with their counts, and their files."""
    alias = translate.alias_in(id, "isj-")
    run_id = services.aliases.find(caller, alias, Kind.RUN) if alias else None
    if run_id is None:
        raise NotFound(f"There is no ingest job {id[:80]}.")
    return _jobs(services, [services.runs.get(caller.tenant.id, run_id)])[0]


def _jobs(services: Services, runs: list[Run]) -> list[wire.Job]:
    ids = [id_ for run in runs for id_ in (run.id, run.execution, run.task)]
    aliases = services.aliases.of(ids)
    # Of a task that has landed nothing yet the table's name is looked up, once.
    open_ = {(run.task, run.table): run for run in runs if not (run.receipt or {}).get("tables")}
    names = {which: services.runs.table_of(run) for which, run in open_.items()}
    return [translate.job(run, aliases, names.get((run.task, run.table), "")) for run in runs]


# Workflows.


@get("/workflow/runs", sync_to_thread=True)
def list_workflows(request: AnyRequest, services: Services, caller: Principal) -> wire.Workflows:
    """List workflows, newest first."""
    limit = str(request.query_params.get("limit") or "100")
    if not limit.isdecimal() or len(limit) > 9 or not 1 <= int(limit) <= LIMIT_MAX:
        raise Invalid(f"limit must be a number from 1 to {LIMIT_MAX}.", field="limit")
    with_total = _flag(request, "with_total")
    kind, states = request.query_params.get("type"), _states(request.query_params.get("state"))
    if kind not in (None, *ALONE) or states == []:
        return wire.Workflows(data=[], total=0 if with_total else UNSET)
    asked = ExecutionsAsked(
        alone=ALONE.get(str(kind)), states=states,
        since=_moment(request, "created_from"), until=_moment(request, "created_to"),
        ended_since=_moment(request, "ended_from"), ended_until=_moment(request, "ended_to"),
        before=_place(request.query_params.get("next_token")),
    )  # fmt: skip
    found = services.jobs.executions(caller, asked, Window(int(limit) + 1))
    page = found[: int(limit)]
    shown = wire.Workflows(data=_workflows(services, caller, page))
    if with_total:
        shown.total = services.jobs.count_executions(caller, asked)
    if len(found) > len(page):
        last = page[-1]
        shown.next_token = base64.urlsafe_b64encode(f"{last.queued_at} {last.id}".encode()).decode()
    return shown


def _states(given: str | None) -> list[ExecutionState] | None:
    """Return our states for one of theirs; none for what we never are."""
    if given is None:
        return None
    return [state for state, said in translate.STATES.items() if said == given.lower()]


def _place(token: str | None) -> tuple[Millis, str] | None:
    if not token:
        return None
    try:
        at, id_ = base64.urlsafe_b64decode(token.encode()).decode().split()
        return Millis(min(int(at), 1 << 60)), id_
    except (ValueError, binascii.Error):
        raise Invalid("next_token is not one that this list gave.", field="next_token") from None


@get("/workflow/runs/{id:str}", sync_to_thread=True)
def get_workflow(
    id: str, request: AnyRequest, services: Services, caller: Principal  # noqa: A002
) -> wire.Workflow:  # fmt: skip
    """Show a workflow; `view=verbose` with its tasks, and what it failed of."""
    view = request.query_params.get("view", "overview")
    if view not in ("overview", "verbose"):
        raise Invalid("view must be overview or verbose.", field="view")
    found = _found(services, caller, id)
    return _workflows(services, caller, [found], verbose=view == "verbose")[0]


@post("/workflow/runs", status_code=201, sync_to_thread=True, opt={"body": wire.NewRun})
def start_workflow(payload: Json, services: Services, caller: Principal) -> wire.Workflow:
    """Start a courier group: a job."""
    given: wire.NewRun = converted(payload, wire.NewRun)
    if given.run_mode not in MODES:
        raise Invalid("run_mode must be full, refresh or source.", field="run_mode")
    if given.range_to and not given.range_from:
        raise Invalid("range_to needs range_from.", field="range_from")
    if given.range_from:
        raise Invalid(
            "range_from: this server loads what there is, or what has changed; no range yet.",
            hint='Leave it out; run_mode "refresh" loads what has changed.', field="range_from",
        )  # fmt: skip
    alias = translate.alias_in(given.config_id, "cg-")
    job = services.aliases.find(caller, alias, Kind.JOB) if alias else None
    if job is None:
        raise NotFound(f"There is no configuration {given.config_id[:80]}.")
    started = services.jobs.start(caller, job, mode=MODES[given.run_mode])
    return _workflows(services, caller, [started])[0]


@post("/workflow/runs/{id:str}/stop", status_code=200)
async def stop_workflow(id: str, services: Services, caller: Principal) -> wire.Workflow:  # noqa: A002
    """Stop a workflow; the answer waits some seconds for its end."""
    found = await sync_to_thread(_found, services, caller, id)
    found = await sync_to_thread(services.jobs.cancel, caller, found.id)
    until = asyncio.get_running_loop().time() + STOP_S
    while found.state not in OVER and asyncio.get_running_loop().time() < until:
        await asyncio.sleep(0.1)
        found = await sync_to_thread(services.jobs.execution, caller, found.id)
    return (await sync_to_thread(_workflows, services, caller, [found]))[0]


def _found(services: Services, caller: Principal, id_: str) -> Execution:
    alias = translate.alias_in(id_, "wf-")
    thing = services.aliases.find(caller, alias, Kind.EXECUTION, Kind.RUN) if alias else None
    if thing is not None:
        try:
            return services.jobs.execution(caller, thing)
        except NotFound:  # it is a run of an execution of another name
            pass
    raise NotFound(f"There is no workflow {id_[:80]}.")


def _workflows(
    services: Services, caller: Principal, found: list[Execution], *, verbose: bool = False
) -> list[wire.Workflow]:
    names = services.jobs.names(found)
    runs = {
        one.id: [
            services.runs.get(caller.tenant.id, run_id)
            for run_id, _ in services.jobs.runs_of(one).values()
        ]
        for one in (found if verbose else ())
    }
    ids = [*(one.id for one in found), *(run.id for many in runs.values() for run in many)]
    aliases = services.aliases.of(ids)
    return [
        translate.workflow(
            one, aliases, name=names[one.id], tenant=caller.tenant.name, runs=runs.get(one.id)
        )
        for one in found
    ]


# Tokens.


@post("/v0/oauth2/token", status_code=200)
async def token(request: AnyRequest, services: Services) -> wire.Token:
    """Return a token for client credentials; the secret is a key of the tenant."""
    given = await fields(request)
    if given.get("grant_type") != "client_credentials":
        raise Invalid("grant_type must be client_credentials.", field="grant_type")
    for name in ("client_id", "client_secret"):
        if not given.get(name):
            raise Invalid(f"{name} is required.", field=name)
    holder = await sync_to_thread(services.access.principal, given["client_secret"])
    wanted = request.headers.get("x-amperity-tenant")
    if wanted is not None and wanted != holder.tenant.name:
        raise Denied("The client is of another tenant than the header X-Amperity-Tenant names.")
    issued = await sync_to_thread(services.access.token, given["client_secret"], (), TOKEN_S)
    return wire.Token(access_token=issued, expires_in=TOKEN_S, token_type=BEARER)


AMPERITY: Final = Router(
    path="/api",
    route_handlers=[
        list_jobs, get_job, list_workflows, get_workflow, start_workflow, stop_workflow, token,
    ],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "caller": Provide(amperity, sync_to_thread=False),
        "payload": Provide(payload),
    },
    exception_handlers={Exception: errors.amperity},
    tags=["Amperity"],
)  # fmt: skip
