"""Our own words, field for field."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from headrace.domain.principal import Permission, Role
from headrace.domain.run import Mode
from headrace.domain.schedule import Missed, Overlap
from headrace.domain.shape import Names, Policy

Json = dict[str, Any]


class Given(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """What a caller sends: unknown fields are refused."""


class Shown(Struct, rename="camel", kw_only=True):
    """What the server answers."""


class NewAuthentication(Given):
    """Credentials to be sealed: what is secret is never shown again."""

    type: Annotated[
        str, Meta(description="basic, googleServiceAccount, apiKey, oauth, algolia or secrets.")
    ]
    name: str
    input: Json


class ChangedAuthentication(Given):
    """Members to change; those of `input` that are left out stay."""

    name: str | None = None
    input: Json | None = None


class Authentication(Shown):
    """Credentials; secret members show null."""

    id: str
    type: str
    name: str
    input: Json
    created_at: str
    updated_at: str


class NewEnd(Given):
    """A source or a destination to be made."""

    type: Annotated[str, Meta(description="The connector's name.")]
    name: str
    input: Json
    authentication_id: str | None = msgspec.field(default=None, name="authenticationID")


class ChangedEnd(Given):
    """Members to change; those of `input` that are left out stay."""

    name: str | None = None
    input: Json | None = None
    authentication_id: str | None = msgspec.field(default=None, name="authenticationID")


class End(Shown):
    """A source or a destination; secret members show null. `server`: on whose disk it lies."""

    id: str
    type: str
    name: str
    input: Json
    authentication_id: str | None = msgspec.field(name="authenticationID")
    server: str | None
    created_at: str
    updated_at: str


class Timing(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """How a schedule is kept."""

    timezone: Annotated[str, Meta(description="IANA name of the zone of its cron line.")] = "UTC"
    missed: Annotated[
        Missed, Meta(description="What is made up for of what passed while nothing could start.")
    ] = Missed.LATEST
    missed_max: int = 10
    overlap: Annotated[
        Overlap, Meta(description="What becomes of a moment while an earlier one is at work.")
    ] = Overlap.QUEUE_ONE
    jitter: Annotated[int, Meta(description="Seconds within which its moments are shifted.")] = 0


class Columns(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True, frozen=True):
    """What becomes of the source's columns; they are named as the source names them."""

    select: Annotated[list[str], Meta(description="These only, in this order; none: all.")] = []
    drop: list[str] = []
    rename: dict[str, str] = {}
    cast: Annotated[
        dict[str, str], Meta(description="Types; a value that is none of its type is rejected.")
    ] = {}
    hash: Annotated[
        list[str], Meta(description="HMAC-SHA-256 of their text, with the server's hash key.")
    ] = []
    mask: Annotated[
        dict[str, int], Meta(description="All but so many last characters become stars.")
    ] = {}
    compute: Annotated[
        dict[str, str],
        Meta(description="SQL expressions over the source's columns, by the table's names."),
    ] = {}
    names: Annotated[Names, Meta(description="snake: small letters, digits and underscores.")] = (
        Names.AS_IS
    )


class NewTask(Given):
    """A task to be made."""

    source: str
    destination: str
    action: Literal["replace", "save", "partial", "partialNoCreate", "append"]
    name: str = ""
    table: str | None = None
    key: list[str] = []
    enabled: bool = True
    failure_threshold: Annotated[int, Meta(ge=0, le=100, description="Percent of rows read.")] = 0
    priority: Annotated[
        int, Meta(ge=-100, le=100, description="Its runs go before those of a lower one.")
    ] = 0
    cron: Annotated[
        str | None, Meta(description="Five fields, or @hourly, @daily, @weekly, @monthly, @yearly.")
    ] = None
    timing: Timing = Timing()
    columns: Columns = Columns()
    schema: Annotated[
        Policy,
        Meta(description="What becomes of columns that the table lacks: added, refused, left out."),
    ] = Policy.EVOLVE
    deletes: Annotated[
        bool, Meta(description="Rows whose keys are gone from the source are removed.")
    ] = False


