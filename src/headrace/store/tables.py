"""The tables. Moments are milliseconds since 1970 (UTC) by the database's clock.

What must never happen is forbidden here, not hoped for: see the unique indexes.
"""

from typing import Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[str]:
    return Column("id", String(36), primary_key=True)


def _tenant() -> Column[str]:
    return Column("tenant", ForeignKey("tenant.id"), nullable=False, index=True)


def _times() -> tuple[Column[int], Column[int]]:
    return (
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
    )


tenant: Final = Table(
    "tenant", metadata, _id(), Column("name", String(200), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
)  # fmt: skip

api_key: Final = Table(
    "api_key", metadata, _id(), _tenant(), Column("name", String(200), nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("role", String(20), nullable=False), Column("created_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)  # fmt: skip

# Who did what. Rows are only ever added.
audit: Final = Table(
    "audit", metadata, _id(), Column("tenant", ForeignKey("tenant.id"), nullable=False),
    Column("at", BigInteger, nullable=False), Column("key", String(200), nullable=False),
    Column("deed", String(40), nullable=False), Column("thing", String(400), nullable=False),
    Column("via", Text, nullable=False), Index("ix_audit_listed", "tenant", "at", "id"),
)  # fmt: skip

# What a dialect calls a thing of ours: stored with the thing, never computed.
alias: Final = Table(
    "alias", metadata, Column("tenant", ForeignKey("tenant.id"), nullable=False),
    Column("kind", String(20), nullable=False), Column("alias", String(80), nullable=False),
    Column("thing", String(36), primary_key=True), UniqueConstraint("tenant", "kind", "alias"),
)  # fmt: skip

authentication: Final = Table(
    "authentication", metadata, _id(), _tenant(), Column("type", String(40), nullable=False),
    Column("name", String(400), nullable=False), Column("platform", String(40)),
    Column("input", JSON, nullable=False), Column("sealed", LargeBinary, nullable=False),
    *_times(),
)  # fmt: skip

source: Final = Table(
    "source", metadata, _id(), _tenant(), Column("type", String(40), nullable=False),
    Column("name", String(400), nullable=False), Column("input", JSON, nullable=False),
    Column("sealed", LargeBinary), Column("host", String(36)),  # whose disk it lies on
    Column("authentication", ForeignKey("authentication.id"), index=True), *_times(),
)  # fmt: skip

destination: Final = Table(
    "destination", metadata, _id(), _tenant(), Column("type", String(40), nullable=False),
    Column("name", String(400), nullable=False), Column("input", JSON, nullable=False),
    Column("sealed", LargeBinary), Column("host", String(36)),  # whose disk it lies on
    Column("authentication", ForeignKey("authentication.id"), index=True),
    Column("transformations", JSON, nullable=False), *_times(),
)  # fmt: skip

transformation: Final = Table(
    "transformation", metadata, _id(), _tenant(), Column("type", String(40), nullable=False),
    Column("name", String(400), nullable=False), Column("description", Text),
    Column("input", JSON, nullable=False), Column("authentications", JSON, nullable=False),
    *_times(),
)  # fmt: skip

task: Final = Table(
    "task", metadata, _id(), _tenant(), Column("name", String(400), nullable=False),
    Column("source", ForeignKey("source.id"), nullable=False, index=True),
    Column("destination", ForeignKey("destination.id"), nullable=False, index=True),
    Column("action", String(20), nullable=False), Column("trigger", String(20), nullable=False),
    Column("enabled", Boolean, nullable=False), Column("priority", Integer, nullable=False),
    Column("failure_threshold", Integer, nullable=False), Column("table_name", String(400)),
    Column("key_columns", JSON, nullable=False), Column("extra", JSON, nullable=False),
    Column("cron", String(200)), Column("timing", JSON, nullable=False),
    Column("shape", JSON, nullable=False),
    Column("deletes", Boolean, nullable=False), Column("next_run", BigInteger, index=True),
    Column("blocked", Text),
    Column("criticals", Integer, nullable=False, default=0), *_times(),
    Index("ix_task_listed", "tenant", "created_at", "id"),
)  # fmt: skip

run: Final = Table(
    "run", metadata, _id(), _tenant(),
    Column("task", ForeignKey("task.id")),  # none: it was no task's (a source was tried)
    Column("source", String(36), nullable=False), Column("destination", String(36), nullable=False),
    Column("execution", String(36), nullable=False, index=True),
    Column("host", String(36)),  # the only one that can work on it; null: any
    Column("format", Integer, nullable=False),  # of its order: a server knows those up to its own
    Column("pool", String(36)),  # of the job that started it, or that it was uploaded to
    Column("priority", Integer, nullable=False, default=0),  # higher ones of a tenant go first
    Column("state", String(20), nullable=False), Column("trigger", String(20), nullable=False),
    Column("kind", String(20), nullable=False), Column("action", String(20), nullable=False),
    Column("fence", BigInteger, nullable=False, default=0),
    Column("attempt", Integer, nullable=False, default=0),
    Column("deaths", Integer, nullable=False, default=0),
    Column("stopping", Boolean, nullable=False, default=False),  # a cancel was asked for
    Column("holder", String(80)), Column("lease_until", BigInteger),
    Column("exclusive", String(500)), Column("table_name", String(400)),
    Column("waiting_for", Text),
    Column("progress", JSON, nullable=False), Column("receipt", JSON), Column("error", JSON),
    Column("token", Text), Column("failure_threshold", Integer, nullable=False),
    Column("mode", String(10), nullable=False), Column("metadata", JSON),
    Column("since", Text), Column("until", Text),  # of a back-fill: what it reads
    Column("ordered_at", BigInteger),  # when its source and destination were looked up
    Column("idempotency_key", String(255)),
    Column("fire", BigInteger),  # the moment of its task's schedule that it is for
    Column("events", Integer, nullable=False, default=0),
    Column("event_at", BigInteger, nullable=False, default=0),  # the newest event's moment
    Column("queued_at", BigInteger, nullable=False), Column("started_at", BigInteger),
    Column("finished_at", BigInteger), Column("not_before", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    UniqueConstraint("task", "idempotency_key"),
    UniqueConstraint("task", "fire", name="uq_run_fire"),
    # Never two runs of a task at once, even if the code is wrong.
    Index(
        "uq_run_one_active", "task", unique=True,
        sqlite_where=text("state in ('running','cancelling')"),
        postgresql_where=text("state in ('running','cancelling')"),
    ),
    Index("ix_run_queue", "state", "not_before", "queued_at"),
    Index(  # what the claim goes by, and nothing else: as small as the queue is
        "ix_run_waiting", "tenant", text("priority desc"), "queued_at", "id", "not_before", "task",
        "source", "destination", "pool", "exclusive", "kind", "host", "format",
        sqlite_where=text("state = 'queued'"), postgresql_where=text("state = 'queued'"),
    ),
    Index("ix_run_listed", "tenant", "queued_at"),
    Index("ix_run_started", "tenant", "started_at"),
    Index("ix_run_finished", "finished_at"),
    Index(  # of tasks that were started alone: their runs are executions too
        "ix_run_alone", "tenant", "queued_at", "id", "state",
        sqlite_where=text("execution = id and task is not null"),
        postgresql_where=text("execution = id and task is not null"),
    ),
    Index("ix_run_task", "task", "queued_at"),
)  # fmt: skip

position: Final = Table(
    "position", metadata, Column("task", ForeignKey("task.id"), primary_key=True),
    Column("versions", JSON(none_as_null=True)),  # null: it was reset, at `reset_at`
    Column("after", BigInteger), Column("reset_at", BigInteger, nullable=False),
)  # fmt: skip

pool: Final = Table(
    "pool", metadata, _id(), _tenant(), Column("name", String(400), nullable=False),
    Column("permissions", JSON(none_as_null=True)),  # by key; null: every key by its role
    Column("destination", ForeignKey("destination.id")), *_times(),
)  # fmt: skip

# The tables that are uploaded to a pool, each by a task of its own.
pool_table: Final = Table(
    "pool_table", metadata, Column("pool", ForeignKey("pool.id"), primary_key=True),
    Column("name", String(400), primary_key=True),
    Column("task", ForeignKey("task.id"), nullable=False, unique=True),
)  # fmt: skip

# Files that a client brings for one table of a pool; `run` is null until they are all there.
upload: Final = Table(
    "upload", metadata, _id(), _tenant(),
    Column("pool", ForeignKey("pool.id"), nullable=False, index=True),
    Column("table_name", String(400), nullable=False), Column("form", JSON, nullable=False),
    Column("extra", JSON, nullable=False), Column("run", String(36), unique=True), *_times(),
)  # fmt: skip

# One file. They are loaded in the order of their numbers.
upload_chunk: Final = Table(
    "upload_chunk", metadata, _id(),
    Column("upload", ForeignKey("upload.id"), nullable=False, index=True),
    Column("number", Integer, nullable=False), Column("deletes", Boolean, nullable=False),
    Column("bytes", BigInteger, nullable=False), Column("checksum", String(64), nullable=False),
    Column("columns", JSON, nullable=False), Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("upload", "number"),
)  # fmt: skip

job: Final = Table(
    "job", metadata, _id(), _tenant(), Column("name", String(400), nullable=False),
    Column("pool", ForeignKey("pool.id"), nullable=False, index=True),
    Column("everything", Boolean, nullable=False), Column("steps", JSON, nullable=False),
    Column("stops", Boolean, nullable=False), Column("mode", String(10), nullable=False),
    Column("cron", String(200)), Column("timing", JSON, nullable=False),
    Column("next_run", BigInteger, index=True),
    Column("owed", Integer, nullable=False, default=0),  # moments that wait for an execution's end
    *_times(),
    Index(
        "ix_job_owed", "id", sqlite_where=text("owed > 0"), postgresql_where=text("owed > 0")
    ),
    # One built-in job a tenant.
    Index(
        "uq_job_everything", "tenant", unique=True, sqlite_where=text("everything"),
        postgresql_where=text("everything"),
    ),
)  # fmt: skip

execution: Final = Table(
    "execution", metadata, _id(), _tenant(),
    Column("job", ForeignKey("job.id"), nullable=False), Column("mode", String(10), nullable=False),
    Column("trigger", String(20), nullable=False), Column("state", String(20), nullable=False),
    Column("steps", JSON, nullable=False), Column("stops", Boolean, nullable=False),
    Column("cancelled", Boolean, nullable=False), Column("percent", Integer, nullable=False),
    Column("queued_at", BigInteger, nullable=False), Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Index("ix_execution_job", "job", "queued_at"),
    Index("ix_execution_listed", "tenant", "queued_at", "id"),
    Index(
        "uq_execution_active", "job", unique=True,  # never two of a job at once
        sqlite_where=text("finished_at is null"), postgresql_where=text("finished_at is null"),
    ),
)  # fmt: skip

# What a signed call from outside starts; no foreign keys: it may outlive its task or job.
hook: Final = Table(
    "hook", metadata, _id(), _tenant(), Column("name", String(200), nullable=False),
    Column("task", String(36)), Column("job", String(36)), Column("mode", String(10)),
    Column("sealed", LargeBinary, nullable=False), Column("created_at", BigInteger, nullable=False),
)  # fmt: skip

hook_call: Final = Table(
    "hook_call", metadata, Column("hook", ForeignKey("hook.id"), primary_key=True),
    Column("message", String(255), primary_key=True), Column("started", String(36), nullable=False),
    Column("at", BigInteger, nullable=False, index=True),
)  # fmt: skip

# What starts a task or job by itself: another's success, or new files of a source.
trigger: Final = Table(
    "trigger", metadata, _id(), _tenant(), Column("name", String(200), nullable=False),
    Column("task", String(36)), Column("job", String(36)), Column("mode", String(10)),
    Column("after_task", String(36), index=True), Column("after_job", String(36), index=True),
    Column("source", ForeignKey("source.id"), index=True),
    Column("every_s", Integer, nullable=False), Column("look_at", BigInteger, index=True),
    Column("seen", JSON(none_as_null=True)), Column("told", JSON(none_as_null=True)),
    Column("problem", Text), Column("created_at", BigInteger, nullable=False),
)  # fmt: skip

# Causes, noted in their own transactions; `started` is null until the trigger has done its part.
trigger_due: Final = Table(
    "trigger_due", metadata, Column("trigger", ForeignKey("trigger.id"), primary_key=True),
    Column("cause", String(36), primary_key=True), Column("at", BigInteger, nullable=False),
    Column("started", String(36)),
    Index(
        "ix_trigger_due_waiting", "at", sqlite_where=text("started is null"),
        postgresql_where=text("started is null"),
    ),
)  # fmt: skip

event: Final = Table(
    "event", metadata, _id(),
    Column("run", ForeignKey("run.id"), nullable=False),
    Column("number", Integer, nullable=False), Column("kind", String(20), nullable=False),
    Column("status", String(20)), Column("message", Text, nullable=False),
    Column("rows", BigInteger, nullable=False), Column("data", JSON, nullable=False),
    Column("at", BigInteger, nullable=False), UniqueConstraint("run", "number"),
    Index("ix_event_at", "run", "at", "number"), Index("ix_event_kind", "run", "kind", "status"),
)  # fmt: skip

# How many runs of each kind a tenant has: pages need the number, not the counting.
run_count: Final = Table(
    "run_count", metadata, Column("tenant", ForeignKey("tenant.id"), primary_key=True),
    Column("kind", String(20), primary_key=True), Column("runs", BigInteger, nullable=False),
)  # fmt: skip

# How many events of each kind and status a run has: pages need the number, not the counting.
event_count: Final = Table(
    "event_count", metadata, Column("run", ForeignKey("run.id"), primary_key=True),
    Column("kind", String(20), primary_key=True), Column("status", String(20), primary_key=True),
    Column("events", BigInteger, nullable=False),
)  # fmt: skip

reject_segment: Final = Table(
    "reject_segment", metadata,
    Column("run", ForeignKey("run.id"), primary_key=True),
    Column("name", String(200), primary_key=True), Column("rows", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
)  # fmt: skip

# What was pushed and is not yet in its destination. The id is the event's that will tell of it.
inbox: Final = Table(
    "inbox", metadata, _id(), Column("number", BigInteger, nullable=False, unique=True),
    Column("run", ForeignKey("run.id"), nullable=False), Column("batch", BigInteger),
    Column("action", String(40), nullable=False), Column("records", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False), Column("at", BigInteger, nullable=False),
    Index("ix_inbox_run", "run", "number"),
)  # fmt: skip

mail: Final = Table(
    "mail", metadata, _id(), Column("subject", Text, nullable=False),
    Column("body", Text, nullable=False), Column("at", BigInteger, nullable=False),
    Column("not_before", BigInteger, nullable=False, index=True),
    Column("tries", Integer, nullable=False),
)  # fmt: skip

counter: Final = Table(
    "counter", metadata, Column("name", String(40), primary_key=True),
    Column("value", BigInteger, nullable=False),
)  # fmt: skip

run_limit: Final = Table(
    "run_limit", metadata, Column("name", String(200), primary_key=True),
    Column("runs", Integer), Column("per_minute", Integer),
    Column("next_at", BigInteger, nullable=False),  # none starts before, by the limit a minute
)  # fmt: skip

# What nothing starts of: a task, a tenant, or the server (its id is empty).
pause: Final = Table(
    "pause", metadata, Column("kind", String(20), primary_key=True),
    Column("id", String(36), primary_key=True), Column("at", BigInteger, nullable=False),
)  # fmt: skip

# The servers over this store. One is a data folder: a restarted process is the same server.
server: Final = Table(
    "server", metadata, _id(), Column("name", String(200), nullable=False),
    Column("url", String(400), nullable=False), Column("roles", String(100), nullable=False),
    Column("version", String(40), nullable=False), Column("shared", String(36)),
    Column("data_dir", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False), Column("seen_at", BigInteger, nullable=False),
)  # fmt: skip

# What is known of the store as a whole, by name.
fact: Final = Table(
    "fact", metadata, Column("name", String(40), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)  # fmt: skip

# What was down when runs met it, by name (`source:ID`, `destination:ID`).
breaker: Final = Table(
    "breaker", metadata, Column("name", String(60), primary_key=True),
    Column("failures", Integer, nullable=False), Column("since", BigInteger, nullable=False),
    Column("open_until", BigInteger, nullable=False), Column("reason", Text, nullable=False),
)  # fmt: skip
