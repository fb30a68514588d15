"""A full disk: a clear refusal, the old table intact, no crash."""

import os
import resource
import subprocess
import sys

import duckdb
import pytest


def limited():
    """Let no file grow beyond 24 MB: what a full disk looks like to whoever writes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (24 << 20, 24 << 20))


@pytest.mark.parametrize("end", ["o.duckdb", "lake/"])
def test_a_full_disk_is_told_and_leaves_the_old_table(tmp_path, end):
    (tmp_path / "small.csv").write_text("id,name\n1,old\n")
    command = [sys.executable, "-m", "headrace", "ingest"]
    subprocess.run(
        [*command, "small.csv", end, "--table", "t"], cwd=tmp_path, check=True, capture_output=True
    )
    with (tmp_path / "big.csv").open("w") as out:
        out.write("id,name\n")
        for _ in range(60):
            for _ in range(20_000):
                out.write(f"1,{os.urandom(24).hex()}\n")
    done = subprocess.run(
        [*command, "big.csv", end, "--table", "t"], cwd=tmp_path, preexec_fn=limited,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert "bug in headrace" not in done.stderr, done.stderr
    if end == "o.duckdb":
        with duckdb.connect(str(tmp_path / end)) as con:
            assert con.execute("select name from t").fetchall() == [("old",)]
    else:
        again = subprocess.run(
            [*command, "small.csv", end, "--table", "t", "--json"], cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert '"replaced_out": 1' in again.stdout
