"""Who may call: keys and tokens to principals, roles to deeds."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from headrace.domain.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from headrace.domain.ids import is_id
from headrace.domain.principal import Key, Principal, Role, Tenant
from headrace.security import keys
from headrace.security.tokens import Tokens
from headrace.security.vault import Vault
from headrace.store import access, audit
from headrace.store.database import Database

RANK: Final = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
ADMIN_KEY: Final = "admin"
NAME_MAX: Final = 200
KNOWN_MAX: Final = 1024
KNOWN_S: Final = 5.0  # seconds for which a key is believed without looking: it may be revoked


class Access:
    """Keys of all tenants."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._pepper = vault.pepper
        self._tokens = Tokens(vault.signing)
        self._known: dict[bytes | str, tuple[Principal, float]] = {}

    def principal(self, given: str) -> Principal:
        """Return who holds a key, or the token of one. Raises Unauthenticated."""
        if (claims := self._tokens.read(given)) is None:
            return self._holder(keys.hashed(given, self._pepper))
        return replace(self._holder(claims.key), scopes=claims.scopes)

    def _holder(self, key: bytes | str) -> Principal:
        """Return who holds the key with that hash, or that id."""
        now = time.monotonic()
        known = self._known.get(key)
        if known is not None and known[1] > now:
            return known[0]
        with self._database.read() as tx:
            if isinstance(key, bytes):
                found = access.principal(tx, hash_=key)
            else:
                found = access.principal(tx, key_id=key)
        if found is None:
            self._known.pop(key, None)
            raise Unauthenticated(
                "The API key is not valid.", hint="Send the key that `headrace serve` printed."
            )
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[key] = found, now + KNOWN_S
        return found

    def token(self, secret: str, scopes: Iterable[str], seconds: int) -> str:
        """Return a token for a client whose secret is one of the keys. Raises Unauthenticated."""
        owner = self._holder(keys.hashed(secret, self._pepper))
        return self._tokens.issue(owner.key_id, owner.tenant.name, scopes, seconds)

    def token_of(self, caller: Principal, seconds: int) -> str:
        """Return a token with which another server takes this one for the caller."""
        return self._tokens.issue(caller.key_id, caller.tenant.name, caller.scopes, seconds)

    def first_start(self, given: str) -> tuple[Tenant, str | None]:
        """Make tenant and admin key; return the key if it was made now, to be shown once.

        With `given` (HEADRACE_ADMIN_KEY) that is the one admin key from now on.
        """
        with self._database.begin() as tx:
            tenant = access.ensure_tenant(tx, "default")
            if given:
                hash_ = keys.hashed(given, self._pepper)
                access.revoke_others(tx, tenant, ADMIN_KEY, hash_)
                access.add_key(tx, tenant.id, ADMIN_KEY, hash_, Role.ADMIN)
                return tenant, None
            if access.has_key(tx, tenant, ADMIN_KEY):
                return tenant, None
            made = keys.new_key()
            access.add_key(tx, tenant.id, ADMIN_KEY, keys.hashed(made, self._pepper), Role.ADMIN)
            return tenant, made

    def add_tenant(self, name: str, key: str) -> Tenant:
        """Make another tenant with an admin key of its own."""
        with self._database.begin() as tx:
            tenant = access.ensure_tenant(tx, name)
            access.add_key(tx, tenant.id, ADMIN_KEY, keys.hashed(key, self._pepper), Role.ADMIN)
        return tenant

    # Keys, as an admin manages them.

    def add_key(self, caller: Principal, name: str, role: Role) -> tuple[Key, str]:
        """Make a key for the caller's tenant; return it, and the key itself, to be shown once."""
        need(caller, Role.ADMIN)
        if not name.strip() or len(name) > NAME_MAX or name == ADMIN_KEY:
            raise Invalid(
                f"name must have 1 to {NAME_MAX} characters, and not be {ADMIN_KEY!r}.",
                field="name",
            )
        secret = keys.new_key()
        with self._database.begin() as tx:
            hash_ = keys.hashed(secret, self._pepper)
            made = access.add_key(tx, caller.tenant.id, name, hash_, role)
            assert made is not None  # 160 random bits
            audit.add(tx, caller, "key.added", made.id)
        return made, secret

    def keys(self, caller: Principal) -> Sequence[Key]:
        """Return the tenant's keys, the revoked ones too."""
        need(caller, Role.ADMIN)
        with self._database.read() as tx:
            return access.listed(tx, caller.tenant.id)

    def revoke_key(self, caller: Principal, id_: str) -> Key:
        """Take a key out of use: at once here, within seconds on other servers. Repeatable."""
        need(caller, Role.ADMIN)
        with self._database.begin() as tx:
            found = access.find(tx, caller.tenant.id, id_) if is_id(id_) else None
            if found is None:
                raise NotFound(f"cannot find key {id_[:80]}")
            if found.id == caller.key_id or found.name == ADMIN_KEY:
                raise Conflict(
                    "The key that you call with, and the admin key, cannot be revoked.",
                    hint="HEADRACE_ADMIN_KEY sets another admin key.",
                )
            access.revoke(tx, found.id)
            audit.add(tx, caller, "key.revoked", found.id)
            found = access.find(tx, caller.tenant.id, id_)
            assert found is not None  # it was found above
        self._known.clear()
        return found


def need(principal: Principal, role: Role) -> None:
    """Raise Denied unless the principal's role is at least `role`."""
    if RANK[principal.role] < RANK[role]:
        raise Denied(f"This needs the role {role}; the key has {principal.role}.")
