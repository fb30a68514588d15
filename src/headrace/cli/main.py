"""`headrace`: what it can do. Commands import their parts when they run, so --help is quick."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headrace import __version__
from headrace.domain.errors import HeadraceError, Invalid
from headrace.domain.shape import Names, Policy, Shape

app = typer.Typer(
    name="headrace",
    help="Move rows from where they are to where they are needed, and tell the truth about each.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"headrace {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Format = Annotated[
    Literal["csv", "json", "parquet", "avro", "excel"] | None,
    typer.Option("--format", help="Format, where the name does not tell."),
]
Delimiter = Annotated[str | None, typer.Option(help="CSV delimiter.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of the text.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME=VALUE of the source, e.g. region=eu-west-1."),
]


def _column(option: str, metavar: str, told: str) -> Any:  # Any: typer's own
    return typer.Option(option, metavar=metavar, help=told)


def _pairs(given: list[str] | None, option: str, *, first: bool = False) -> dict[str, str]:
    """Read NAME=VALUE pairs, cut at the last sign, or at the `first`."""
    found = {}
    for pair in given or ():
        name, _, value = pair.partition("=") if first else pair.rpartition("=")
        if not name or not value:
            raise Invalid(f"{option} wants NAME=VALUE, not {pair[:80]!r}.", field=option)
        found[name] = value
    return found


Type = Annotated[
    list[str] | None,
    typer.Option("--type", help="COLUMN=TYPE, e.g. id=integer or price=decimal(12,2)."),
]
Select = Annotated[
    list[str] | None, _column("--select", "COLUMN", "Load this column only; repeat it.")
]
Drop = Annotated[list[str] | None, _column("--drop", "COLUMN", "Leave a column out.")]
Rename = Annotated[list[str] | None, _column("--rename", "COLUMN=NAME", "Call a column otherwise.")]
Cast = Annotated[
    list[str] | None,
    _column("--cast", "COLUMN=TYPE", "Make a value of a type of whatever was read."),
]
Hash = Annotated[
    list[str] | None,
    _column("--hash", "COLUMN", "Replace values by their HMAC, keyed by HEADRACE_HASH_KEY."),
]
Mask = Annotated[
    list[str] | None,
    _column("--mask", "COLUMN=N", "Make stars of all but the last N characters."),
]
Compute = Annotated[
    list[str] | None,
    _column("--compute", "NAME=SQL", "A column of an expression over the source's columns."),
]
NamesOption = Annotated[Names, typer.Option("--names", help="snake: small_letters_and_digits.")]
Key = Annotated[list[str] | None, typer.Option(help="Key column; repeat it for a key of several.")]
By = Annotated[
    Literal["key", "cursor"] | None,
    typer.Option(help="What buckets go by: the key, or ranges of the cursor."),
]
Buckets = Annotated[
    int | None,
    typer.Option(min=1, max=65_536, help="How many; by default a few thousand rows each."),
]


def _shape(
    select: list[str] | None, drop: list[str] | None, rename: list[str] | None,
    cast: list[str] | None, hash_: list[str] | None, mask: list[str] | None,
    compute: list[str] | None, names: Names, policy: Policy = Policy.EVOLVE,
) -> Shape:  # fmt: skip
    """Read what a person has said of columns. Raises Invalid."""
    numbers = _pairs(mask, "--mask")
    if bad := [name for name, number in numbers.items() if not number.isdecimal()]:
        raise Invalid(f"--mask {bad[0]}=N wants a whole number.", field="--mask")
    return Shape(
        select=tuple(select or ()), drop=tuple(drop or ()), rename=_pairs(rename, "--rename"),
        cast=_pairs(cast, "--cast"), hash=tuple(hash_ or ()),
        mask={name: int(number) for name, number in numbers.items()},
        compute=_pairs(compute, "--compute", first=True), names=names, policy=policy,
    )  # fmt: skip


@app.command()
def ingest(
    src: Annotated[
        str,
        typer.Argument(
            help="File, glob, https://, s3://, gs://, az:// or file:// URL, postgresql://…#TABLE."
        ),
    ],
    dest: Annotated[
        str, typer.Argument(help="FILE.duckdb, postgresql://…, or FOLDER/ for Parquet.")
    ],
    table: Annotated[str | None, typer.Option(help="Table; by default the file's name.")] = None,
    mode: Annotated[
        Literal["replace", "append", "merge"],
        typer.Option(help="replace the table, append rows, or merge them by --key."),
    ] = "replace",
    key: Key = None,
    format_: Format = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    type_: Type = None,
    set_: Set = None,
    select: Select = None,
    drop: Drop = None,
    rename: Rename = None,
    cast: Cast = None,
    hash_: Hash = None,
    mask: Mask = None,
    compute: Compute = None,
    names: NamesOption = Names.AS_IS,
    schema: Annotated[
        Policy,
        typer.Option(help="Columns that the table lacks: added, their rows rejected, or left out."),
    ] = Policy.EVOLVE,
    deletes: Annotated[
        bool,
        typer.Option("--deletes", help="Remove rows whose keys are gone from a table (merge)."),
    ] = False,
    failure_threshold: Annotated[
        float, typer.Option(min=0, max=100, help="Percent of rows that may be rejected.")
    ] = 0,
    json: Json = False,
) -> None:
    """Load SRC into DEST now, without a server, and print the receipt.

    Exit codes: 0 loaded, 1 the run failed, 2 bad input, 3 a source or destination cannot be
    used, 4 too many rows were rejected, 130 interrupted.
    """
    from headrace.cli.ingest import ingest as run
    from headrace.settings import from_env

    options = _options(delimiter, encoding)
    if type_:
        options["mapping"] = _pairs(type_, "--type")
    shape = _shape(select, drop, rename, cast, hash_, mask, compute, names, schema)
    settings = from_env({"HEADRACE_MEMORY": "512MB"} | os.environ)
    code = run(
        src, dest, table=table, mode=mode, key=tuple(key or ()), as_json=json, kind=format_,
        failure_threshold=failure_threshold, options=options, pairs=set_ or (),
        memory_bytes=settings.memory_bytes, shape=shape, secret=settings.hash_key, deletes=deletes,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def verify(
    src: Annotated[str, typer.Argument(help="What the table was loaded from, as for ingest.")],
    dest: Annotated[str, typer.Argument(help="What it was loaded into, as for ingest.")],
    table: Annotated[str | None, typer.Option(help="Table; by default the file's name.")] = None,
    key: Key = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Load the buckets again that differ.")
    ] = False,
    by: By = None,
    buckets: Buckets = None,
    format_: Format = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    type_: Type = None,
    set_: Set = None,
    select: Select = None,
    drop: Drop = None,
    rename: Rename = None,
    cast: Cast = None,
    hash_: Hash = None,
    mask: Mask = None,
    compute: Compute = None,
    names: NamesOption = Names.AS_IS,
    json: Json = False,
) -> None:
    """Compare a table with its source by counts and digests, and say which rows differ.

    Databases answer in SQL where they are: rows move only of buckets that differ. Give columns as
    they were given to ingest. Exit codes: 0 the same, 1 they differ, 2 and 3 as for ingest.
    """
    from headrace.cli.ingest import verify as run
    from headrace.domain import verification
    from headrace.settings import from_env

    options = _options(delimiter, encoding)
    if type_:
        options["mapping"] = _pairs(type_, "--type")
    settings = from_env({"HEADRACE_MEMORY": "512MB"} | os.environ)
    code = run(
        src, dest, table=table, key=tuple(key or ()), as_json=json, kind=format_, options=options,
        pairs=set_ or (), memory_bytes=settings.memory_bytes, secret=settings.hash_key,
        shape=_shape(select, drop, rename, cast, hash_, mask, compute, names),
        wanted=verification.Verify(
            repair=repair, by=by and verification.By(by), buckets=buckets
        ),
    )  # fmt: skip
    raise typer.Exit(code)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.", min=0, max=65535)] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Where everything is kept.")] = Path(
        "headrace-data"
    ),
    database: Annotated[
        str | None, typer.Option(help="postgresql+psycopg://…; SQLite in the data dir if empty.")
    ] = None,
    role: Annotated[
        str | None, typer.Option(help="api, ticker, dispatcher, by commas; all if empty.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate (PEM) to serve HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    tls_self_signed: Annotated[
        bool, typer.Option("--tls-self-signed", help="HTTPS with a certificate of its own.")
    ] = False,
) -> None:
    """Start the server: API, queue and workers in one process."""
    from headrace.cli.serve import serve as run
    from headrace.settings import from_env, roles

    run(
        from_env(
            host=host, port=port, data_dir=data_dir, database=database,
            roles=None if role is None else roles(role), tls_cert=tls_cert, tls_key=tls_key,
            tls_self_signed=tls_self_signed,
        )
    )  # fmt: skip


@app.command()
def preview(
    src: Annotated[str, typer.Argument(help="File, glob, https:// or file:// URL.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=1000, help="Rows to show.")] = 10,
    format_: Format = None,
    delimiter: Delimiter = None,
    encoding: Encoding = None,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Show the columns, their types and the first rows of SRC; loads nothing."""
    from headrace.cli.preview import preview as run

    options = _options(delimiter, encoding)
    run(src, rows=rows, kind=format_, options=options, pairs=set_ or (), as_json=json)


