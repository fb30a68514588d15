"""Who is calling, and in which tenant."""

from dataclasses import dataclass
from enum import StrEnum

from headrace.domain.clock import Millis
from headrace.domain.ids import KeyId, TenantId


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


class Permission(StrEnum):
    """What a key may do with a pool that is not open to all; who may manage may view."""

    VIEW = "view"
    MANAGE = "manage"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An isolated workspace; `name` is what dialects call application or team."""

    id: TenantId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The holder of a key. `key` is a short name for logs, never the key itself.

    `scopes`: what a token was issued for; none of them: whatever the role may do. `via` tells the
    door that the caller came by, for the audit log.
    """

    tenant: Tenant
    role: Role
    key: str
    key_id: KeyId
    scopes: frozenset[str] = frozenset()
    via: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a tenant, as it may be shown: the key itself is kept nowhere."""

    id: KeyId
    name: str
    role: Role
    created_at: Millis
    revoked_at: Millis | None
