"""`headrace pools`, `jobs`, `executions` and `keys`: managed by a server's native API."""

import json
import sys
import time
from typing import Any, Final
from urllib.parse import quote, urlencode

from headrace.cli import show
from headrace.cli.remote import COLOURS, show_logs, told_start
from headrace.client import ENDED, Client
from headrace.domain.errors import HeadraceError, Invalid, NotFound
from headrace.domain.ids import is_id

Json = dict[str, Any]
POLL_S: Final = 0.3
PAGE: Final = 1000
FOR_EVER_S: Final = 31_536_000.0
EVERYTHING: Final = "everything"
NAMED: Final = ("pools", "jobs", "tasks", "sources")  # what may be given by its name


def listed(kind: str, columns: tuple[str, ...], *, query: str = "", limit: int = PAGE,
           as_json: bool, paged: bool = True) -> None:  # fmt: skip
    """Print a list of things: a line a thing."""
    with Client.from_env() as client:
        page = f"?limit={limit}{query}" if paged else ""
        found = client.call("GET", f"/v1/{kind}{page}")["items"]
    if as_json:
        show.print_json(found)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for name in columns:
        table.add_column(_heading(name), justify="right" if name == "percent" else "left")
    for thing in found:
        table.add_row(*(_cell(name, thing.get(name)) for name in columns))
    show.console(err=False).print(table)


def _heading(name: str) -> str:
    return {"queuedAt": "queued", "nextRun": "next run", "createdAt": "made"}.get(name, name)


def _cell(name: str, value: Any) -> str:  # Any: JSON
    from rich.markup import escape

    if name == "state":
        return f"[{COLOURS.get(value, 'default')}]{value}[/]"
    if name == "steps":
        return str(len(value))
    if name == "percent":
        return f"{value} %"
    if value is None:
        return ""
    if name == "roles":
        return ",".join(value)
    text = str(value)
    return escape(text[:19].replace("T", " ") if name.endswith(("At", "Run")) else text)


def named(client: Client, kind: str, given: str) -> str:
    """Return the id of a thing, given by its id or its name. Raises NotFound, Invalid."""
    if is_id(given) or (kind == "jobs" and given == EVERYTHING):
        return given
    things = client.call("GET", f"/v1/{kind}?limit={PAGE}")["items"]
    found = [thing["id"] for thing in things if thing["name"] == given]
    if len(found) > 1:
        raise Invalid(f"Several {kind} are named {given!r}.", hint=f"Say which: {found[:5]}.")
    if not found:
        raise NotFound(f"There is nothing named {given!r} among the {kind}.",
                       hint=f"See them: headrace {kind} list")  # fmt: skip
    return str(found[0])


def done(thing: Json | None, said: str, *, as_json: bool) -> None:
    """Tell that something was done."""
    if as_json:
        show.print_json(thing)
    else:
        show.console().print(said, soft_wrap=True)


def position(
    given: str, *, cursor: str | None, after: str | None, reset: bool, as_json: bool
) -> None:
    """Show how far a task has read, or set it."""
    if sum((cursor is not None, after is not None, reset)) > 1:
        raise Invalid("Give one of --cursor, --after and --reset.", field="--cursor")
    with Client.from_env() as client:
        path = f"/v1/tasks/{named(client, 'tasks', given)}/position"
        if reset:
            client.call("DELETE", path)
        elif cursor is not None:
            column, _, value = cursor.partition("=")
            client.call("PUT", path, {"cursor": {"column": column, "value": value}})
        elif after is not None:
            client.call("PUT", path, {"after": after})
        found = client.call("GET", path)
    if found["cursor"]:
        said = f"read up to {found['cursor']['column']} = {found['cursor']['value']}"
    elif found["files"] is not None:
        since = f", and what has not changed since {found['after']}" if found["after"] else ""
        said = f"read {found['fileCount']:,} files{since}"
    else:
        said = "nothing is read yet: the next run reads everything"
    done(found, said, as_json=as_json)