@app.command()
def discover(
    src: Annotated[
        str, typer.Argument(help="postgresql://…, mysql://…, sqlite:///FILE or duckdb:///FILE.")
    ],
    json: Json = False,
) -> None:
    """List the tables and views of a database: keys, rows (about) and sizes."""
    from headrace.cli.preview import discover as run

    run(src, as_json=json)


def _options(delimiter: str | None, encoding: str | None) -> dict[str, object]:
    """Return the source's settings that have options of their own."""
    given = {"delimiter": delimiter and delimiter.replace("\\t", "\t"), "encoding": encoding}
    return {name: value for name, value in given.items() if value}


@app.command()
def runs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Runs to show.")] = 20,
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    json: Json = False,
) -> None:
    """List the runs of a server (HEADRACE_URL, HEADRACE_ADMIN_KEY), newest first."""
    from headrace.cli.remote import list_runs

    list_runs(limit, state, as_json=json)


@app.command()
def logs(
    run: Annotated[str, typer.Argument(help="The run's id.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    json: Json = False,
) -> None:
    """Show the events of a run; with -f until it ends, and exit as the run did."""
    from headrace.cli.remote import show_logs

    raise typer.Exit(show_logs(run, follow=follow, as_json=json))


@app.command()
def cancel(run: Annotated[str, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Ask for a run to stop."""
    from headrace.cli.remote import cancel_run

    cancel_run(run, as_json=json)


@app.command()
def retry(run: Annotated[str, typer.Argument(help="The run's id.")], json: Json = False) -> None:
    """Start a run that has failed or was cancelled again, as it was started."""
    from headrace.cli.remote import retry_run

    retry_run(run, as_json=json)


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="The task's id or name.")],
    mode: Annotated[
        Literal["full", "delta"] | None, typer.Option(help="Read all, or what has changed.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--from", help="Read only from this value of the cursor on,")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="up to this one, not included.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until it ends; exit as it did.")] = False,
    json: Json = False,
) -> None:
    """Start a task; with --from and --to read a part again, and leave its place as it is."""
    from headrace.cli.jobs import start_run

    raise typer.Exit(start_run(task, mode, since, until, wait=wait, as_json=json))


def _group(name: str, told: str) -> typer.Typer:
    made = typer.Typer(help=told, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(made, name=name)
    return made


Mode = Annotated[Literal["full", "delta"], typer.Option(help="Read all, or what has changed.")]
Thing = Annotated[str, typer.Argument(help="Its id or its name.")]
Execution = Annotated[str, typer.Argument(help="The execution's id.")]

pools = _group("pools", "Pools: groups of jobs, and places for what is uploaded.")
tasks = _group("tasks", "Tasks: each from a source to a destination.")
jobs = _group("jobs", "Jobs: tasks that are started together, perhaps in an order.")
executions = _group("executions", "Executions: each one start of a job.")
triggers = _group("triggers", "Triggers: what starts a task or job by itself.")
limits = _group("limits", "Limits: how many runs go at a time, and start in a minute.")
keys = _group("keys", "Keys of a server's tenant, for programs and people.")


@pools.command("list")
def pools_list(json: Json = False) -> None:
    """List pools."""
    from headrace.cli.jobs import listed

    listed("pools", ("id", "name", "destination", "createdAt"), as_json=json)


@pools.command("add")
def pools_add(
    name: Annotated[str, typer.Argument(help="The pool's name.")], json: Json = False
) -> None:
    """Make a pool."""
    from headrace.cli.jobs import add_pool

    add_pool(name, as_json=json)


@pools.command("rename")
def pools_rename(
    pool: Thing, name: Annotated[str, typer.Argument(help="The new name.")], json: Json = False
) -> None:
    """Give a pool another name."""
    from headrace.cli.jobs import rename

    rename("pools", pool, name, as_json=json)


@pools.command("remove")
def pools_remove(pool: Thing, json: Json = False) -> None:
    """Remove a pool that holds no job and no table."""
    from headrace.cli.jobs import remove

    remove("pools", pool, as_json=json)


@tasks.command("list")
def tasks_list(json: Json = False) -> None:
    """List tasks."""
    from headrace.cli.jobs import listed

    listed("tasks", ("id", "name", "action", "table", "paused", "cron", "nextRun"), as_json=json)


@tasks.command("pause")
def tasks_pause(task: Thing, json: Json = False) -> None:
    """Let no run of a task start, nor its schedule fire; what runs goes on."""
    from headrace.cli.jobs import pause

    pause("pause", task, as_json=json)


@tasks.command("resume")
def tasks_resume(task: Thing, json: Json = False) -> None:
    """Let a task's runs start again."""
    from headrace.cli.jobs import pause

    pause("resume", task, as_json=json)


@tasks.command("position")
def tasks_position(
    task: Thing,
    cursor: Annotated[
        str | None, typer.Option(help="COLUMN=VALUE: rows from this value on are still to read.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(help="A moment: files unchanged since then count as read.")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="Forget it: the next run reads everything.")
    ] = False,
    json: Json = False,
) -> None:
    """Show how far a task has read, or say it: its next delta run goes on from there."""
    from headrace.cli.jobs import position

    position(task, cursor=cursor, after=after, reset=reset, as_json=json)


@tasks.command("verify")
def tasks_verify(
    task: Thing,
    repair: Annotated[
        bool, typer.Option("--repair", help="Load the buckets again that differ.")
    ] = False,
    by: By = None,
    buckets: Buckets = None,
    json: Json = False,
) -> None:
    """Compare a task's table with its source; exits with 1 if they differ."""
    from headrace.cli.jobs import verify as run

    raise typer.Exit(run(task, repair=repair, by=by, buckets=buckets, as_json=json))


@app.command()
def pause(json: Json = False) -> None:
    """Let nothing start on a server; what runs goes on."""
    from headrace.cli.jobs import pause as run

    run("pause", None, as_json=json)


@app.command()
def resume(json: Json = False) -> None:
    """Let everything start again."""
    from headrace.cli.jobs import pause as run

    run("resume", None, as_json=json)


@jobs.command("list")
def jobs_list(json: Json = False) -> None:
    """List jobs; `everything` is the built-in one of all enabled tasks."""
    from headrace.cli.jobs import listed

    listed("jobs", ("id", "name", "mode", "steps", "cron", "nextRun"), as_json=json)


@jobs.command("show")
def jobs_show(job: Thing, json: Json = False) -> None:
    """Show a job and its tasks."""
    from headrace.cli.jobs import show_thing

    show_thing("jobs", job, as_json=json)


@jobs.command("add")
def jobs_add(
    name: Annotated[str, typer.Argument(help="The job's name.")],
    tasks: Annotated[list[str], typer.Argument(help="Its tasks, by id or name.")],
    pool: Annotated[str, typer.Option(help="Its pool, by id or name.")],
    after: Annotated[
        list[str] | None,
        typer.Option(help="LATER:EARLIER, one task that waits for another; repeat it."),
    ] = None,
    mode: Mode = "full",
    cron: Annotated[str | None, typer.Option(help='Schedule, e.g. "0 3 * * *" (UTC).')] = None,
    stop_on_failure: Annotated[
        bool,
        typer.Option("--stop-on-failure", help="A failure keeps others from starting."),
    ] = False,
    json: Json = False,
) -> None:
    """Make a job of TASKS."""
    from headrace.cli.jobs import add_job

    add_job(
        name, tasks, after or [], pool=pool, mode=mode, cron=cron, stop_on_failure=stop_on_failure,
        as_json=json,
    )  # fmt: skip


@jobs.command("start")
def jobs_start(
    job: Thing,
    mode: Mode = "full",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Until it ends, and exit so.")] = False,
    json: Json = False,
) -> None:
    """Start every task of a job (`everything`: all enabled tasks)."""
    from headrace.cli.jobs import start_job

    raise typer.Exit(start_job(job, mode=mode, wait=wait, as_json=json))


@jobs.command("remove")
def jobs_remove(job: Thing, json: Json = False) -> None:
    """Remove a job; its runs stay."""
    from headrace.cli.jobs import remove

    remove("jobs", job, as_json=json)


@executions.command("list")
def executions_list(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Executions to show.")] = 20,
    json: Json = False,
) -> None:
    """List executions, newest first."""
    from headrace.cli.jobs import listed

    listed(
        "executions", ("id", "state", "percent", "steps", "trigger", "queuedAt"), limit=limit,
        as_json=json,
    )  # fmt: skip


@executions.command("show")
def executions_show(
    execution: Execution,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Watch it until it ends.")] = False,
    json: Json = False,
) -> None:
    """Show an execution and where each of its tasks stands."""
    from headrace.cli import jobs as parts

    if follow:
        raise typer.Exit(parts.follow(execution, as_json=json))
    parts.show_thing("executions", execution, as_json=json)


@executions.command("cancel")
def executions_cancel(execution: Execution, json: Json = False) -> None:
    """Stop an execution: what runs is cancelled, the rest never starts."""
    from headrace.cli.jobs import act

    act("cancel", execution, as_json=json)


@executions.command("retry")
def executions_retry(execution: Execution, json: Json = False) -> None:
    """Start the tasks again that did not succeed."""
    from headrace.cli.jobs import act

    act("retry", execution, as_json=json)


@keys.command("list")
def keys_list(json: Json = False) -> None:
    """List keys; the keys themselves are kept nowhere."""
    from headrace.cli.jobs import listed

    listed("keys", ("id", "name", "role", "createdAt", "revokedAt"), as_json=json, paged=False)


@keys.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    role: Annotated[
        Literal["viewer", "operator", "admin"],
        typer.Option(help="viewer looks, operator starts and changes, admin makes keys too."),
    ] = "operator",
    json: Json = False,
) -> None:
    """Make a key and print it: it is shown only now."""
    from headrace.cli.jobs import add_key

    add_key(name, role, as_json=json)


@keys.command("revoke")
def keys_revoke(
    key: Annotated[str, typer.Argument(help="The key's id.")], json: Json = False
) -> None:
    """Take a key out of use, with every token issued for it."""
    from headrace.cli.jobs import remove

    remove("keys", key, as_json=json)


@triggers.command("list")
def triggers_list(json: Json = False) -> None:
    """List triggers, and why the last look of one came to nothing."""
    from headrace.cli.jobs import listed

    columns = ("id", "name", "task", "job", "afterTask", "afterJob", "source", "every", "problem")
    listed("triggers", columns, as_json=json, paged=False)


@triggers.command("add")
def triggers_add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    task: Annotated[str | None, typer.Option(help="Task to start.")] = None,
    job: Annotated[str | None, typer.Option(help="Or job to start.")] = None,
    mode: Mode | None = None,
    after_task: Annotated[str | None, typer.Option(help="After this task has succeeded.")] = None,
    after_job: Annotated[str | None, typer.Option(help="After this job has succeeded.")] = None,
    source: Annotated[str | None, typer.Option(help="When files of this source have come.")] = None,
    every: Annotated[int, typer.Option(help="Seconds between two looks at the source.")] = 60,
    json: Json = False,
) -> None:
    """Make a trigger: one of --task and --job, and one of --after-task, --after-job, --source."""
    from headrace.cli.jobs import add_trigger

    add_trigger(
        name, {"task": task, "job": job, "afterTask": after_task, "afterJob": after_job,
               "source": source}, mode=mode, every=every, as_json=json,
    )  # fmt: skip


@triggers.command("remove")
def triggers_remove(
    trigger: Annotated[str, typer.Argument(help="The trigger's id.")], json: Json = False
) -> None:
    """Remove a trigger: it starts nothing from now on."""
    from headrace.cli.jobs import remove

    remove("triggers", trigger, as_json=json)


LimitName = Annotated[str, typer.Argument(help="source:ID, destination:ID, pool:ID, server …")]


@limits.command("list")
def limits_list(json: Json = False) -> None:
    """List the limits that were set; without one: 8 a source and destination, 100 a tenant."""
    from headrace.cli.jobs import listed

    listed("limits", ("name", "runs", "perMinute"), as_json=json, paged=False)


@limits.command("set")
def limits_set(
    name: LimitName,
    runs: Annotated[int | None, typer.Option(help="Runs at a time.")] = None,
    per_minute: Annotated[int | None, typer.Option(help="Starts in a minute.")] = None,
    json: Json = False,
) -> None:
    """Set a limit."""
    from headrace.cli.jobs import set_limit

    set_limit(name, runs, per_minute, as_json=json)


@limits.command("remove")
def limits_remove(name: LimitName, json: Json = False) -> None:
    """Remove a limit: that of its kind counts, or what is usual."""
    from headrace.cli.jobs import remove

    remove("limits", name, as_json=json)


@app.command()
def servers(json: Json = False) -> None:
    """List the servers over one store."""
    from headrace.cli.jobs import listed

    columns = ("id", "name", "url", "roles", "version", "alive", "startedAt", "seenAt")
    listed("servers", columns, as_json=json, paged=False)


DataDir = Annotated[Path, typer.Option(help="The server's data folder.")]


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="File to write, e.g. headrace.tar.gz.")],
    data_dir: DataDir = Path("headrace-data"),
    json: Json = False,
) -> None:
    """Back up the embedded store, with its keys, indexes and rejected rows, also while it serves.

    What loads have written to files/ and lake/ is not in it.
    """
    from headrace.cli.keeping import backup as run

    run(data_dir, file, as_json=json)


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A file that `headrace backup` wrote.")],
    data_dir: DataDir = Path("headrace-data"),
    json: Json = False,
) -> None:
    """Make a data folder of a backup; the folder must not hold a store."""
    from headrace.cli.keeping import restore as run

    run(file, data_dir, as_json=json)


@app.command()
def migrate(
    data_dir: DataDir = Path("headrace-data"),
    database: Annotated[str | None, typer.Option(help="postgresql+psycopg://…, if not SQLite.")] = (
        None
    ),
    json: Json = False,
) -> None:
    """Bring a store to this version's tables, before its servers are replaced; safe to repeat."""
    from headrace.cli.keeping import migrate as run
    from headrace.settings import from_env

    run(from_env(data_dir=data_dir, database=database).database_url, as_json=json)


def main() -> None:
    """Run the command line; every error becomes a sentence and an exit code."""
    try:
        app()
    except HeadraceError as error:
        from headrace.cli import show

        show.fail(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # a traceback never reaches a user
        if os.environ.get("HEADRACE_DEBUG"):
            raise
        from headrace.cli import show

        show.fail(
            HeadraceError(
                f"Something unexpected happened: {type(error).__name__}: {error}"[:500],
                hint="This is a bug in headrace. HEADRACE_DEBUG=1 shows where; please report it.",
            ),
            as_json="--json" in sys.argv,
        )
        sys.exit(1)
