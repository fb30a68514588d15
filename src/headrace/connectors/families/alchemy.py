"""Databases by SQLAlchemy: an engine for a URL, past the guard, whichever driver is installed."""

import re
from typing import Final

import sqlalchemy as sa

from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured
from headrace.domain.secret import Secret

OWN: Final = {"mysql": "mysql", "mariadb": "mysql", "sqlite": "sqlite", "duckdb": "duckdb"}
PORTS: Final = {"postgresql": 5432, "mssql": 1433, "oracle": 1521, "redshift": 5439}
# A driver's other settings may name files, sockets and libraries of this machine.
SETTINGS: Final = frozenset(
    {
        "application_name", "catalog", "charset", "driver", "encrypt", "http_scheme", "schema",
        "service_name", "sslmode", "trustservercertificate", "warehouse", "role",
    }
)  # fmt: skip
_PLAIN: Final = re.compile(r"[\w .{}()\-]*")
SERIALIZES: Final = frozenset({"postgresql", "mssql", "oracle"})


def engine_of(url: Secret, tools: Tools) -> sa.Engine:
    """Make an engine for a URL. Raises Misconfigured, Denied."""
    try:
        parts = sa.make_url(url.reveal())
    except (sa.exc.ArgumentError, ValueError) as error:
        raise Misconfigured(
            "input.url is no URL of a database.",
            hint="dialect+driver://user:password@host:port/database", field="input.url",
        ) from error  # fmt: skip
    kind = parts.get_backend_name()
    if kind in OWN:
        raise Misconfigured(
            f"{kind} has a connector of its own.", hint=f"Use the type {OWN[kind]}.",
            field="input.url",
        )  # fmt: skip
    if not parts.host:
        raise Misconfigured("input.url names no host.", field="input.url")
    for name, value in parts.query.items():
        plain = isinstance(value, str) and _PLAIN.fullmatch(value)
        if name.lower() not in SETTINGS or not plain:
            raise Misconfigured(
                f"input.url may not set {name!r}.",
                hint=f"It may set {', '.join(sorted(SETTINGS))}.", field="input.url",
            )  # fmt: skip
    address = tools.guard_host(parts.host, parts.port or PORTS.get(kind, 443))
    more = {"isolation_level": "SERIALIZABLE"} if kind in SERIALIZES else {}
    try:
        return sa.create_engine(parts.set(host=address), poolclass=sa.NullPool, **more)
    except sa.exc.NoSuchModuleError as error:
        raise Misconfigured(
            f"There is no SQLAlchemy dialect for {parts.drivername}.",
            hint="Install the package that brings it beside headrace.", field="input.url",
        ) from error  # fmt: skip
    except ImportError as error:
        raise Misconfigured(
            f"The driver of {parts.drivername} is not installed: {error.name}.",
            hint=f"pip install {error.name}, beside headrace.", field="input.url",
        ) from error  # fmt: skip
