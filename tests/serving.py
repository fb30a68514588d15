"""Real server processes for tests, and files served over loopback HTTP."""

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from headrace.client import Client
from headrace.domain.errors import HeadraceError

KEY = "test-admin-key-0123456789"


class Serving:
    """One `headrace serve`; may be killed and started again over the same data."""

    def __init__(
        self, data_dir: Path, *, database: str | None = None, env: dict | None = None,
        within: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """`within`: the beginning of a command that starts another."""
        self.within = within
        self.data_dir = data_dir
        self.database = database
        self.env = env or {}
        self.process: subprocess.Popen[bytes] | None = None
        self.client: Client | None = None
        self.log = data_dir.parent / f"{data_dir.name}.log"

    def start(self, **env: str) -> "Serving":
        command = [
            *self.within, sys.executable, "-m", "headrace", "serve", "--port", "0", "--data-dir",
            str(self.data_dir),
        ]  # fmt: skip
        if self.database:
            command += ["--database", self.database]
        whole = (
            os.environ
            | {"HEADRACE_ADMIN_KEY": KEY, "HEADRACE_LEASE": "4", "HEADRACE_DRAIN": "0.5"}
            | self.env
            | env
        )
        if self.process is not None:
            self.process.wait(10)  # it was killed, or is about to be
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=whole)
        self.client = Client(f"http://127.0.0.1:{self._port(before)}", key=KEY)
        self._until_ready()
        return self

    def _port(self, before: int) -> int:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            text = self.log.read_bytes()[before:].decode(errors="replace")
            if "listens on http://127.0.0.1:" in text:
                return int(text.partition("listens on http://127.0.0.1:")[2].split()[0])
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"the server did not start: {self.log.read_text()[-2000:]}")

    def _until_ready(self) -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(HeadraceError):
                self.client.call("GET", "/readyz")
                return
            if self.process.poll() is not None:
                return  # killed at a fault point on its way
            time.sleep(0.02)
        raise AssertionError("not ready")

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        if self.alive:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        if self.process is None:
            return
        if self.alive:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.client is not None:
            self.client.close()


@contextlib.contextmanager
def serving(data_dir: Path, *, database: str | None = None, **env: str) -> Iterator[Serving]:
    server = Serving(data_dir, database=database)
    try:
        yield server.start(**env)
    finally:
        server.stop()


@contextlib.contextmanager
def website(handler) -> Iterator[str]:
    """Serve HTTP on loopback with `handler(request)`; yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            handler(self)

        do_POST = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(request, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    with contextlib.suppress(OSError):
        request.wfile.write(body)
