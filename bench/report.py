"""What was measured last, as a table: on the terminal, and in docs/benchmarks.md between its marks.

Every bench keeps its figures when it ends (`Bars.end`); one that ran again replaces its own.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bench.measure import RESULTS  # noqa: E402
from bench.peers import PACKAGES  # noqa: E402
from tests.postgres import installed  # noqa: E402

DOCS = ROOT / "docs" / "benchmarks.md"
BEGIN, END = "<!-- measured: made by `make bench` -->", "<!-- end of what was measured -->"
SCRIPTS = {
    "run": "Files, beside plain DuckDB", "databases": "Databases, beside bare statements",
    "peers": "Peers", "memory": "Memory", "load": "The API under load",
    "jobs": "Jobs and the vendors' faces", "runtime": "The queue and the clockwork, without rows",
}  # fmt: skip
OURS = ("duckdb", "pyarrow", "psycopg", "litestar", "uvicorn")


def main() -> None:
    console = Console()
    lines = [BEGIN, "", environment(), ""]
    for script, title in SCRIPTS.items():
        path = RESULTS / f"{script}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        table = Table("what", "measured", "bar", "headrace", "beside it", title=title)
        lines += [
            f"## {title}",
            "",
            f"Measured on {found['on']}, load {found['load']:.1f} at its end.",
            "",
        ]
        lines += ["| what | measured | bar | headrace | beside it |", "|---|---|---|---|---|"]
        for row in found["rows"]:
            cells = cells_of(row)
            lines.append(f"| {' | '.join(cells)} |")
            table.add_row(*cells, style="red" if "**" in cells[1] else None)
        lines.append("")
        console.print(table)
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    DOCS.write_text(before + "\n".join([*lines, END]) + rest.partition(END)[2])
    console.print(f"written to {DOCS.relative_to(ROOT)}")


def cells_of(row: dict) -> tuple[str, str, str, str, str]:
    """Return a row of the table; what is not held is bold."""
    what = f"{row['bench']}: {row['what']}"
    if "said" in row:
        wrong = row["said"].startswith("WRONG")
        return (what, f"**{row['said']}**" if wrong else row["said"], "", "", "")
    unit = "" if not row["unit"] else f" {row['unit']}".replace(" x", " ×")
    value = f"{row['value']:,.0f}" if abs(row["value"]) >= 100 else f"{row['value']:.3g}"
    sign = "≤" if row["most"] else "≥"
    measured = f"{value}{unit}" if row["ok"] else f"**{value}{unit}**"
    return (
        what, measured, f"{sign} {row['bar']:g}{unit.replace(' our time', '')}",
        told(row.get("ours")), f"{row.get('other', '')} {told(row.get('theirs'))}".strip(),
    )  # fmt: skip


def told(walls: list[float] | None) -> str:
    """Tell a median with its noise."""
    if not walls:
        return ""
    once = ", one run" if len(walls) == 1 else f", {min(walls):.2f}–{max(walls):.2f}"
    return f"{statistics.median(walls):.2f} s{once}"


def environment() -> str:
    """Tell on what the figures were measured."""
    cpu = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.processor(),
    )  # fmt: skip
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    postgres = subprocess.run(
        [installed()[0] / "postgres", "--version"], capture_output=True, text=True, check=False
    ).stdout.split()
    versions = [
        f"Python {platform.python_version()}",
        f"PostgreSQL {postgres[2] if postgres else '?'}",
    ]
    versions += [f"{name} {importlib.metadata.version(name)}" for name in OURS]
    peers = [package for packages in PACKAGES.values() for package in packages if "==" in package]
    return (
        f"{os.cpu_count()} shared cores of {cpu}, {memory:.0f} GiB, Linux {platform.release()}; {', '.join(versions)}.\n"
        f"Peers: {', '.join(peers)}. What is bold is not held."
    )


if __name__ == "__main__":
    main()
