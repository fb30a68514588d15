"""The command line as people use it."""

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import psycopg
import pytest

from tests.proxy import proxied
from tests.serving import KEY, serving


def headrace(*words, cwd, env=None, check=None):
    import os

    done = subprocess.run(
        [sys.executable, "-m", "headrace", *map(str, words)], capture_output=True, text=True,
        cwd=cwd, env=os.environ | (env or {}), check=False, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    if check is not None:
        assert done.returncode == check, (done.stdout, done.stderr)
    return done


def test_ingest_prints_a_receipt_and_loads(tmp_path):
    (tmp_path / "a.csv").write_text("id,name\n1,x\n2,y\n")
    done = headrace("ingest", "a.csv", "o.duckdb", cwd=tmp_path, check=0)
    assert "the books balance" in done.stdout
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        assert con.execute("select * from a order by id").fetchall() == [(1, "x"), (2, "y")]


def test_what_a_load_does_not_need_is_not_imported(tmp_path):
    """Where pandas is installed it takes seconds, and DuckDB would ask for it."""
    (tmp_path / "a.csv").write_text("id,name\n1,x\n")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "pandas.py").write_text("open('imported', 'w').close()")
    env = {"PYTHONPATH": str(tmp_path / "there")}
    headrace("ingest", "a.csv", "o.duckdb", cwd=tmp_path, env=env, check=0)
    assert not (tmp_path / "imported").exists()


def test_json_on_stdout_is_one_object(tmp_path):
    (tmp_path / "a.csv").write_text("id,name\n1,x\n1,y\n")
    done = headrace(
        "ingest",
        "a.csv",
        "o.duckdb",
        "--mode",
        "merge",
        "--key",
        "id",
        "--json",
        cwd=tmp_path,
        check=0,
    )
    told = json.loads(done.stdout)
    assert told["balanced"]
    assert told["rules"] == {"duplicate_key": 1}
    assert told["books"]["inserted"] == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["ingest", "nope.csv", "o.duckdb"], 3, "No file matches"),
        (["ingest", "a.csv", "o.xyz"], 2, "what kind of destination"),
        (["ingest", "a.csv", "o.duckdb", "--type", "id=int"], 2, "not a column type"),
        (["ingest", "a.csv", "o.duckdb", "--type", "id=date"], 4, "2 of 2 rows were rejected"),
        (["ingest", "a.csv", "o.duckdb", "--mode", "merge"], 2, "needs a key"),
        (["ingest", "a.csv", "o.duckdb", "--mode", "merge"], 2, "(--key COLUMN)"),
        (["ingest", "a.csv", "o.duckdb", "--mode", "merge", "--key", "zz"], 2, "not in the source"),
        (["ingest", "a.csv", "postgresql://127.0.0.1:1/x"], 3, "does not answer"),
        (["ingest", "http://127.0.0.1:1/a.csv", "o.duckdb"], 3, "refused the connection"),
        (["serve", "--data-dir", "/proc/nope"], 2, "cannot be made"),
        (["serve", "--database", "mysql://x"], 2, "cannot be the control store"),
    ],
)
def test_exit_codes_and_messages(tmp_path, words, code, said):
    (tmp_path / "a.csv").write_text("id,name\n1,x\n2,y\n")
    done = headrace(*words, cwd=tmp_path)
    assert said in done.stderr
    assert done.returncode == code


def test_rejects_are_kept_in_a_file_that_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,name\n1,x\n2\n3,z\n")
    done = headrace("ingest", "a.csv", "o.duckdb", "--json", cwd=tmp_path, check=4)
    kept = (tmp_path / json.loads(done.stdout)["rejects"]).read_text().splitlines()
    assert json.loads(kept[0])["rule"] == "too_few_cells"


def test_preview_shows_types_and_rows(tmp_path):
    (tmp_path / "a.csv").write_text("id,zip,at\n1,00123,2020-01-01\n")
    done = headrace("preview", "a.csv", "--json", cwd=tmp_path, check=0)
    told = json.loads(done.stdout)
    assert [(c["name"], c["type"]) for c in told["columns"]] == [
        ("id", "integer"), ("zip", "string"), ("at", "date"),
    ]  # fmt: skip
    assert told["rows"] == [{"id": 1, "zip": "00123", "at": "2020-01-01"}]