def verify(given: str, *, repair: bool, by: str | None, buckets: int | None, as_json: bool) -> int:
    """Have a server compare a task's table with its source, and show what it found."""
    with Client.from_env() as client:
        asked = {"repair": "true" if repair else None, "by": by, "buckets": buckets}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        id_ = named(client, "tasks", given)
        run = client.call("POST", f"/v1/tasks/{quote(id_)}/verify?{query}", {})
        ended = client.wait(run["id"], FOR_EVER_S)
        receipt = client.call("GET", f"/v1/runs/{run['id']}/receipt") if ended["books"] else None
    if as_json:
        show.print_json(ended | {"receipt": receipt})
    elif receipt and "verification" in receipt:
        show.print_verification(receipt)
    if ended["error"] and not as_json:
        error = ended["error"]
        show.fail(HeadraceError(error["message"], hint=error.get("hint", "")), as_json=False)
    return int(ended["state"] != "succeeded")


def add_pool(name: str, *, as_json: bool) -> None:
    """Make a pool."""
    with Client.from_env() as client:
        made = client.call("POST", "/v1/pools", {"name": name})
    done(made, f"pool {made['id']}", as_json=as_json)


def rename(kind: str, given: str, name: str, *, as_json: bool) -> None:
    """Give a pool or job another name."""
    with Client.from_env() as client:
        id_ = named(client, kind, given)
        changed = client.call("PATCH", f"/v1/{kind}/{quote(id_)}", {"name": name})
    done(changed, f"{changed['id']} is named {name}", as_json=as_json)


def remove(kind: str, given: str, *, as_json: bool) -> None:
    """Remove a pool or a job, or revoke a key."""
    with Client.from_env() as client:
        id_ = named(client, kind, given) if kind in NAMED else given
        client.call("DELETE", f"/v1/{kind}/{quote(id_, safe='')}")
    done({"id": id_}, f"{id_} is gone", as_json=as_json)


