"""The Python client of the native API.

from headrace.client import Client

with Client("http://127.0.0.1:8000", key="hr_…") as client:
    run = client.start(task_id)
    print(client.wait(run["id"])["books"])
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import urllib3

from headrace.domain.errors import (
    CallerError,
    HeadraceError,
    NotFound,
    OutsideError,
    OwnerError,
    TimedOut,
    Unauthenticated,
    Unavailable,
)

Json = dict[str, Any]
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "skipped"})
POLL_S: Final = 0.1
CONNECT_S: Final = 5.0
READ_S: Final = 90.0


class Client:
    """One server and one key. Raises the errors of `headrace.domain.errors`."""

    def __init__(self, url: str = "http://127.0.0.1:8000", *, key: str) -> None:
        self.url: Final = url.rstrip("/")
        self._pool = urllib3.PoolManager(
            headers={"Authorization": f"Bearer {key}"},
            timeout=urllib3.Timeout(connect=CONNECT_S, read=READ_S),
            retries=False,
        )

    @classmethod
    def from_env(cls) -> Self:
        """Use HEADRACE_URL, and HEADRACE_ADMIN_KEY or the key that a server here has kept."""
        key = os.environ.get("HEADRACE_KEY") or os.environ.get("HEADRACE_ADMIN_KEY", "")
        kept = Path(os.environ.get("HEADRACE_DATA_DIR", "headrace-data")) / "admin.key"
        if not key and kept.exists():
            key = kept.read_text().strip()
        if not key:
            raise Unauthenticated(
                "No API key is known.",
                hint="Set HEADRACE_ADMIN_KEY, or go where headrace-data/admin.key is.",
            )
        return cls(os.environ.get("HEADRACE_URL", "http://127.0.0.1:8000"), key=key)

    def call(
        self, method: str, path: str, body: Json | None = None, headers: Json | None = None
    ) -> Any:  # Any: JSON
        """Make one call and return the JSON of its answer."""
        try:
            answer = self._pool.request(
                method, self.url + path, json=body,
                headers=(dict(self._pool.headers) | headers) if headers else None,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(
                f"The server at {self.url} does not answer.", hint="Is `headrace serve` running?"
            ) from error
        found = json.loads(answer.data) if answer.data else None
        if answer.status >= 400:  # HTTP
            raise _raised(answer.status, found if isinstance(found, dict) else {})
        return found

    def add(self, kind: str, **members: Any) -> Json:
        """Make a thing: `kind` is authentications, sources, destinations or tasks."""
        return self.call("POST", f"/v1/{kind}", members)  # type: ignore[no-any-return]

    def start(self, task: str, *, key: str | None = None) -> Json:
        """Start a run of a task; with `key` twice is once."""
        headers = {"Idempotency-Key": key} if key else None
        return self.call("POST", f"/v1/tasks/{task}/runs", {}, headers)  # type: ignore[no-any-return]

    def verify(self, task: str, *, repair: bool = False) -> Json:
        """Start a run that compares a task's table with its source; its receipt tells."""
        path = f"/v1/tasks/{task}/verify?repair={str(repair).lower()}"
        return self.call("POST", path, {})  # type: ignore[no-any-return]

    def receipt(self, id_: str) -> Json:
        """Return what a run read and wrote, and what it found."""
        return self.call("GET", f"/v1/runs/{id_}/receipt")  # type: ignore[no-any-return]

    def run(self, id_: str) -> Json:
        return self.call("GET", f"/v1/runs/{id_}")  # type: ignore[no-any-return]

    def wait(self, id_: str, timeout_s: float = 600) -> Json:
        """Return a run when it has ended. Raises TimedOut."""
        until = time.monotonic() + timeout_s
        while True:
            found = self.run(id_)
            if found["state"] in ENDED:
                return found
            if time.monotonic() > until:
                raise TimedOut(f"The run is still {found['state']} after {timeout_s:g} s.")
            time.sleep(POLL_S)

    def events(self, id_: str, after: int = 0) -> list[Json]:
        """Return the events of a run after the number given."""
        return self.call("GET", f"/v1/runs/{id_}/events?limit=1000&after={after}")["items"]  # type: ignore[no-any-return]

    def rows(self, destination: str, table: str, limit: int = 1000) -> Iterator[Json]:
        """Yield all rows of a table, page by page."""
        cursor = ""
        while True:
            page = self.call("GET", f"/v1/tables/{destination}/{table}/rows?limit={limit}{cursor}")
            yield from page["rows"]
            if page["next"] is None:
                return
            cursor = f"&cursor={page['next']}"

    def close(self) -> None:
        self._pool.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.close()


def _raised(status: int, body: Json) -> HeadraceError:
    shown = {"hint": str(body.get("hint", "")), "field": str(body.get("field", ""))}
    kinds: dict[int, type[HeadraceError]] = {
        401: Unauthenticated, 404: NotFound, 422: OwnerError, 503: OutsideError,
    }  # fmt: skip
    kind = kinds.get(status, CallerError if status < 500 else HeadraceError)
    return kind(
        str(body.get("title") or body.get("message") or f"The server answered {status}."), **shown
    )