class ChangedTask(Given):
    """Members to change."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    action: str | msgspec.UnsetType = msgspec.UNSET
    table: str | msgspec.UnsetType | None = msgspec.UNSET
    key: list[str] | msgspec.UnsetType = msgspec.UNSET
    enabled: bool | msgspec.UnsetType = msgspec.UNSET
    failure_threshold: int | msgspec.UnsetType = msgspec.UNSET
    priority: int | msgspec.UnsetType = msgspec.UNSET
    cron: str | msgspec.UnsetType | None = msgspec.UNSET
    timing: Timing | msgspec.UnsetType = msgspec.UNSET
    columns: Columns | msgspec.UnsetType = msgspec.UNSET
    schema: Policy | msgspec.UnsetType = msgspec.UNSET
    deletes: bool | msgspec.UnsetType = msgspec.UNSET


class Task(Shown):
    """Source to destination, and what to do."""

    id: str
    name: str
    source: str
    destination: str
    action: str
    table: str | None
    key: list[str]
    enabled: bool
    paused: bool
    failure_threshold: int
    priority: int
    cron: str | None
    timing: Timing
    columns: Columns
    schema: Policy
    deletes: bool
    next_run: str | None
    last_run: str | None
    created_at: str
    updated_at: str


class CursorAt(Struct, rename="camel", forbid_unknown_fields=True, kw_only=True):
    """Where a table's cursor stands."""

    column: str
    value: str


class NewPosition(Given):
    """How far a task is to count as having read: one of these."""

    cursor: Annotated[
        CursorAt | None, Meta(description="Rows from this value on, itself too, are still to read.")
    ] = None
    after: Annotated[
        str | None, Meta(description="RFC 3339: files that have not changed since count as read.")
    ] = None
    files: Annotated[
        dict[str, str] | None, Meta(description="Versions by name, as a position told them.")
    ] = None


class Position(Shown):
    """How far a task has read. Null everywhere: its next run reads everything."""

    task: str
    cursor: CursorAt | None
    after: str | None
    files: dict[str, str] | None
    file_count: int | None


class NewPool(Given):
    """A group of jobs, and the destination of what is uploaded to it."""

    name: str
    destination: str | msgspec.UnsetType | None = msgspec.UNSET
    permissions: dict[str, Permission] | msgspec.UnsetType | None = msgspec.UNSET