def add_job(
    name: str, tasks: list[str], after: list[str], *, pool: str, mode: str, cron: str | None,
    stop_on_failure: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a job of tasks."""
    pairs = [pair.partition(":") for pair in after]
    for later, _, earlier in pairs:
        if later not in tasks or earlier not in tasks:
            raise Invalid(
                "--after must name two of the tasks.", hint="--after LATER:EARLIER", field="--after"
            )
    with Client.from_env() as client:
        ids = {given: named(client, "tasks", given) for given in tasks}
        steps: dict[str, Json] = {given: {"task": id_, "after": []} for given, id_ in ids.items()}
        for later, _, earlier in pairs:
            steps[later]["after"].append(ids[earlier])
        made = client.call(
            "POST", "/v1/jobs",
            {
                "pool": named(client, "pools", pool), "name": name, "steps": list(steps.values()),
                "mode": mode, "stopOnFailure": stop_on_failure,
            } | ({"cron": cron} if cron else {}),
        )  # fmt: skip
    done(made, f"job {made['id']}", as_json=as_json)


def show_thing(kind: str, given: str, *, as_json: bool) -> None:
    """Show a job, or an execution with its steps."""
    with Client.from_env() as client:
        found = client.call("GET", f"/v1/{kind}/{quote(named(client, kind, given))}")
    if as_json:
        show.print_json(found)
        return
    out = show.console(err=False)
    for name, value in found.items():
        if name != "steps":
            out.print(f"[dim]{_heading(name):>14}[/]  {_cell(name, value)}")
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    columns = ("task", "state", "run") if kind == "executions" else ("task", "after")
    for name in columns:
        table.add_column(name)
    for step in found["steps"]:
        table.add_row(*(
            ", ".join(step[name]) if name == "after" else _cell(name, step[name])
            for name in columns
        ))  # fmt: skip
    out.print(table)


def start_job(given: str, *, mode: str, wait: bool, as_json: bool) -> int:
    """Start a job; with `wait` until it ends. Return the exit code that tells how."""
    with Client.from_env() as client:
        id_ = named(client, "jobs", given)
        found = client.call("POST", f"/v1/jobs/{quote(id_)}/executions?mode={mode}")
        if wait:
            found = _watched(client, found)
    done(found, f"execution {found['id']} is {found['state']}", as_json=as_json)
    return 1 if found["state"] in ("failed", "cancelled") else 0


def follow(given: str, *, as_json: bool) -> int:
    """Watch an execution until it ends. Return the exit code that tells how."""
    with Client.from_env() as client:
        found = _watched(client, client.call("GET", f"/v1/executions/{quote(given, safe='')}"))
    done(found, f"execution {found['id']} is {found['state']}", as_json=as_json)
    return 1 if found["state"] in ("failed", "cancelled") else 0


def _watched(client: Client, found: Json) -> Json:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        console=show.console(), transient=True, disable=not sys.stderr.isatty(),
    )  # fmt: skip
    with bar:
        line = bar.add_task(found["state"], total=100)
        while found["state"] not in ENDED:
            ended = sum(step["state"] in ENDED for step in found["steps"])
            told = f"{found['state']}, {ended} of {len(found['steps'])} tasks"
            bar.update(line, completed=found["percent"], description=told)
            time.sleep(POLL_S)
            found = client.call("GET", f"/v1/executions/{found['id']}")
    return found


def act(deed: str, given: str, *, as_json: bool) -> None:
    """Cancel or retry an execution."""
    with Client.from_env() as client:
        found = client.call("POST", f"/v1/executions/{quote(given, safe='')}/{deed}", {})
    done(found, f"execution {found['id']} is {found['state']}", as_json=as_json)


def pause(deed: str, task: str | None, *, as_json: bool) -> None:
    """Pause or resume a task, or everything."""
    with Client.from_env() as client:
        of = "" if task is None else f"/tasks/{quote(named(client, 'tasks', task))}"
        found = client.call("POST", f"/v1{of}/{deed}", {})
    what = "everything" if task is None else task
    done(found, f"{what} is {'paused' if found['paused'] else 'not paused'}", as_json=as_json)


def add_trigger(
    name: str, given: dict[str, str | None], *, mode: str | None, every: int, as_json: bool
) -> None:
    """Make a trigger; `given`: tasks, jobs and a source by id or name."""
    kinds = {"task": "tasks", "afterTask": "tasks", "job": "jobs", "afterJob": "jobs"}
    with Client.from_env() as client:
        ids = {
            member: named(client, kinds.get(member, "sources"), value)
            for member, value in given.items()
            if value is not None
        }
        body = {"name": name, "every": every} | ids | ({"mode": mode} if mode else {})
        made = client.call("POST", "/v1/triggers", body)
    done(made, f"trigger {made['id']}", as_json=as_json)


def set_limit(name: str, runs: int | None, per_minute: int | None, *, as_json: bool) -> None:
    """Set a limit."""
    with Client.from_env() as client:
        body = {"runs": runs, "perMinute": per_minute}
        made = client.call("PUT", f"/v1/limits/{quote(name, safe=':')}", body)
    told = [f"{runs} at a time"] * (runs is not None)
    told += [f"{per_minute} a minute"] * (per_minute is not None)
    done(made, f"{name}: {', '.join(told) or 'as usual'}", as_json=as_json)


def add_key(name: str, role: str, *, as_json: bool) -> None:
    """Make a key, and print it: it is shown only now."""
    with Client.from_env() as client:
        made = client.call("POST", "/v1/keys", {"name": name, "role": role})
    if as_json:
        sys.stdout.write(json.dumps(made) + "\n")
        return
    show.console().print(f"key {made['id']} ({role}); it is shown only now:")
    sys.stdout.write(f"{made['key']}\n")


def start_run(
    task: str, mode: str | None, since: str | None, until: str | None, *, wait: bool, as_json: bool
) -> int:
    """Start a task; with `wait` until it ends. Return the exit code that tells how."""
    asked = {"mode": mode, "from": since, "to": until}
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    with Client.from_env() as client:
        id_ = named(client, "tasks", task)
        found = client.call("POST", f"/v1/tasks/{quote(id_)}/runs?{query}", {})
        if wait and as_json:
            found = client.wait(found["id"], FOR_EVER_S)
    if wait and not as_json:
        return show_logs(found["id"], follow=True, as_json=False)
    told_start(found, as_json=as_json)
    return 1 if found["state"] in ("failed", "cancelled") else 0
