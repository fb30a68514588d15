"""One execution in five dialects: each vendor's call that starts it, and the one that tells of it.

Nothing here is headrace's own API but what finds the ids; the demo and docs/generate.py use it.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3

from headrace.client import ENDED, Client

Json = Any
WAIT_S = 120.0


@contextlib.contextmanager
def headrace(folder: Path, key: str) -> Iterator[str]:
    """Run a server over a folder; yield its address."""
    log = folder / "server.log"
    command = [sys.executable, "-m", "headrace", "serve", "--port", "0", "--data-dir", str(folder)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | {"HEADRACE_ADMIN_KEY": key}
        )
    try:
        until = time.monotonic() + 60
        while "listens on " not in (text := log.read_text()):
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"The server did not start:\n{text}")
            time.sleep(0.05)
        yield text.partition("listens on ")[2].split()[0]
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it was sent, without its credentials, and what came back."""

    line: str
    status: int
    answer: Json


class Vendors:
    """The built-in job of a server, driven by the five vendors' calls."""

    names = ("Algolia", "Celonis", "Amperity", "IBM", "Lucidum")

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._http = urllib3.PoolManager(retries=False)
        job = client.call("GET", "/v1/jobs/everything")
        self.job, self.pool, self.alias = job["id"], job["pool"], job["alias"]
        bearer = {"Authorization": f"Bearer {key}"}
        self._headers: Mapping[str, Mapping[str, str]] = {
            "Algolia": {"x-algolia-application-id": "default", "x-algolia-api-key": key},
            "Celonis": {"Authorization": f"AppKey {key}"},
            "Amperity": bearer | {"amperity-tenant": "default", "api-version": "2024-04-01"},
            "IBM": {"Token": key},
            "Lucidum": bearer | {"Content-Type": "application/json"},
        }

    def call(self, vendor: str, method: str, path: str, body: Json = None) -> Call:
        """Send one call as a vendor's client does."""
        answer = self._http.request(
            method, self._client.url + path, headers=dict(self._headers[vendor]),
            body=None if body is None else json.dumps(body),
        )  # fmt: skip
        sent = f"{method} {path}" + ("" if body is None else f"  {json.dumps(body)}")
        return Call(sent, answer.status, json.loads(answer.data) if answer.data else None)

    def start(self, vendor: str, *, whole: bool, task: str = "") -> Call:
        """Start everything (or, with Algolia, one task): all of it, or what has changed."""
        mode = "FULL" if whole else "DELTA"
        execute = f"/integration/api/v2/data-pools/{self.pool}/data-jobs/{self.job}/execute"
        starts: Mapping[str, Callable[[], Call]] = {
            "Algolia": lambda: self.call(vendor, "POST", f"/2/tasks/{task}/run", {}),
            "Celonis": lambda: self.call(vendor, "POST", f"{execute}?mode={mode}"),
            "Amperity": lambda: self.call(
                vendor, "POST", "/api/workflow/runs",
                {"config_id": f"cg-{self.alias}", "run_mode": "full" if whole else "refresh"},
            ),
            "IBM": lambda: self.call(
                vendor, "GET", f"/api/import_status.json?run={'true' if whole else 'raw_only'}"
            ),
            "Lucidum": lambda: self.call(vendor, "GET", "/CMDB/v2/system/data-ingestion/run"),
        }  # fmt: skip
        return starts[vendor]()

    def newest(self) -> Json:
        """Return the newest execution, as the native API tells it."""
        return self._client.call("GET", "/v1/executions?limit=1")["items"][0]

    def wait(self) -> Json:
        """Return the newest execution when it has ended."""
        until = time.monotonic() + WAIT_S
        while (found := self.newest())["state"] not in ENDED:
            if time.monotonic() > until:
                raise TimeoutError(f"The execution is still {found['state']}.")
            time.sleep(0.1)
        return found

    def tell(self, vendor: str, execution: Json) -> Call:
        """Ask what a vendor's API says of an execution of everything."""
        if vendor == "Algolia":
            return self.call(vendor, "GET", f"/1/runs/{execution['steps'][0]['run']}")
        if vendor == "Celonis":
            return self.call(vendor, "GET", f"/integration/api/pools/{self.pool}/jobs/{self.job}")
        if vendor == "Amperity":
            newest = self.call(vendor, "GET", "/api/workflow/runs?limit=1").answer["data"][0]
            path = f"/api/workflow/runs/{newest['id']}?view=verbose"
            jobs = self.call(vendor, "GET", path).answer["task_instances"]
            job = next((one for one in jobs if one["state"] != "skipped"), jobs[0])
            return self.call(vendor, "GET", f"/api/ingest/jobs/{job['id']}")
        if vendor == "IBM":
            return self.call(vendor, "GET", "/api/import_status.json")
        found = self.call(vendor, "GET", "/CMDB/v2/system/data-ingestion/jobs")
        return Call(found.line, found.status, found.answer["dag_runs"][0])