class ChangedPool(Given):
    """Members to change. `permissions` by key id; null opens the pool to every key."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    destination: str | msgspec.UnsetType | None = msgspec.UNSET
    permissions: dict[str, Permission] | msgspec.UnsetType | None = msgspec.UNSET


class Pool(Shown):
    id: str
    name: str
    destination: str | None
    permissions: dict[str, str] | None
    created_at: str
    updated_at: str


class NewKey(Given):
    """A key for a program or a person."""

    name: str
    role: Role


class Key(Shown):
    """A key. `key` itself is told once, when it is made."""

    id: str
    name: str
    role: str
    created_at: str
    revoked_at: str | None
    key: str | msgspec.UnsetType = msgspec.UNSET


class NewHook(Given):
    """What a signed call from outside is to start: a task, or a job."""

    name: str
    task: str | None = None
    job: str | None = None
    mode: Mode | None = None


class Hook(Shown):
    """`secret` is told once, when the hook is made. Calls go to `path`."""

    id: str
    name: str
    task: str | None
    job: str | None
    mode: str | None
    path: str
    created_at: str
    secret: str | msgspec.UnsetType = msgspec.UNSET


class Called(Shown):
    """What a call has started, or waits for."""

    execution: str


class Deed(Shown):
    """A line of the audit log."""

    id: str
    at: str
    key: str
    deed: str
    thing: str
    via: str


class Step(Given):
    """One task of a job; it starts when those that it comes after have succeeded."""

    task: str
    after: list[str] = []


class NewJob(Given):
    """Tasks that are started together."""

    pool: str
    name: str
    steps: list[Step]
    stop_on_failure: bool = False
    mode: Mode = Mode.FULL
    cron: str | None = None
    timing: Timing = Timing()


class ChangedJob(Given):
    """Members to change."""

    name: str | msgspec.UnsetType = msgspec.UNSET
    steps: list[Step] | msgspec.UnsetType = msgspec.UNSET
    stop_on_failure: bool | msgspec.UnsetType = msgspec.UNSET
    mode: Mode | msgspec.UnsetType = msgspec.UNSET
    cron: str | msgspec.UnsetType | None = msgspec.UNSET
    timing: Timing | msgspec.UnsetType = msgspec.UNSET


class Job(Shown):
    """`alias`: its short name, which ids of other dialects hold (Amperity's is `cg-` and it)."""

    id: str
    alias: str
    pool: str
    name: str
    everything: bool
    steps: list[Step]
    stop_on_failure: bool
    mode: str
    cron: str | None
    timing: Timing
    next_run: str | None
    created_at: str
    updated_at: str


class ExecutedStep(Shown):
    """A step of an execution; `run` is null until it starts."""

    task: str
    run: str | None
    state: str


class Execution(Shown):
    """One start of a job; `job` is null for a task that was started alone."""

    id: str
    job: str | None
    mode: str
    trigger: str
    state: str
    percent: int
    steps: list[ExecutedStep]
    queued_at: str
    started_at: str | None
    finished_at: str | None


class Run(Shown):
    """One execution of a task."""

    id: str
    task: str
    execution: str
    kind: str
    state: str
    trigger: str
    action: str
    attempt: int
    waiting_for: str | None
    progress: Json
    books: dict[str, int] | None
    error: Json | None
    queued_at: str
    started_at: str | None
    finished_at: str | None


class Event(Shown):
    """Something that happened in a run."""

    id: str
    number: int
    kind: str
    status: str | None
    message: str
    rows: int
    data: Json
    at: str


class Page(Shown):
    """Rows and the cursor of the next page."""

    items: list[Any]
    next: str | None = None
    total: int | None = None


class Stream(Shown):
    """Something that a source could read. `rows` is an estimate; null: nobody knows."""

    name: str
    schema: str
    kind: str
    key: list[str]
    rows: int | None
    bytes: int | None


class RowsPage(Shown):
    """Rows read back from a destination."""

    columns: list[str]
    rows: list[Json]
    next: str | None


class Limit(Given):
    """How many runs go at a time, and start in a minute; null: as the limit of the kind says."""

    runs: Annotated[int, Meta(ge=0)] | None = None
    per_minute: Annotated[int, Meta(ge=1)] | None = None


class Breaker(Shown):
    """Something that was down when runs met it; `open`: it is left alone until `openUntil`."""

    name: str
    open: bool
    failures: int
    reason: str
    since: str
    open_until: str | None


class SetLimit(Shown):
    name: str
    runs: int | None
    per_minute: int | None


class Server(Shown):
    """One server over this store: a data folder, and what works over it."""

    id: str
    name: str
    url: str
    roles: list[str]
    version: str
    alive: bool
    started_at: str
    seen_at: str | None


class NewTrigger(Given):
    """What starts a task or job by itself: one cause."""

    name: str
    task: str | None = None
    job: str | None = None
    mode: Mode | None = None
    after_task: Annotated[str | None, Meta(description="After a run of it has succeeded.")] = None
    after_job: Annotated[str | None, Meta(description="After an execution has succeeded.")] = None
    source: Annotated[
        str | None, Meta(description="When files of it have come or changed, and rest.")
    ] = None
    every: Annotated[int, Meta(description="Seconds between two looks at the source.")] = 60


class Trigger(Shown):
    """`problem`: why the last look, or the last start, came to nothing."""

    id: str
    name: str
    task: str | None
    job: str | None
    mode: str | None
    after_task: str | None
    after_job: str | None
    source: str | None
    every: int
    problem: str | None
    created_at: str


class Paused(Shown):
    """Whether anything of the tenant starts."""

    paused: bool
