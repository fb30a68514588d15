"""Who may call: keys to principals, roles to deeds."""

from typing import Final

from headrace.domain.errors import Denied, Unauthenticated
from headrace.domain.principal import Principal, Role, Tenant
from headrace.security import keys
from headrace.store import access
from headrace.store.database import Database

RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
ADMIN_KEY: Final = "admin"
CACHED_MAX: Final = 1024


class Access:
    """Keys of all tenants. Known keys are remembered by their hash until `forget`."""

    def __init__(self, database: Database, pepper: bytes) -> None:
        self._database = database
        self._pepper = pepper
        self._known: dict[bytes, Principal] = {}

    def principal(self, key: str) -> Principal:
        """Return who holds `key`. Raises Unauthenticated."""
        hash_ = keys.hashed(key, self._pepper)
        if found := self._known.get(hash_):
            return found
        with self._database.read() as tx:
            found = access.principal(tx, hash_)
        if found is None:
            raise Unauthenticated(
                "The API key is not valid.", hint="Send the key that `headrace serve` printed."
            )
        if len(self._known) < CACHED_MAX:
            self._known[hash_] = found
        return found

    def first_start(self, given: str) -> tuple[Tenant, str | None]:
        """Make tenant and admin key; return the key if it was made now, to be shown once.

        With `given` (HEADRACE_ADMIN_KEY) that is the one admin key from now on.
        """
        with self._database.begin() as tx:
            tenant = access.ensure_tenant(tx, "default")
            if given:
                hash_ = keys.hashed(given, self._pepper)
                access.revoke_others(tx, tenant, ADMIN_KEY, hash_)
                access.add_key(tx, tenant, ADMIN_KEY, hash_, Role.ADMIN)
                return tenant, None
            if access.has_key(tx, tenant, ADMIN_KEY):
                return tenant, None
            made = keys.new_key()
            hash_ = keys.hashed(made, self._pepper)
            access.add_key(tx, tenant, ADMIN_KEY, hash_, Role.ADMIN)
            return tenant, made

    def add_tenant(self, name: str, key: str) -> Tenant:
        """Make another tenant with an admin key of its own."""
        with self._database.begin() as tx:
            tenant = access.ensure_tenant(tx, name)
            access.add_key(tx, tenant, ADMIN_KEY, keys.hashed(key, self._pepper), Role.ADMIN)
        return tenant

    def add_key(self, tenant: str, name: str, key: str, role: str) -> None:
        """Give a tenant another key, with a role of its own."""
        with self._database.begin() as tx:
            owner = access.ensure_tenant(tx, tenant)
            access.add_key(tx, owner, name, keys.hashed(key, self._pepper), Role(role))


def need(principal: Principal, role: Role) -> None:
    """Raise Denied unless the principal's role is at least `role`."""
    if RANK[principal.role] < RANK[role]:
        raise Denied(f"This needs the role {role}; the key has {principal.role}.")
