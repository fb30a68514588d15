"""A real MariaDB: Debian's binaries, started as an unprivileged user on a free port."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from tests.ports import free_port
from tests.postgres import USER

SERVERS = ("mariadbd", "mysqld", "/usr/sbin/mariadbd", "/usr/sbin/mysqld")


@contextlib.contextmanager
def mariadb() -> Iterator[str]:
    """Yield the URL of its database `test`; skip, saying so, where there is no server."""
    server = next((found for name in SERVERS if (found := shutil.which(name))), None)
    install = shutil.which("mariadb-install-db")
    if server is None or install is None:
        if os.environ.get("CI"):
            raise AssertionError("MariaDB is not there: Debian's mariadb-server has it")
        pytest.skip("MariaDB is not here: apt-get install mariadb-server")
    folder = Path(tempfile.mkdtemp(prefix="headrace-maria-"))
    extra = {}
    if os.getuid() == 0:
        shutil.chown(folder, USER)
        extra = {"user": USER}
    try:
        data, port = folder / "data", free_port()
        subprocess.run(
            [install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal",
             "--skip-test-db"],
            check=True, capture_output=True, timeout=120, cwd=folder, **extra,
        )  # fmt: skip
        process = subprocess.Popen(
            [server, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
             f"--socket={folder}/s", f"--pid-file={folder}/pid", "--innodb-flush-log-at-trx-commit=0",
             f"--log-error={folder}/log", "--skip-name-resolve", "--default-time-zone=+05:30", f"--tmpdir={folder}"],
            cwd=folder, **extra,
        )  # fmt: skip
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    with pymysql.connect(host="127.0.0.1", port=port, user="root") as con:
                        con.query("create database test character set utf8mb4")
                        con.query("create user headrace@'127.0.0.1' identified by 'p@ss/wörd'")
                        con.query("grant all on *.* to headrace@'127.0.0.1'")
                    break
                except pymysql.err.OperationalError:
                    assert process.poll() is None, (folder / "log").read_text()[-3000:]
                    assert time.monotonic() < until
                    time.sleep(0.1)
            yield f"mysql://headrace:p%40ss%2Fw%C3%B6rd@127.0.0.1:{port}/test"
        finally:
            process.kill()
            process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
