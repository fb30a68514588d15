"""Pools: groups of jobs, and who may see or manage them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from headrace.domain.errors import Conflict, Denied, Invalid, NotFound
from headrace.domain.ids import DestinationId, KeyId, PoolId, is_id, new_id
from headrace.domain.job import Pool
from headrace.domain.principal import Permission, Principal, Role
from headrace.domain.resources import Destination
from headrace.service.access import need
from headrace.store import access, audit, jobs, resources, uploads
from headrace.store.database import Database, Tx
from headrace.store.paging import Window

NAME_MAX: Final = 400
HUNDRED: Final = Window(100)


class Pools:
    """Pools of every tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, caller: Principal, name: str, **given: Any) -> Pool:
        """Make a pool; `given` as `change` takes it."""
        with self._database.begin() as tx:
            thing = Pool(
                id=PoolId(new_id()), tenant=caller.tenant.id, name=named(name),
                created_at=tx.now, updated_at=tx.now, **_checked(tx, caller, given),
            )  # fmt: skip
            jobs.add_pool(tx, thing)
            audit.add(tx, caller, "pool.added", thing.id)
        return thing

    def get(self, caller: Principal, id_: str) -> Pool:
        """Return a pool. Raises NotFound, Denied."""
        with self._database.read() as tx:
            return of(tx, caller, id_, Permission.VIEW)

    def listed(self, caller: Principal, window: Window = HUNDRED) -> tuple[list[Pool], int]:
        """Return one page of the pools that the caller may see, and how many there are."""
        with self._database.read() as tx:
            return jobs.pools(tx, caller.tenant.id, window, hidden(tx, caller))

    def change(self, caller: Principal, id_: str, **given: Any) -> Pool:
        """Change a pool's name, its destination, or (as an admin) its permissions."""
        with self._database.begin() as tx:
            old = of(tx, caller, id_, Permission.MANAGE)
            moves = given.get("destination", old.destination) != old.destination
            if moves and uploads.has_tables(tx, old.id):
                raise Conflict("The pool has tables in its destination already.")
            if "name" in given:
                named(given["name"])
            new = replace(old, updated_at=tx.now, **_checked(tx, caller, given))
            jobs.change_pool(tx, new)
            audit.add(tx, caller, "pool.changed", new.id)
        return new

    def remove(self, caller: Principal, id_: str) -> None:
        """Remove a pool without jobs and tables. Raises Conflict for another."""
        with self._database.begin() as tx:
            thing = of(tx, caller, id_, Permission.MANAGE)
            found, _ = jobs.listed(tx, thing.tenant, thing.id, Window(1))
            if found:
                raise Conflict(
                    f"The pool holds the job {found[0].id}.", hint="Remove its jobs first."
                )
            if uploads.has_any(tx, thing.id):
                raise Conflict("Tables have been uploaded to the pool.", hint="Rename it instead.")
            jobs.remove_pool(tx, thing.id)
            audit.add(tx, caller, "pool.removed", thing.id)


def of(tx: Tx, caller: Principal, id_: str, permission: Permission) -> Pool:
    """Return a pool if the caller may do that with it. Raises NotFound, Denied."""
    found = jobs.find_pool(tx, caller.tenant.id, id_) if is_id(id_) else None
    if found is None:
        raise NotFound(f"cannot find pool {id_[:80]}")
    if not _may(caller, found, permission):
        raise Denied(f"The key {caller.key!r} may not {permission} the pool {found.name!r}.")
    return found


def _may(caller: Principal, pool: Pool, permission: Permission) -> bool:
    if caller.role is Role.ADMIN or pool.permissions is None:
        return True
    return pool.permissions.get(caller.key_id) in (permission, Permission.MANAGE)


def hidden(tx: Tx, caller: Principal) -> list[PoolId]:
    """Return the pools that a caller may not see."""
    if caller.role is Role.ADMIN:
        return []
    found = jobs.restricted_pools(tx, caller.tenant.id)
    return [pool.id for pool in found if not _may(caller, pool, Permission.VIEW)]


def _checked(tx: Tx, caller: Principal, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a pool that were given, checked. Raises Invalid, Denied."""
    found = dict(given)
    if "permissions" in found:
        need(caller, Role.ADMIN)
        found["permissions"] = _permissions(tx, caller, found["permissions"])
    if (end := found.get("destination")) is not None:
        if not is_id(end) or resources.find(tx, Destination, caller.tenant.id, end) is None:
            raise Invalid(f"cannot find destination {end[:80]}", field="destination")
        found["destination"] = DestinationId(end)
    return found


def _permissions(
    tx: Tx, caller: Principal, given: Mapping[str, Permission] | None
) -> dict[KeyId, Permission] | None:
    if given is None:
        return None
    known = {key.id for key in access.listed(tx, caller.tenant.id)}
    for id_ in given:
        if id_ not in known:
            raise Invalid(f"cannot find key {id_[:80]}", field=f"permissions.{id_[:80]}")
    return {KeyId(id_): Permission(permission) for id_, permission in given.items()}


def named(name: str) -> str:
    """Return a name that a pool or job may have. Raises Invalid."""
    if not name.strip() or len(name) > NAME_MAX:
        raise Invalid(f"name must have 1 to {NAME_MAX} characters.", field="name")
    return name
