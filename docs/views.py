"""Make docs/five-views.md: one real execution, and what each of the five dialects says of it.

A server is started over a folder of its own, a small file is loaded by it, and everybody is asked.
Ids and times differ from run to run: `masked` takes them out, so that a test can hold the page
against a new run.
"""

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "demo"))

from dialects import Call, Vendors, headrace  # noqa: E402
from headrace.client import Client  # noqa: E402

PAGE = HERE / "five-views.md"
KEY = "docs-admin-key-0123456789"
ROWS = "id,name,price\n1,Anna,5\n2,Ben,7\n2,Bea,8\n3,Carl,free\n4,Dora,9\n"
Json = Any
# Where each dialect tells a fact; None where it has no word for it.
FACTS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("state", ("outcome", "status", "tables.0.state", "last_status", "state")),
    ("its id there", ("runID", "latestExecutionItemId", "workflow_id", None, "dag_run_id")),
    ("began", ("startedAt", None, "tables.0.started_at", None, "start_date")),
    ("ended", ("finishedAt", None, "tables.0.ended_at", "last_import_time", "end_date")),
    ("kind", ("type", None, None, "last_import_type", "run_type")),
    ("rows read", ("progress.receivedNbOfEvents", None, "tables.0.read", None, None)),
    ("broken rows", (None, None, "tables.0.errors", None, None)),
    ("doubled keys", (None, None, "tables.0.rejected", None, None)),
    ("rows inserted", (None, None, "tables.0.inserted", None, None)),
    ("progress, while it runs", (None, None, None, "progress", None)),
)


def collected() -> dict[str, Call]:
    """Load the file by one execution, and return what each dialect says of it."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "data"
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "people.csv").write_text(ROWS)
        with headrace(folder, KEY) as url, Client(url, key=KEY) as client:
            source = client.add(
                "sources", type="csv", name="people",
                input={
                    "url": f"file://{folder}/files/people.csv", "uniqueIDColumn": "id",
                    "mapping": {"id": "string", "price": "integer"},
                },
            )  # fmt: skip
            end = client.add(
                "destinations", type="search", name="people", input={"indexName": "people"}
            )
            client.add(
                "tasks", source=source["id"], destination=end["id"], action="save",
                name="people", failureThreshold=50,
            )  # fmt: skip
            vendors = Vendors(client, KEY)
            vendors.start("Lucidum", whole=True)
            execution = vendors.wait()
            return {name: vendors.tell(name, execution) for name in Vendors.names}


def _at(answer: Json, path: str) -> Json:
    for part in path.split("."):
        if isinstance(answer, list):
            answer = answer[int(part)] if int(part) < len(answer) else None
        else:
            answer = answer.get(part) if isinstance(answer, dict) else None
    return answer


def page(found: dict[str, Call]) -> str:
    """Write the page."""
    names = list(found)
    lines = [
        "# One execution, five dialects", "",
        "Made by `make docs` from a real run: a server loads this file by one execution of the",
        "built-in job, started by Lucidum's call, and each dialect is asked about it. The file has",
        "a key twice, and a price that is no number; half of the rows may be rejected.", "",
        "```", ROWS.rstrip(), "```", "", f"| | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    for fact, paths in FACTS:
        cells = []
        for name, path in zip(names, paths, strict=True):
            value = None if path is None else _at(found[name].answer, path)
            last = (path or "").rpartition(".")[2]
            cells.append("" if value is None else f"`{last}`: {json.dumps(value)}")
        lines.append(f"| {fact} | {' | '.join(cells)} |")
    lines += ["", "Rows that were not loaded are kept: `GET /v1/runs/RUN/rejects`.", ""]
    for name, call in found.items():
        shown = json.dumps(call.answer, indent=2, ensure_ascii=False)
        lines += [f"## {name}", "", f"`{call.line}` answers {call.status}:", "", "```json", shown,
                  "```", ""]  # fmt: skip
    return "\n".join(lines)


def masked(text: str) -> str:
    """Take out of a page what differs from run to run."""
    for pattern, word in (
        (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*(Z|\+00:00)?", "TIME"),
        (r"(isj|wf|cb)-\d{8}-\d{5}-\w{5,6}", r"\1-ID"), (r"df-\w{8}", "df-ID"),
        (r"\b1[78]\d{11}\b", "MILLIS"), (r"/[^\s\"]*/people\.csv", "people.csv"),
    ):  # fmt: skip
        text = re.sub(pattern, word, text)
    return text


if __name__ == "__main__":
    made = page(collected())
    if not PAGE.exists() or masked(PAGE.read_text()) != masked(made):
        PAGE.write_text(made)
