"""What source and destination of PostgreSQL share: connecting past the guard, and its errors."""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

import psycopg
from psycopg import conninfo, errors

from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Misconfigured, Refused, Unavailable
from headrace.domain.secret import Secret

CONNECT_S: Final = 10

Connection = psycopg.Connection[tuple[Any, ...]]


def connect(url: Secret, tools: Tools) -> Connection:
    """Connect to a database. Raises Misconfigured, Denied, and what `told` translates."""
    try:
        parts: dict[str, Any] = conninfo.conninfo_to_dict(url.reveal())
    except psycopg.ProgrammingError as error:
        raise Misconfigured("input.url is not a PostgreSQL URL.", field="input.url") from error
    host = str(parts.get("host") or "localhost")
    if not host.startswith("/"):  # a socket in a folder needs no guard
        parts["hostaddr"] = tools.guard_host(host, int(parts.get("port") or 5432))
        parts["host"] = host
    parts.setdefault("connect_timeout", CONNECT_S)
    parts.setdefault("application_name", "headrace")
    parts |= {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
    return psycopg.connect(**parts)


@contextlib.contextmanager
def told(end: str = "destination") -> Iterator[None]:
    """Translate what the driver says; `end`: which end of the run it speaks of."""
    try:
        yield
    except HeadraceError:
        raise
    except (errors.DiskFull, errors.InsufficientPrivilege, errors.InvalidSchemaName) as error:
        raise Refused(f"PostgreSQL refused: {line_of(error)}") from error
    except (errors.InvalidPassword, errors.InvalidAuthorizationSpecification) as error:
        raise Refused(f"PostgreSQL refused: {line_of(error)}", field="input.url") from error
    except (
        errors.ProgramLimitExceeded,
        errors.TooManyColumns,
        errors.StatementTooComplex,
    ) as error:
        raise Refused(
            f"PostgreSQL refused: {line_of(error)}", hint="Load fewer columns, or shorter keys."
        ) from error
    except errors.InvalidCatalogName as error:
        raise Refused(f"PostgreSQL refused: {line_of(error)}", field="input.url") from error
    except psycopg.OperationalError as error:
        text = line_of(error)
        if "authentication failed" in text or ("database" in text and "does not exist" in text):
            raise Refused(f"PostgreSQL refused: {text}", field="input.url") from error
        raise Unavailable(f"PostgreSQL does not answer: {text}", end=end) from error
    except psycopg.Error as error:
        raise Refused(f"PostgreSQL refused: {line_of(error)}") from error


def line_of(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error).splitlines()[0] if str(error) else "")[:300]
