"""Backup while the server works, and what a restored folder is good for."""

import os
import subprocess
import sys
import tarfile
import threading
from contextlib import closing, suppress

import pytest

from headrace.domain.errors import HeadraceError
from headrace.store.backup import backup, restore
from headrace.store.migrate import NEWEST
from tests.serving import Serving, serving


def headrace(*words, cwd):
    return subprocess.run(
        [sys.executable, "-m", "headrace", *map(str, words)], cwd=cwd, capture_output=True,
        text=True, check=False, env=os.environ | {"COLUMNS": "200"},
    )  # fmt: skip


def scene(server):
    """One task into the embedded index, one with rejects, and a secret."""
    client = server.client
    files = server.data_dir / "files"
    (files / "in.csv").write_text("objectID,n\na,1\nb,x\nc,3\n")
    source = client.add(
        "sources", type="csv", name="s",
        input={"url": f"file://{files}/in.csv", "uniqueIDColumn": "objectID",
               "mapping": {"n": "integer"}, "username": "u", "password": "top secret"},
    )["id"]  # fmt: skip
    end = client.add("destinations", type="search", name="d", input={"indexName": "t"})["id"]
    return client.add("tasks", source=source, destination=end, action="save", failureThreshold=100)


def test_a_backup_that_is_taken_under_load_restores_to_what_was_committed(tmp_path):
    stop = threading.Event()
    with serving(tmp_path / "data") as server:
        task = scene(server)
        first = server.client.wait(server.client.start(task["id"])["id"])
        assert first["state"] == "succeeded"

        def load():
            while not stop.is_set():
                with suppress(HeadraceError):
                    server.client.wait(server.client.start(task["id"])["id"], 60)

        worker = threading.Thread(target=load)
        worker.start()
        done = headrace("backup", tmp_path / "b.tar.gz", "--data-dir", "data", cwd=tmp_path)
        stop.set()
        worker.join()
        assert done.returncode == 0, done.stderr
        assert "holds the master key" in done.stderr
        assert "files" in done.stderr  # it says what it leaves out
    assert (tmp_path / "b.tar.gz").stat().st_mode & 0o77 == 0
    assert [path for path in tmp_path.iterdir() if "partial" in path.name] == []
    done = headrace("restore", "b.tar.gz", "--data-dir", "again", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    roots = {"HEADRACE_FILES_ROOTS": str(tmp_path / "data" / "files")}  # where its source is
    with serving(tmp_path / "again", **roots) as again:
        client = again.client
        assert client.run(first["id"])["state"] == "succeeded"
        assert len(client.call("GET", f"/v1/runs/{first['id']}/rejects")["items"]) == 1
        rows = {row["objectID"] for row in client.rows(task["destination"], "t")}
        assert rows == {"a", "c"}
        for one in client.call("GET", "/v1/runs?limit=500")["items"]:
            found = client.wait(one["id"], 60)  # those that were under way are done again
            assert found["state"] == "succeeded", found
        files = again.data_dir / "files"
        (files / "in.csv").write_text("objectID,n\nz,9\n")
        shown = client.call("GET", f"/v1/sources/{task['source']}")
        assert shown["input"]["password"] is None
        client.call(
            "PATCH", f"/v1/sources/{task['source']}", {"input": {"url": f"file://{files}/in.csv"}}
        )
        assert client.wait(client.start(task["id"])["id"])["state"] == "succeeded"


def test_a_zombie_of_the_old_folder_cannot_write_after_a_restore(tmp_path, fresh_database):
    """Fences of the restored store are higher than all that the old one ever gives."""
    with serving(tmp_path / "data") as server:
        client = server.client
        (server.data_dir / "files" / "x.csv").write_text("id\n1\n")
        source = client.add(
            "sources", type="csv", name="s", input={"url": f"file://{server.data_dir}/files/x.csv"}
        )["id"]
        end = client.add("destinations", type="postgresql", name="d", input={"url": fresh_database})
        task = client.add(
            "tasks", source=source, destination=end["id"], action="append", table="t"
        )["id"]
        backup(server.data_dir, tmp_path / "b.tar.gz")
        restore(tmp_path / "b.tar.gz", tmp_path / "again", NEWEST)
        roots = {"HEADRACE_FILES_ROOTS": str(server.data_dir / "files")}
        new = Serving(tmp_path / "again", env=roots).start()
        try:
            assert new.client.wait(new.client.start(task)["id"])["state"] == "succeeded"
            old = client.wait(client.start(task)["id"], 60)  # its fences are behind: it catches up
            assert old["state"] == "succeeded"
            assert old["attempt"] == 2
        finally:
            new.stop()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["backup", "b.tar.gz", "--data-dir", "nothing"], "no control.db"),
        (["backup", "there.txt", "--data-dir", "data"], "there already"),
        (["restore", "there.txt", "--data-dir", "new"], "cannot be read"),
        (["restore", "other.tar.gz", "--data-dir", "new"], "no backup of headrace"),
        (["restore", "good.tar.gz", "--data-dir", "data"], "holds a store already"),
        (["restore", "newer.tar.gz", "--data-dir", "new"], "newer headrace"),
        (["restore", "cut.tar.gz", "--data-dir", "new"], "cannot be read"),
        (["restore", "evil.tar.gz", "--data-dir", "new"], "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_backed_up_or_restored_says_why(words, says, archives):
    done = headrace(*words, cwd=archives)
    assert done.returncode in (2, 3), done
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert not (archives / "new" / "control.db").exists()


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    import io
    import sqlite3

    from headrace.store.database import Database
    from headrace.store.migrate import migrate

    folder = tmp_path_factory.mktemp("archives")
    for name in ("data", "newer"):
        (folder / name).mkdir()
        database = Database(f"sqlite:///{folder / name / 'control.db'}")
        migrate(database)
        database.close()
    with closing(sqlite3.connect(folder / "newer" / "control.db")) as con:
        con.execute("update alembic_version set version_num = '9999'")
        con.commit()
    backup(folder / "data", folder / "good.tar.gz")
    backup(folder / "newer", folder / "newer.tar.gz")
    good = (folder / "good.tar.gz").read_bytes()
    (folder / "cut.tar.gz").write_bytes(good[: len(good) // 2])
    (folder / "there.txt").write_text("x")
    for name, member in (("other", "x.txt"), ("evil", "../../escaped.txt")):
        with tarfile.open(folder / f"{name}.tar.gz", "w:gz") as archive:
            info = tarfile.TarInfo(member)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    return folder


def test_migrate_may_run_before_the_servers_are_replaced(tmp_path, fresh_database):
    for _ in range(2):
        done = headrace("migrate", "--database", fresh_database, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f'"revision": "{NEWEST}"' in done.stdout
