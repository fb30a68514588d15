"""Routes of IBM License Metric Tool (and BigFix Inventory): one import, the job `everything`."""

import contextlib
from typing import Any, Final

from litestar import Response, Router, get, post
from litestar.concurrency import sync_to_thread
from litestar.di import Provide
from msgspec import Struct

from headrace.api import errors
from headrace.api.auth import AnyRequest, holder, refuse_prefetch, services
from headrace.api.bodies import converted, payload
from headrace.domain.clock import Millis, now_ms, rfc3339
from headrace.domain.errors import Conflict, Unauthenticated
from headrace.domain.job import Execution, ExecutionState, Job
from headrace.domain.principal import Principal, Role
from headrace.domain.run import Mode
from headrace.service.access import RANK, need
from headrace.service.jobs import EVERYTHING
from headrace.service.services import Services
from headrace.store.jobs import ExecutionsAsked
from headrace.store.paging import Window

Json = dict[str, Any]
LOOKED_AT: Final = Window(20)  # executions among which the last success is looked for
# What `run` starts: everything, or (BigFix Inventory's short import) what has changed.
STARTS: Final = {"true": Mode.FULL, "raw_only": Mode.DELTA}
TYPES: Final = {Mode.FULL: "complete", Mode.DELTA: "raw_only"}


class Login(Struct):
    """What a token is asked for with. `user` is the tenant's name, `password` one of its keys."""

    user: str
    password: str


def token(request: AnyRequest) -> Principal:
    """Return who calls with a token, in the header or else in the URL. Raises Unauthenticated."""
    given = request.headers.get("token") or str(request.query_params.get("token") or "")
    return holder(request, given)


@get(["/api/import_status.json", "/api/import_status", "/api/management/imports.json"])
async def import_status(
    request: AnyRequest, services: Services, caller: Principal
) -> Response[Json]:
    """Say how the import stands; with `run=true` start it, unless it is running."""
    mode = STARTS.get(request.query_params.get("run", ""))
    if mode is not None:
        need(caller, Role.OPERATOR)
        refuse_prefetch(request)
    body = await sync_to_thread(_import, services, caller, mode)
    return Response(body, headers={"Cache-Control": "no-store", "Content-Language": "en-US"})


def _import(services: Services, caller: Principal, mode: Mode | None) -> Json:
    job = services.jobs.everything(caller)
    if mode is not None:
        with contextlib.suppress(Conflict):  # the answer tells of the one that is running
            services.jobs.start(caller, EVERYTHING, mode=mode)
    found = services.jobs.executions(caller, ExecutionsAsked(job=job.id), LOOKED_AT)
    return _status(job, found, can_run=RANK[caller.role] >= RANK[Role.OPERATOR])


def _status(job: Job, found: list[Execution], *, can_run: bool) -> Json:
    active = next((one for one in found if one.finished_at is None), None)
    over = [one for one in found if one.finished_at is not None]
    shown: Json = {
        "mode": "running" if active else "next" if over else "none",
        "can_run_imports": can_run, "import_status_url": "/import_status",
        "import_create_url": "/management/imports",
        "progress": max(active.percent, 1) if active else 0,
    }  # fmt: skip
    good = (ExecutionState.SUCCEEDED, ExecutionState.SKIPPED)
    succeeded = next((one for one in over if one.state in good), None)
    if succeeded and succeeded.finished_at:
        shown["last_success_time"] = rfc3339(succeeded.finished_at)
    if over and over[0].finished_at:
        shown["last_status"] = "successful" if over[0].state in good else "failed"
        shown["last_import_time"] = rfc3339(over[0].finished_at)
        shown["last_import_type"] = TYPES[over[0].mode]
    if job.next_run is not None:
        shown["next_import_time"] = rfc3339(job.next_run)
        shown["next_import_time_in"] = max(Millis(job.next_run - now_ms()) // 1000, 0)
        shown["next_import_type"] = TYPES[job.mode]
    return shown


@post("/api/get_token", status_code=200, sync_to_thread=True, opt={"body": Login})
def get_token(payload: Json, services: Services) -> Json:
    """Return a token for a user (a tenant) and a password (a key of it): the key itself."""
    given: Login = converted(payload, Login)
    if services.access.principal(given.password).tenant.name != given.user:
        raise Unauthenticated("User or password is wrong.")
    return {"token": given.password}


IBM: Final = Router(
    path="/",
    route_handlers=[import_status, get_token],
    dependencies={
        "services": Provide(services, sync_to_thread=False),
        "caller": Provide(token, sync_to_thread=False),
        "payload": Provide(payload),
    },
    exception_handlers={Exception: errors.ibm},
    tags=["IBM License Metric Tool"],
)  # fmt: skip
