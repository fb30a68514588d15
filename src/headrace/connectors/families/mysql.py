"""What source and destination of MySQL and MariaDB share: connecting past the guard, its errors."""

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql
from pymysql.constants import CLIENT, CR, ER

from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Misconfigured, Refused, Unavailable
from headrace.domain.secret import Secret

CONNECT_S: Final = 10
SILENT_S: Final = 600  # a query may work for long before its first row
MODES: Final = ("disabled", "preferred", "required", "verify-identity")
REFUSALS: Final = frozenset(
    {
        ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.BAD_DB_ERROR, ER.NO_SUCH_TABLE,
        ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR,
    }
)  # fmt: skip

Connection = Any  # pymysql's, whose types nobody wrote down


def connect(url: Secret, tools: Tools, *, converts: bool = False) -> Connection:
    """Connect past the guard. Raises Misconfigured, Denied, and what `told` translates.

    Values come as texts unless it `converts` them.
    """
    conv: dict[Any, Any] | None = None if converts else {}
    parts = urlsplit(url.reveal())
    database = unquote(parts.path.removeprefix("/"))
    mode = parse_qs(parts.query).get("ssl-mode", ["preferred"])[0].lower().replace("_", "-")
    if not re.fullmatch(r"(mysql|mariadb)(\+\w+)?", parts.scheme) or not parts.hostname:
        raise Misconfigured("input.url is not a MySQL URL.", field="input.url")
    if not database:
        raise Misconfigured("input.url names no database.", field="input.url")
    if mode not in MODES:
        raise Misconfigured(
            f"ssl-mode {mode!r} is not one of {', '.join(MODES)}.", field="input.url"
        )
    if mode == "preferred":
        try:
            return _dialled(parts, database, tools, _context(verify=False), conv)
        except pymysql.err.OperationalError as error:
            if "SSL" not in str(error):
                raise
            return _dialled(parts, database, tools, None, conv)
    context = None if mode == "disabled" else _context(verify=mode == "verify-identity")
    return _dialled(parts, database, tools, context, conv)


def _context(*, verify: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _dialled(
    parts: Any,
    database: str,
    tools: Tools,
    context: ssl.SSLContext | None,
    conv: dict[Any, Any] | None,
) -> Connection:  # Any: a split URL
    port = parts.port or 3306
    address = tools.guard_host(parts.hostname, port)
    con = pymysql.connections.Connection(
        host=parts.hostname, port=port, user=unquote(parts.username or ""),
        password=unquote(parts.password or "").encode(), database=database, charset="utf8mb4",
        read_timeout=SILENT_S, write_timeout=CONNECT_S, defer_connect=True, conv=conv,
        ssl=context, ssl_disabled=context is None, program_name="headrace",
        client_flag=CLIENT.FOUND_ROWS, autocommit=None,
    )  # fmt: skip
    sock = socket.create_connection((address, port), CONNECT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    con.connect(sock)
    return con


@contextmanager
def told(end: str = "source") -> Iterator[None]:
    """Translate what the driver says; `end`: which end of the run it speaks of."""
    try:
        yield
    except HeadraceError:
        raise
    except pymysql.err.MySQLError as error:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[-1])[:300] if error.args else "no answer"
        if code in REFUSALS:
            raise Refused(f"MySQL refused: {text}", field="input.url") from error
        if isinstance(error, pymysql.err.OperationalError) and code >= CR.CR_ERROR_FIRST:
            raise Unavailable(f"MySQL does not answer: {text}", end=end) from error
        raise Refused(f"MySQL refused: {text}") from error
    except OSError as error:
        raise Unavailable(f"MySQL does not answer: {error}", end=end) from error
    except ValueError as error:
        raise Unavailable(f"MySQL: {error}", end=end) from error
