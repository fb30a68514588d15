"""Authentications, sources, destinations and transformations: what people fill in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from headrace.domain.clock import Millis
from headrace.domain.ids import (
    AuthenticationId,
    DestinationId,
    ServerId,
    SourceId,
    TenantId,
    TransformationId,
)

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
    host: ServerId | None = None  # the server on whose disk it lies
    created_at: Millis
    updated_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """A destination connector with its settings filled in, and what its records pass through."""

    id: DestinationId
    tenant: TenantId
    type: str
    name: str
    input: Settings
    authentication: AuthenticationId | None
    host: ServerId | None = None  # the server on whose disk it lies
    transformations: tuple[TransformationId, ...] = ()
    created_at: Millis
    updated_at: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformation:
    """Code or steps that every record for a destination passes through.

    `input` is {"code": …} or {"steps": […]}; `authentications` are the secrets that code may read.
    """

    id: TransformationId
    tenant: TenantId
    type: str  # "code" or "noCode"
    name: str
    description: str | None
    input: Settings
    authentications: tuple[AuthenticationId, ...]
    created_at: Millis
    updated_at: Millis
