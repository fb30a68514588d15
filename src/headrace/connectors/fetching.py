"""Bodies by HTTP: every connection and redirect past the guard, into the spool or in parts."""

import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Retry, Timeout, connection

from headrace.contract.tools import Fetched, Tools
from headrace.domain.errors import HeadraceError, Invalid, Refused, TimedOut, Unavailable

T = TypeVar("T")
CHUNK_BYTES: Final = 1 << 20
BODY_BYTES_MAX: Final = 256 << 30
CONNECT_S: Final = 10.0
READ_S: Final = 60.0
TRIES: Final = 5
BACKOFF_S: Final = 0.2
REDIRECTS_MAX: Final = 5
_REDIRECTS_ONLY: Final = Retry(
    total=None, connect=0, read=0, status=0, other=0, redirect=REDIRECTS_MAX
)


@dataclass(frozen=True, slots=True)
class RangedBody:
    """A body of which parts can be asked for."""

    _fetch: "Fetch"
    size: int
    version: str

    def read(self, start: int, end: int) -> bytes:
        """Return some bytes of it."""
        return self._fetch.part(start, end, self.version) if end > start else b""


class Fetch:
    """One body on its way into the spool. What is there already is not asked for again."""

    def __init__(self, tools: Tools, url: str, method: str, headers: dict[str, str]) -> None:
        self._tools = tools
        self._url = url
        parts = urlsplit(url)
        if not parts.hostname:
            raise Invalid(f"The URL {url!r} names no host.", field="input.url")
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        self._method = method
        # A packed copy would break byte positions (notes, HTTP): ask for the file as it is.
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "headrace"} | headers
        self._pool = _guarded_pool(tools.guard_host)
        self._etag = ""
        self._version = ""

    def run(self) -> Fetched | None:
        target = self._tools.spool / f"fetched-{time.monotonic_ns()}"
        content_type = _patiently(lambda: self._once(target))
        if content_type is None:
            return None
        return Fetched(path=target, content_type=content_type, version=self._version)

    def parts(self) -> "RangedBody | None":
        """Ask for one byte, to see whether parts can be had of one state of the body."""
        _, told = self._ranged({"Range": "bytes=0-0"})
        size = told.get("Content-Range", "").rpartition("/")[2]
        etag = told.get("ETag", "")
        if not size.isdecimal() or not etag.startswith('"'):  # a weak one may be of several states
            return None
        return RangedBody(self, int(size), etag)

    def part(self, start: int, end: int, etag: str) -> bytes:
        """Return some bytes of a state of the body, told by its ETag."""
        body, told = self._ranged({"Range": f"bytes={start}-{end - 1}", "If-Match": etag})
        if told.get("ETag") != etag or len(body) != end - start:
            raise Unavailable(
                f"{self._shown} changed while it was read.", hint="It will be read again."
            )
        return body

    def _ranged(self, headers: dict[str, str]) -> tuple[bytes, Mapping[str, str]]:
        """Return what came of a part, and its headers; nothing where it would come whole."""
        return _patiently(lambda: self._ranged_once(headers))

    def _ranged_once(self, headers: dict[str, str]) -> tuple[bytes, Mapping[str, str]]:
        try:
            answer = self._pool.request(
                "GET", self._url, headers=self._headers | headers, preload_content=False,
                redirect=True, retries=_REDIRECTS_ONLY,
                timeout=Timeout(connect=CONNECT_S, read=READ_S),
            )  # fmt: skip
            try:
                if answer.status == 206:  # partial content
                    return answer.read(decode_content=False), answer.headers
                if answer.status not in (200, 412, 416):  # whole, or of another state
                    self._judge(answer.status)
                return b"", {}
            finally:
                answer.close()
        except urllib3.exceptions.MaxRetryError as error:
            raise _told(self._shown, error.reason or error) from error
        except urllib3.exceptions.HTTPError as error:
            raise _told(self._shown, error) from error

    def version(self) -> str | None:
        """Ask for the headers only; return what tells one state of the body from another."""
        try:
            answer = self._pool.request(
                "HEAD", self._url, headers=self._headers, redirect=True, retries=_REDIRECTS_ONLY,
                timeout=Timeout(connect=CONNECT_S, read=CONNECT_S),
            )  # fmt: skip
        except urllib3.exceptions.MaxRetryError as error:
            raise _told(self._shown, error.reason or error) from error
        except urllib3.exceptions.HTTPError as error:
            raise _told(self._shown, error) from error
        if answer.status in (404, 410):
            return None
        self._judge(answer.status)
        told = [answer.headers.get(name, "") for name in ("ETag", "Last-Modified")]
        found = told[0] or told[1] or answer.headers.get("Content-Length", "")
        if not found:
            raise Refused(
                f"{self._shown} does not tell its state: no ETag, date or length.",
                hint="It cannot be watched; use a schedule.", field="input.url",
            )  # fmt: skip
        return found

    def _once(self, target: Path) -> str | None:
        have = target.stat().st_size if target.exists() and self._etag else 0
        ranged = {"Range": f"bytes={have}-", "If-Range": self._etag} if have else {}
        try:
            answer = self._pool.request(
                self._method, self._url, headers=self._headers | ranged, preload_content=False,
                redirect=True,
                retries=_REDIRECTS_ONLY,
                timeout=Timeout(connect=CONNECT_S, read=READ_S),
            )  # fmt: skip
            try:
                if answer.status == 304 and not have:  # not modified
                    return None
                self._judge(answer.status)
                have = have if answer.status == 206 else 0  # partial content
                self._etag = answer.headers.get("ETag", "")
                self._version = self._etag or answer.headers.get("Last-Modified", "")
                self._pour(answer, target, have)
                return answer.headers.get("Content-Type", "")
            finally:
                answer.release_conn()
        except HeadraceError:
            raise
        except urllib3.exceptions.MaxRetryError as error:
            raise _told(self._shown, error.reason or error) from error
        except urllib3.exceptions.HTTPError as error:
            raise _told(self._shown, error) from error

    def _judge(self, status: int) -> None:
        if status in (200, 206):
            return
        if status in (408, 425, 429) or status >= 500:  # try again
            raise Unavailable(
                f"{self._shown} answered {status}.", hint="It may be better in a while."
            )
        hints = {
            401: "It wants a user name and password.", 403: "It does not let us in.",
            404: "Nothing is there: check the URL.", 410: "It is gone for good.",
        }  # fmt: skip
        raise Refused(
            f"{self._shown} answered {status}.",
            hint=hints.get(status, "Check the URL and the method."),
            field="input.url",
        )

    def _pour(self, answer: Any, target: Path, have: int) -> None:  # Any: urllib3's response
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else 0
        with target.open("ab" if have else "wb") as out:
            for chunk in answer.stream(CHUNK_BYTES, decode_content=False):
                have += len(chunk)
                if have > BODY_BYTES_MAX:
                    raise Refused(f"{self._shown} is larger than {BODY_BYTES_MAX:,} bytes.")
                out.write(chunk)
                self._tools.told(f"fetching {self._shown}", done=have, total=total)
        if total and have != total:
            raise Unavailable(f"{self._shown} broke off after {have:,} of {total:,} bytes.")


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again, each time later, while the other end does not answer."""
    wait_s = BACKOFF_S
    for last in range(TRIES - 1, -1, -1):
        try:
            return ask()
        except (Unavailable, TimedOut):
            if not last:
                raise
            time.sleep(wait_s)
            wait_s *= 3
    raise AssertionError


def _told(shown: str, error: BaseException) -> HeadraceError:
    if isinstance(error, HeadraceError):
        return error
    if isinstance(error.__cause__, HeadraceError):
        return error.__cause__
    text = str(error)
    if isinstance(error, urllib3.exceptions.ResponseError):
        return Refused(f"{shown} redirects more than {REDIRECTS_MAX} times.", field="input.url")
    refused = isinstance(error, urllib3.exceptions.NewConnectionError)
    if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
        return TimedOut(f"{shown} did not answer in time.", hint="It will be tried again.")
    if isinstance(error, urllib3.exceptions.SSLError):
        return Refused(f"{shown}: its certificate is not accepted.", field="input.url")
    if isinstance(error, urllib3.exceptions.LocationParseError):
        return Invalid(f"{shown} is not a URL.", field="input.url")
    why = "refused the connection" if "refused" in text.lower() else "cannot be reached"
    return Unavailable(f"{shown} {why}.", hint="Check host and port; is it up?")


def _guarded_pool(address_of: Callable[[str, int], str]) -> urllib3.PoolManager:
    """Make a pool in which every new connection, redirects too, goes past the guard."""

    def dial(conn: Any) -> socket.socket:  # Any: one of urllib3's two connection classes
        try:
            address = address_of(conn.host, conn.port)
            return connection.create_connection((address, conn.port), conn.timeout)
        except TimeoutError as error:
            raise urllib3.exceptions.ConnectTimeoutError(conn, "connect timed out") from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(conn, str(error)) from error

    class Plain(HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return dial(self)

    class Sealed(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return dial(self)

    pool = urllib3.PoolManager(maxsize=4)
    http = type("GuardedHTTP", (urllib3.HTTPConnectionPool,), {"ConnectionCls": Plain})
    https = type("GuardedHTTPS", (urllib3.HTTPSConnectionPool,), {"ConnectionCls": Sealed})
    pool.pool_classes_by_scheme = {"http": http, "https": https}
    return pool
