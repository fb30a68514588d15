"""The demo and the bench's short form end well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_ends_well_over_an_earlier_one_and_its_books_balance(tmp_path):
    (tmp_path / "demo" / "files").mkdir(parents=True)
    (tmp_path / "demo" / "control.db").write_bytes(b"what an earlier demo has left")
    done = subprocess.run(
        [sys.executable, ROOT / "demo" / "run.py"], capture_output=True, text=True, check=False,
        env=os.environ | {"HEADRACE_DEMO_DIR": str(tmp_path / "demo"), "COLUMNS": "120"},
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(": balanced") == 4
    assert "NOT balanced" not in done.stdout
    assert "336,776" in done.stdout
    assert "5 rejected rows" in done.stdout
    assert done.stdout.count("the execution has succeeded") == 5  # once by each dialect
    assert done.stdout.count("1 loaded, 3 skipped") == 3  # by those that know DELTA


@pytest.mark.slow
@pytest.mark.parametrize(
    "bench", ["run.py", "databases.py", "memory.py", "load.py", "jobs.py", "runtime.py"]
)
def test_a_bench_runs_in_its_short_form(bench):
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / bench, "--short"], capture_output=True, text=True,
        check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Short form" in done.stdout
