"""Celonis's Data Push API: a job, its chunks of files, its start; into the pool's tables."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from litestar import Response, Router, delete, get, post
from litestar.concurrency import sync_to_thread
from msgspec import Struct

from headrace.api.auth import DATA_PUSH, AnyRequest
from headrace.api.bodies import converted
from headrace.api.multipart import receive
from headrace.domain.errors import Invalid, NotFound
from headrace.domain.principal import Principal
from headrace.domain.run import RunState
from headrace.domain.upload import Chunk, Form, Upload, UploadState, state_of
from headrace.service.services import Services
from headrace.store.paging import Window

Json = dict[str, Any]
JOBS: Final = "/v1/data-push/{pool:str}/jobs"
LOGS_MAX: Final = 100
TYPES: Final = {
    "INTEGER": "integer", "DATE": "date", "TIME": "time", "DATETIME": "timestamp",
    "FLOAT": "float", "BOOLEAN": "boolean", "STRING": "string",
}  # fmt: skip
STATES: Final = {
    UploadState.NEW: "NEW", UploadState.QUEUED: "QUEUED", UploadState.RUNNING: "RUNNING",
    UploadState.SUCCEEDED: "DONE", UploadState.FAILED: "ERROR", UploadState.CANCELLED: "CANCELED",
}  # fmt: skip
SHOWN: Final = (
    "connectionId", "tableSchema", "csvParsingOptions", "upsertStrategy", "fallbackVarcharLength",
)  # fmt: skip


class ColumnGiven(Struct, rename="camel"):
    """A column of the table. Lengths are kept, not enforced."""

    column_name: str
    column_type: Literal["INTEGER", "DATE", "TIME", "DATETIME", "FLOAT", "BOOLEAN", "STRING"]
    field_length: int | None = None
    decimals: int | None = None
    pk_field: bool | None = None


class SchemaGiven(Struct, rename="camel"):
    """The columns of the table."""

    columns: list[ColumnGiven]
    table_name: str | None = None


class CsvGiven(Struct, rename="camel"):
    """How CSV is written."""

    separator_sequence: str | None = None
    quote_sequence: str | None = None
    escape_sequence: str | None = None
    char_set: str | None = None
    line_ending: str | None = None
    decimal_separator: str | None = None
    thousand_separator: str | None = None
    date_format: str | None = None
    additional_dates: list[Any] | None = None


class JobGiven(Struct, rename="camel"):
    """A push job, as a client makes it."""

    target_name: str
    type: Literal["REPLACE", "DELTA"]
    file_type: Literal["PARQUET", "CSV"] | None = "PARQUET"
    data_pool_id: str | None = None
    connection_id: str | None = None
    keys: list[str] | None = None
    table_schema: SchemaGiven | None = None
    csv_parsing_options: CsvGiven | None = None
    upsert_strategy: (
        Literal["UPSERT_WITH_UNCHANGED_METADATA", "UPSERT_WITH_NULLIFICATION"] | None
    ) = None
    fallback_varchar_length: int | None = None


# Members that the answers have, which clients send back.
_OURS: Final = {
    "id", "status", "lastModified", "lastPing", "logs", "creationDate", "changeDate",
    *(field.encode_name for field in msgspec.structs.fields(JobGiven)),
}  # fmt: skip


def form_of(given: JobGiven, payload: Mapping[str, Any]) -> Form:
    """Return what a job's files are like and do. Raises Invalid, naming the member."""
    for name, value in payload.items():
        if value and name not in _OURS:
            raise Invalid(f"{name[:80]} cannot be used here.", hint="Leave it out.", field=name)
    columns = given.table_schema.columns if given.table_schema else []
    names = [column.column_name for column in columns]
    if len({name.casefold() for name in names}) != len(names) or not all(names):
        raise Invalid("tableSchema.columns must have names that differ.", field="tableSchema")
    keys = given.keys or [column.column_name for column in columns if column.pk_field]
    if len(set(keys)) != len(keys) or not all(keys):
        raise Invalid("keys must have names that differ.", field="keys")
    return Form(
        replaces=given.type == "REPLACE", format=(given.file_type or "PARQUET").lower(),
        key=tuple(keys), types={one.column_name: TYPES[one.column_type] for one in columns},
        patches=given.upsert_strategy != "UPSERT_WITH_NULLIFICATION",
        options=_options(given.csv_parsing_options or CsvGiven()),
    )  # fmt: skip


def _options(given: CsvGiven) -> dict[str, str]:
    quote = given.quote_sequence or '"'
    only: tuple[tuple[str, object, tuple[object, ...]], ...] = (
        ("escapeSequence", given.escape_sequence, (None, "", quote)),
        ("decimalSeparator", given.decimal_separator, (None, "", ".")),
        ("thousandSeparator", given.thousand_separator, (None, "")),
        ("dateFormat", given.date_format, (None, "")),
        ("additionalDates", given.additional_dates, (None, [])),
    )  # fmt: skip
    for name, value, able in only:
        if value not in able:
            raise Invalid(
                f"csvParsingOptions.{name} cannot be {str(value)[:20]!r} here.",
                hint="Write dates as 2024-06-01, numbers as 1234.5, a quote in a text twice.",
                field=f"csvParsingOptions.{name}",
            )
    for name, value in (("separatorSequence", given.separator_sequence), ("quoteSequence", quote)):
        if value is not None and (len(value) != 1 or not value.isascii() or value in "\r\n "):
            raise Invalid(
                f"csvParsingOptions.{name} must be one ASCII character, no space.",
                field=f"csvParsingOptions.{name}",
            )
    options = {"delimiter": given.separator_sequence or ",", "quote": quote}
    if options["delimiter"] == quote:
        raise Invalid(
            "csvParsingOptions: separator and quote must differ.",
            field="csvParsingOptions.quoteSequence",
        )
    return options | ({"encoding": given.char_set} if given.char_set else {})