def is_reading(pid: int, name: str) -> bool:
    with contextlib.suppress(OSError):
        return any(fd.readlink().name == name for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def test_an_interrupt_exits_130_and_leaves_the_old_table(tmp_path):
    (tmp_path / "a.csv").write_text("id,name\n1,x\n")
    headrace("ingest", "a.csv", "o.duckdb", "--table", "t", cwd=tmp_path, check=0)
    with (tmp_path / "big.csv").open("w") as out:
        out.write("id,name\n")
        for block in range(400):
            out.write("".join(f"{block * 10_000 + n},{'name' * 15}\n" for n in range(10_000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "headrace", "ingest", "big.csv", "o.duckdb", "--table", "t"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not is_reading(process.pid, "big.csv"):
        time.sleep(0.01)
    time.sleep(0.15)  # past the header
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert b"Traceback" not in err
    if process.returncode == 0:
        pytest.skip("the machine was quicker than the interrupt")
    assert process.returncode == 130, (out, err)
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        assert con.execute("select count(*) from t").fetchone()[0] == 1


def test_an_interrupt_is_seen_while_the_source_is_silent(tmp_path, fresh_database):
    """The rows of a large table are loaded while they come: also the wait for them can be ended."""
    with psycopg.connect(fresh_database, autocommit=True) as con:
        con.execute(
            "create table t as select n, repeat('x', 150) from generate_series(1, 300000) n"
        )
    with proxied(fresh_database) as (proxy, url):
        proxy.stall_after = 8 << 20
        process = subprocess.Popen(
            [sys.executable, "-m", "headrace", "ingest", f"{url}#t", "o.duckdb"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert proxy.stalls.wait(60)
        time.sleep(1)  # what had come is read
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - begun < 20
    assert b"Traceback" not in err
    assert process.returncode == 130, (out, err)


def test_runs_logs_and_cancel_of_a_server(tmp_path):
    with serving(tmp_path / "data") as server:
        client = server.client
        path = server.data_dir / "files" / "a.csv"
        path.write_text("id,name\n1,x\n")
        source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})
        end = client.add("destinations", type="search", name="d", input={"indexName": "i"})
        task = client.add("tasks", source=source["id"], destination=end["id"], action="replace")
        run = client.start(task["id"])["id"]
        env = {"HEADRACE_URL": client.url, "HEADRACE_ADMIN_KEY": KEY}
        done = headrace("logs", "-f", run, cwd=tmp_path, env=env, check=0)
        assert "1 rows are in the destination" in done.stdout
        listed = json.loads(headrace("runs", "--json", cwd=tmp_path, env=env, check=0).stdout)
        assert listed[0]["id"] == run
        assert run in headrace("runs", cwd=tmp_path, env=env | {"COLUMNS": "160"}, check=0).stdout
        done = headrace("cancel", run, cwd=tmp_path, env=env, check=2)
        assert "succeeded already" in done.stderr
        assert headrace("logs", "nope", cwd=tmp_path, env=env).returncode == 2
    done = headrace(
        "runs", cwd=tmp_path, env={"HEADRACE_URL": "http://127.0.0.1:1", "HEADRACE_ADMIN_KEY": KEY}
    )
    assert done.returncode == 3
    assert "does not answer" in done.stderr


def test_a_second_server_on_the_same_folder_is_refused(tmp_path):
    with serving(tmp_path / "data"):
        done = headrace("serve", "--port", "0", "--data-dir", "data", cwd=tmp_path, check=2)
        assert "Another headrace" in done.stderr


def test_help_is_quick_and_teaches(tmp_path):
    begun = time.monotonic()
    done = headrace("--help", cwd=tmp_path, check=0)
    assert time.monotonic() - begun < 1.5  # 0.2 s alone; this machine is shared
    for word in ("serve", "ingest", "preview", "runs", "logs", "cancel"):
        assert word in done.stdout


def test_a_table_of_postgresql_is_ingested(tmp_path, fresh_database):
    import psycopg

    with psycopg.connect(fresh_database) as con:
        con.execute("create table orders (id int, price numeric(8,2))")
        con.execute("insert into orders values (1, 9.90), (2, null)")
    done = headrace("ingest", f"{fresh_database}#orders", "o.duckdb", cwd=tmp_path, check=0)
    assert "the books balance" in done.stdout
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        assert [(n, str(p)) for n, p in con.execute("select * from orders").fetchall()] == [
            (1, "9.90"),
            (2, "None"),
        ]
    done = headrace("ingest", fresh_database, "o.duckdb", cwd=tmp_path, check=2)
    assert "#SCHEMA.TABLE" in done.stderr
    done = headrace("ingest", f"{fresh_database}#s.nobody", "o.duckdb", cwd=tmp_path, check=3)
    assert "no table s.nobody" in done.stderr
