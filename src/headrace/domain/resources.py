"""Authentications, sources and destinations: what people fill in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.domain.clock import Millis
from headrace.domain.ids import AuthenticationId, DestinationId, SourceId, TenantId

Settings: TypeAlias = Mapping[
    str, Any
]  # Any: JSON as it was given, checked by the connector's spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Authentication:
    """Sealed credentials. `input` holds the members that may be shown, None for each secret."""

    id: AuthenticationId
    tenant: TenantId
    type: str
    name: str
    platform: str | None
    input: Settings
    created_at: Millis
    updated_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A source connector with its settings filled in."""

    id: SourceId
    tenant: TenantId
    type: str
    name: str
    input: Settings
    authentication: AuthenticationId | None
    created_at: Millis
    updated_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A destination connector with its settings filled in."""

    id: DestinationId
    tenant: TenantId
    type: str
    name: str
    input: Settings
    authentication: AuthenticationId | None
    created_at: Millis
    updated_at: Millis
