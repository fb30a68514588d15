"""Authentications, sources, destinations, transformations and tasks: kept, found, removed.

Every look-up is by tenant: another tenant's id is not there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from headrace.domain.ids import (
    AuthenticationId,
    DestinationId,
    SourceId,
    TaskId,
    TenantId,
    TransformationId,
    is_id,
)
from headrace.domain.resources import Authentication, Destination, Source, Transformation
from headrace.domain.shape import Shape
from headrace.domain.task import Action, Task, TriggerType
from headrace.store import tables, timing
from headrace.store.database import MOST, NOW, Tx, among
from headrace.store.limits import not_paused
from headrace.store.paging import Listing, Order, Window, listing, page

T = TypeVar("T", Authentication, Source, Destination, Transformation, Task)
AnyRow = Any  # a row of SQLAlchemy's

TABLES: Final[dict[type, sa.Table]] = {
    Authentication: tables.authentication,
    Source: tables.source,
    Destination: tables.destination,
    Transformation: tables.transformation,
    Task: tables.task,
}
# What must not be removed while something points at it.
USERS: Final[dict[type, Sequence[sa.Column[Any]]]] = {
    Authentication: (tables.source.c.authentication, tables.destination.c.authentication),
    Source: (tables.task.c.source, tables.trigger.c.source),
    Destination: (tables.task.c.destination, tables.pool.c.destination),
    Transformation: (),
    Task: (),
}
# The same, where ids are kept in a list.
LISTS: Final[dict[type, sa.Column[Any]]] = {
    Authentication: tables.transformation.c.authentications,
    Transformation: tables.destination.c.transformations,
    Task: tables.job.c.steps,
}


IDS_AT_ONCE: Final = 500  # in one statement
# Filters that are no column of the table.
FILTERS: Final[dict[str, Callable[[Any], sa.ColumnElement[bool]]]] = {
    "transformation": lambda id_: _holds(tables.destination.c.transformations, id_),
    "source_type": lambda type_: tables.task.c.source.in_(
        sa.select(tables.source.c.id).where(tables.source.c.type == type_)
    ),
    "mails": lambda wanted: (
        sa.func.coalesce(
            tables.task.c.extra[("notifications", "email", "enabled")].as_boolean(), sa.false()
        )
        == wanted
    ),
}


def add(tx: Tx, thing: T, sealed: bytes | None = None) -> None:
    """Keep a new thing."""
    table = TABLES[type(thing)]
    values = _values(thing)
    if "sealed" in table.c:
        values["sealed"] = sealed
    tx.add(table, **values)


def change(tx: Tx, thing: T, sealed: bytes | None = None) -> None:
    """Keep a changed thing; `sealed` None leaves what is sealed."""
    table = TABLES[type(thing)]
    values = _values(thing)
    if sealed is not None:
        values["sealed"] = sealed
    tx.change(table, {"id": thing.id}, **values)


def remove(tx: Tx, kind: type[T], id_: str) -> None:
    tx.remove(TABLES[kind], id=id_)


def user_of(tx: Tx, kind: type[T], id_: str) -> tuple[str, str] | None:
    """Return what kind of thing still points at this one, and its id."""
    for column in USERS[kind]:
        if found := tx.get(column.table.c.id, **{column.name: id_}):
            return str(column.table.name), found.id
    if (listed_in := LISTS.get(kind)) is not None:
        query = sa.select(listed_in.table.c.id).where(_holds(listed_in, id_)).limit(1)
        if found := tx.first(query):
            return str(listed_in.table.name), found.id
    return None


def _holds(column: sa.Column[Any], id_: str) -> sa.ColumnElement[bool]:
    """Return SQL that is true where a JSON list of ids holds one."""
    return sa.cast(column, sa.Text).contains(f'"{id_}"', autoescape=True)


def find(tx: Tx, kind: type[T], tenant: TenantId, id_: str) -> T | None:
    """Return one thing of this tenant."""
    found = tx.get(TABLES[kind], id=id_, tenant=tenant)
    return None if found is None else made(kind, found)


# Not FOR UPDATE: a change of a run looks at its task by the foreign key, and would wait.
_LOCKED_TASK: Final = (
    sa.select(tables.task)
    .where(
        tables.task.c.id == sa.bindparam("of"), tables.task.c.tenant == sa.bindparam("of_tenant")
    )
    .with_for_update(key_share=True)
)  # fmt: skip


def locked_task(tx: Tx, tenant: TenantId, id_: str) -> Task | None:
    """Return a task that nobody else changes or starts until this transaction ends."""
    found = tx.first(_LOCKED_TASK, of=id_, of_tenant=tenant)
    return None if found is None else made(Task, found)


_DUE: Final = (
    sa.select(tables.task)
    .where(
        tables.task.c.next_run <= NOW, tables.task.c.enabled.is_(True),
        not_paused({"task": tables.task.c.id, "tenant": tables.task.c.tenant}),
    )
    .order_by(tables.task.c.next_run)
    .limit(MOST)
    # Others that tick meanwhile find other tasks.
    .with_for_update(key_share=True, skip_locked=True, of=tables.task)
)  # fmt: skip


def due_tasks(tx: Tx, limit: int) -> list[Task]:
    """Return enabled tasks whose schedule is due, unless they or their tenants are paused."""
    return [made(Task, row) for row in tx.all(_DUE, now=tx.now, most=limit)]


_MOVE: Final = sa.update(tables.task).where(tables.task.c.id == sa.bindparam("of"))


def move_schedules(tx: Tx, moments: Mapping[str, int]) -> None:
    """Set the next moments of tasks that `due_tasks` has given to this transaction."""
    tx.con.execute(_MOVE, [{"of": id_, "next_run": at} for id_, at in moments.items()])


def hosts_of_index(tx: Tx, tenant: TenantId, index: str) -> set[str]:
    """Return the servers on whose disks lie the destinations of an embedded index."""
    table = tables.destination
    query = sa.select(table.c.host).where(
        table.c.tenant == tenant, table.c.type == "search", table.c.host.is_not(None),
        table.c.input["indexName"].as_string() == index,
    )  # fmt: skip
    return {row.host for row in tx.all(query)}


def forgive(tx: Tx, id_: str) -> None:
    """Forget the critical failures in a row that a task has had."""
    tx.change(tables.task, {"id": id_}, criticals=0)


def sealed(tx: Tx, kind: type, id_: str) -> bytes | None:
    """Return what is sealed of a thing."""
    found = tx.get(TABLES[kind].c.sealed, id=id_)
    return None if found is None else found.sealed


def listed(
    tx: Tx, kind: type[T], tenant: TenantId, where: Mapping[str, Sequence[Any]], order: Order,
    window: Window,
) -> tuple[list[T], int]:  # fmt: skip
    """Return one page of things and how many there are. `where` maps columns to allowed values."""
    plain = {name: values for name, values in where.items() if name not in FILTERS}
    found = _listed(
        TABLES[kind], tuple((name, None in values) for name, values in plain.items()), order
    )
    for name in where.keys() & FILTERS.keys():
        found = found.where(sa.or_(*(FILTERS[name](value) for value in where[name])))
    known: dict[str, Any] = {
        f"some_{name}": [value for value in values if value is not None]
        for name, values in plain.items()
    }
    rows, total = page(tx, found, window, of_tenant=tenant, **known)
    return [made(kind, row) for row in rows], total


@cache
def _listed(table: sa.Table, tests: tuple[tuple[str, bool], ...], order: Order) -> Listing:
    """Return the listing of a table. `tests`: columns, and whether they may be NULL."""
    query = sa.select(table).where(table.c.tenant == sa.bindparam("of_tenant"))
    for name, or_null in tests:
        column = table.c[name]
        test = among(column, f"some_{name}")
        query = query.where(sa.or_(test, column.is_(None)) if or_null else test)
    return listing(query, table, order)


def some(tx: Tx, kind: type[T], tenant: TenantId, ids: Sequence[str]) -> list[T]:
    """Return those of the things named that are there."""
    known = [id_ for id_ in dict.fromkeys(ids) if is_id(id_)]
    found: list[T] = []
    for start in range(0, len(known), IDS_AT_ONCE):
        some_of = known[start : start + IDS_AT_ONCE]
        rows = tx.all(_some(TABLES[kind]), of_tenant=tenant, ids=some_of)
        found += [made(kind, row) for row in rows]
    return found


@cache
def _some(table: sa.Table) -> sa.Select[Any]:
    return sa.select(table).where(
        table.c.tenant == sa.bindparam("of_tenant"), among(table.c.id, "ids")
    )


def _values(thing: T) -> dict[str, Any]:
    common = {
        "id": thing.id, "tenant": thing.tenant, "name": thing.name,
        "created_at": thing.created_at, "updated_at": thing.updated_at,
    }  # fmt: skip
    match thing:
        case Authentication():
            return common | {
                "type": thing.type, "platform": thing.platform, "input": dict(thing.input),
            }  # fmt: skip
        case Task():
            return common | {
                "source": thing.source, "destination": thing.destination, "action": thing.action,
                "trigger": thing.trigger, "enabled": thing.enabled,
                "failure_threshold": thing.failure_threshold, "table_name": thing.table,
                "key_columns": list(thing.key), "extra": dict(thing.extra), "cron": thing.cron,
                "timing": timing.kept(thing.timing), "next_run": thing.next_run,
                "priority": thing.priority, "blocked": thing.blocked,
                "shape": thing.shape.as_dict(), "deletes": thing.deletes,
            }  # fmt: skip
        case Transformation():
            return common | {
                "type": thing.type, "description": thing.description, "input": dict(thing.input),
                "authentications": list(thing.authentications),
            }  # fmt: skip
        case Destination():
            return common | {
                "type": thing.type, "input": dict(thing.input),
                "authentication": thing.authentication, "host": thing.host,
                "transformations": list(thing.transformations),
            }  # fmt: skip
        case _:
            return common | {
                "type": thing.type, "input": dict(thing.input),
                "authentication": thing.authentication, "host": thing.host,
            }  # fmt: skip


def made(kind: type[T], row: AnyRow) -> T:
    """Make the domain's value of a row."""
    common = {
        "tenant": TenantId(row.tenant), "name": row.name, "created_at": row.created_at,
        "updated_at": row.updated_at,
    }  # fmt: skip
    thing: Any
    if kind is Task:
        thing = Task(
            id=TaskId(row.id), source=SourceId(row.source),
            destination=DestinationId(row.destination), action=Action(row.action),
            trigger=TriggerType(row.trigger), enabled=row.enabled,
            failure_threshold=row.failure_threshold, table=row.table_name,
            key=tuple(row.key_columns), extra=row.extra, cron=row.cron, next_run=row.next_run,
            timing=timing.made(row.timing), blocked=row.blocked, priority=row.priority,
            shape=Shape.from_dict(row.shape), deletes=row.deletes,
            **common,
        )  # fmt: skip
    elif kind is Transformation:
        thing = Transformation(
            id=TransformationId(row.id), type=row.type, description=row.description,
            input=row.input, authentications=tuple(row.authentications), **common,
        )  # fmt: skip
    elif kind is Destination:
        thing = Destination(
            id=DestinationId(row.id), type=row.type, input=row.input,
            authentication=row.authentication, transformations=tuple(row.transformations),
            host=row.host, **common,
        )  # fmt: skip
    elif kind is Authentication:
        thing = Authentication(
            id=AuthenticationId(row.id), type=row.type, platform=row.platform, input=row.input,
            **common,
        )  # fmt: skip
    else:
        thing = Source(
            id=SourceId(row.id), type=row.type, input=row.input,
            authentication=row.authentication, host=row.host, **common,
        )  # fmt: skip
    return thing  # type: ignore[no-any-return]  # of the kind asked for