def job_shown(one: Upload, run: RunState | None, logs: list[str] | None = None) -> Json:
    return {
        "id": one.id, "dataPoolId": one.pool, "targetName": one.table,
        "type": "REPLACE" if one.form.replaces else "DELTA", "fileType": one.form.format.upper(),
        "keys": list(one.form.key), "status": STATES[state_of(run)],
        "lastModified": one.updated_at, "lastPing": one.updated_at, "logs": logs or [],
    } | {name: one.extra.get(name) for name in SHOWN}  # fmt: skip


def chunk_shown(one: Chunk, upload: str) -> Json:
    return {
        "id": one.id, "creationDate": one.created_at, "type": "DELETE" if one.deletes else "UPSERT",
        "pushJobId": upload, "checksum": one.checksum,
    }  # fmt: skip


SCOPED: Final = {"scope": DATA_PUSH}


def empty(**headers: str) -> Response[bytes]:
    """Answer 200 without a body, as the vendor does."""
    return Response(b"", status_code=200, media_type="application/json", headers=headers)


@post(JOBS, status_code=200, sync_to_thread=True, opt={"body": JobGiven, **SCOPED})
def add_push_job(pool: str, payload: Json, services: Services, caller: Principal) -> Json:
    """Make a push job, which takes chunks until it is started."""
    given: JobGiven = converted(payload, JobGiven)
    if given.data_pool_id not in (None, "", pool):
        raise Invalid("dataPoolId is another pool than the path's.", field="dataPoolId")
    made = services.uploads.add(
        caller, pool, table=given.target_name, form=form_of(given, payload),
        extra={name: payload[name] for name in SHOWN if name in payload},
    )  # fmt: skip
    return job_shown(made, None)


@get(JOBS, sync_to_thread=True, opt=SCOPED)
def list_push_jobs(pool: str, services: Services, caller: Principal) -> list[Json]:
    """List the push jobs of a pool, newest first."""
    return [job_shown(one, run) for one, run in services.uploads.listed(caller, pool)]


@get(JOBS + "/{job:str}", sync_to_thread=True, opt=SCOPED)
def get_push_job(pool: str, job: str, services: Services, caller: Principal) -> Json:
    """Show a push job, its status, and what its load has told so far."""
    found, state = services.uploads.get(caller, pool, job)
    logs: list[str] = []
    if found.run is not None:
        events, _ = services.runs.events(caller.tenant.id, found.run, window=Window(LOGS_MAX))
        logs = [event.message for event in events]
    return job_shown(found, state, logs)


@delete(JOBS + "/{job:str}", status_code=200, sync_to_thread=True, opt=SCOPED)
def remove_push_job(pool: str, job: str, services: Services, caller: Principal) -> Response[bytes]:
    """Remove a push job and its chunks; what has landed stays."""
    services.uploads.remove(caller, pool, job)
    return empty()


@post(JOBS + "/{job:str}", status_code=200, sync_to_thread=True, opt=SCOPED)
def start_push_job(
    pool: str, job: str, request: AnyRequest, services: Services, caller: Principal
) -> Response[bytes]:
    """Load the chunks of a push job into its table."""
    latest = request.query_params.get("duplicateRemovalColumn") or None
    services.uploads.start(caller, pool, job, latest)
    return empty()


@get(JOBS + "/{job:str}/chunks", sync_to_thread=True, opt=SCOPED)
def list_chunks(pool: str, job: str, services: Services, caller: Principal) -> list[Json]:
    """List the chunks of a push job in their order."""
    return [chunk_shown(one, job) for one in services.uploads.chunks(caller, pool, job)]


@post(
    JOBS + "/{job:str}/chunks/{kind:str}", status_code=200, request_max_body_size=None, opt=SCOPED
)
async def add_chunk(
    pool: str, job: str, kind: str, request: AnyRequest, services: Services, caller: Principal
) -> Json:
    """Keep one file of rows: to be written (`upserted`), or to be removed (`deleted`)."""
    if kind not in ("upserted", "deleted"):
        raise NotFound(f"There is nothing at {request.url.path}: use upserted or deleted.")
    deletes = kind == "deleted"
    path = await sync_to_thread(services.uploads.incoming, caller, pool, job, deletes=deletes)
    try:
        found = await receive(request, path, services.settings.chunk_bytes_max)
        kept = await sync_to_thread(
            services.uploads.keep, caller, pool, job, path, deletes=deletes, size=found.size,
            checksum=found.checksum,
        )  # fmt: skip
    finally:
        path.unlink(missing_ok=True)  # kept chunks have another name
    return chunk_shown(kept, job)


_ROUTES: Final = [
    add_push_job, list_push_jobs, get_push_job, remove_push_job, start_push_job, list_chunks,
    add_chunk,
]  # fmt: skip

# The root of the documents, and that of newer clients.
DATA_PUSH_ROUTERS: Final = [
    Router(path="/integration/api", route_handlers=_ROUTES),
    Router(path="/data-ingestion/api", route_handlers=_ROUTES),
]
