"""The demo and the bench's short form end well."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_demo_ends_well_twice_and_its_books_balance(tmp_path):
    for _ in range(2):
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


@pytest.mark.slow
@pytest.mark.parametrize("bench", ["run.py", "load.py"])
def test_a_bench_runs_in_its_short_form(bench):
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / bench, "--short"], capture_output=True, text=True,
        check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Short form" in done.stdout
