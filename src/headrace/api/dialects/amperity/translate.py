"""From runs and executions to Amperity's words: pure functions."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from msgspec import UNSET

from headrace.api.dialects.amperity import wire
from headrace.domain.clock import Millis, rfc3339
from headrace.domain.job import OVER, Execution, ExecutionState
from headrace.domain.run import ENDED, Run, RunState

Json = Mapping[str, Any]
TABLE_STATES: Final = {
    RunState.QUEUED: "scheduled", RunState.RUNNING: "running", RunState.CANCELLING: "stopping",
    RunState.SUCCEEDED: "succeeded", RunState.FAILED: "failed", RunState.CANCELLED: "canceled",
    RunState.SKIPPED: "skipped",
}  # fmt: skip
STATES: Final = {
    ExecutionState.QUEUED: "scheduled", ExecutionState.RUNNING: "running",
    ExecutionState.SUCCEEDED: "succeeded", ExecutionState.FAILED: "failed",
    ExecutionState.CANCELLED: "canceled", ExecutionState.SKIPPED: "skipped",
}  # fmt: skip
GROUP, ALONE = "courier.group/run", "courier/run"
NO_ROWS: Final = dict.fromkeys(
    ("read", "expanded", "inserted", "updated", "unchanged", "deleted", "rejected", "filtered",
     "duplicates"), 0,
)  # fmt: skip


def job_id(alias: str) -> str:
    return f"isj-{alias}"


def workflow_id(alias: str) -> str:
    return f"wf-{alias}"


def feed_id(alias: str) -> str:
    return f"df-{alias}"


def config_id(alias: str) -> str:
    return f"cg-{alias}"


def batch_id(alias: str) -> str:
    """Return the id of the files that a run has read together: five letters where it has six."""
    return f"cb-{alias[:-1]}"


def alias_in(given: str, prefix: str) -> str:
    """Return the alias in an id of theirs; empty where it has another form."""
    return given.removeprefix(prefix) if given.startswith(prefix) else ""


def job(run: Run, aliases: Mapping[str, str], table: str) -> wire.Job:
    """Show a run as an ingest job. `table`: its name, where nothing has landed in it yet."""
    id_ = job_id(aliases[run.id])
    tables = (run.receipt or {}).get("tables") or [{"name": table, **NO_ROWS}]
    return wire.Job(
        id=id_, workflow_id=workflow_id(aliases[run.execution]),
        tables=[_table(run, id_, table, aliases) for table in tables],
    )  # fmt: skip


def _table(run: Run, job: str, table: Json, aliases: Mapping[str, str]) -> wire.Table:
    files = [
        file for file in (run.receipt or {}).get("files", []) if file["table"] == table["name"]
    ]
    count = _counts(table, landed=bool(run.receipt) and run.state is not RunState.FAILED)
    return wire.Table(
        feed_id=feed_id(aliases.get(run.task, "")), job_id=job, table_name=table["name"],
        state=TABLE_STATES[run.state], started_at=_at(run.started_at or run.queued_at),
        ended_at=_at(run.finished_at or run.updated_at),
        files=[
            wire.File(
                file_id=f"{batch_id(aliases[run.id])}/{name}", name=name,
                read=file["read"] + file["expanded"], errors=_errors(file),
            )
            for file in files
            for name in [PurePosixPath(file["name"]).name or "pushed"]
        ],
        **count,
    )  # fmt: skip


def _errors(books: Json) -> int:
    return int(books["rejected"] - books["duplicates"])


def _counts(books: Json, *, landed: bool) -> dict[str, int]:
    """Return the five counts, so that they balance.

    What they have no word for goes where its meaning is closest: a record that a transformation
    made was read; a row that was deleted was updated; one that changed nothing, or was filtered,
    was not ingested. Of a run that published nothing, the rows that fit were not ingested either.
    """
    read, errors = books["read"] + books["expanded"], _errors(books)
    inserted, updated = books["inserted"], books["updated"] + books["deleted"]
    rejected = books["duplicates"] + books["filtered"] + books["unchanged"]
    if not landed:
        rejected = read - errors - inserted - updated
    return {
        "read": read, "errors": errors, "rejected": rejected, "inserted": inserted,
        "updated": updated,
    }  # fmt: skip


def workflow(
    one: Execution, aliases: Mapping[str, str], *, name: str, tenant: str,
    runs: Sequence[Run] | None = None,
) -> wire.Workflow:  # fmt: skip
    """Show an execution; with its `runs` the verbose view."""
    over = one.state in OVER
    failed = next((run for run in runs or () if run.state is RunState.FAILED), None)
    return wire.Workflow(
        id=workflow_id(aliases[one.id]),
        state="stopping" if one.cancelled and not over else STATES[one.state],
        type=GROUP if one.job else ALONE, name=name, tenant=tenant, created_at=_at(one.queued_at),
        ended_at=_at(one.finished_at) if one.finished_at else UNSET,
        task_instances=UNSET if runs is None else [_task(run, aliases) for run in runs],
        error=UNSET if failed is None else _error(failed.error or {}),
    )  # fmt: skip


def _task(run: Run, aliases: Mapping[str, str]) -> dict[str, Any]:
    shown = {
        "id": job_id(aliases[run.id]), "state": TABLE_STATES[run.state],
        "created_at": _at(run.queued_at),
    }  # fmt: skip
    if run.started_at:
        shown["started_at"] = _at(run.started_at)
    return shown | ({"ended_at": _at(run.finished_at)} if run.state in ENDED else {})  # type: ignore[arg-type]  # it has ended


def _error(error: Json) -> dict[str, Any]:
    ours = error.get("code") in ("internal", "worker_died", "unbalanced", "unavailable")
    return {
        "type": error.get("code", "failed"),
        "message": f"{error.get('message', '')} {error.get('hint', '')}".strip(),
        "attribution": "platform" if ours else "customer",
        "data": {"field": error["field"]} if error.get("field") else {},
    }


def _at(moment: Millis) -> str:
    return rfc3339(moment, millis=True)
