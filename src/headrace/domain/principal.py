"""Who is calling, and in which tenant."""

from dataclasses import dataclass
from enum import StrEnum

from headrace.domain.ids import TenantId


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """An isolated workspace; `name` is what dialects call application or team."""

    id: TenantId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The holder of a key. `key` is a short name for logs, never the key itself."""

    tenant: Tenant
    role: Role
    key: str
