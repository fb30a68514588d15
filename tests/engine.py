"""Run the engine in this process, with a journal that only remembers."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headrace.assembly import read_table, work
from headrace.contract import room
from headrace.domain.books import Receipt
from headrace.domain.errors import Cancelled
from headrace.domain.event import NewEvent
from headrace.domain.ids import new_id
from headrace.engine.plan import Segment
from headrace.service.orders import Order

# One MariaDB is enough for all tests that need one.
MYSQL = pytest.param("mysql", marks=pytest.mark.xdist_group("databases"))


LARGE = 1 << 25  # bytes of a key or a row id, so that DuckDB has room for few of them at once


def kind_of(request: pytest.FixtureRequest) -> str:
    """Return the kind that a parameter names; `… in parts`: what joins keys is done in several."""
    kind, _, parts = request.param.partition(" in ")
    if parts:
        request.getfixturevalue("monkeypatch").setattr(room, "KEY_BYTES", LARGE)
    return kind


@dataclass
class Memory:
    """A journal in memory."""

    events: list[NewEvent] = field(default_factory=list)
    advanced: list[tuple[str, Receipt, tuple[Segment, ...]]] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)

    def told(self, phase: str, *, rows=0, done=0, total=0, message="") -> None:
        if phase and (not self.phases or self.phases[-1] != phase):
            self.phases.append(phase)
        if self.cancel.is_set():
            raise Cancelled("The run was cancelled.")

    def event(self, event: NewEvent) -> None:
        self.events.append(event)

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        self.advanced.append((token, receipt, rejects))


def order(
    folder: Path, source: tuple[str, dict], destination: tuple[str, dict], **more: Any
) -> Order:
    """Make an order that works below `folder`."""
    values: dict[str, Any] = {
        "run": new_id(), "attempt": 1, "scope": "task", "fence": 1, "source_type": source[0],
        "source_input": source[1], "destination_type": destination[0],
        "destination_input": destination[1], "action": "replace", "table": "t", "key": (),
        "failure_threshold": 0, "tenant": "default", "data_dir": str(folder / "data"),
        "rejects_dir": str(folder / "rejects"), "files_roots": None, "open_inside": True,
        "egress_allow": "", "memory_bytes": 256 << 20, "threads": 2, "rejects_max": 100_000,
    }  # fmt: skip
    return Order(**(values | more))


class Rig:
    """One destination, loaded and read back."""

    def __init__(self, kind, folder, url):
        self.folder = folder
        (folder / "data").mkdir(exist_ok=True)
        self.end = {
            "duckdb": ("duckdb", {"path": str(folder / "o.duckdb")}),
            "postgresql": ("postgresql", {"url": url}),
            "search": ("search", {"indexName": "t"}),
            "parquet": ("parquet", {"path": str(folder / "lake")}),
            "sqlite": ("sqlite", {"path": str(folder / "o.sqlite")}),
            "mysql": ("mysql", {"url": url}),
            "sqlalchemy": ("sqlalchemy", {"url": url.replace("://", "+psycopg://", 1)}),
        }[kind]
        self.fence = 0

    def load(self, name, text, action="replace", key=(), more=None, **members):
        path = self.folder / name
        if text is not None:
            path.write_text(text)
        self.fence += 1
        kind = "json" if name.endswith("json") else "csv"
        journal = Memory()
        receipt = work(
            order(
                self.folder, (kind, {"url": str(path)} | (more or {})), self.end, action=action,
                key=key, fence=self.fence, **members,
            ),
            journal,
        )  # fmt: skip
        assert receipt.quarrel() is None
        assert journal.advanced[0][1] == receipt
        return receipt

    def rows(self):
        found = read_table(order(self.folder, ("csv", {}), self.end), "t", 10_000, None).rows
        return sorted(({k: v for k, v in row.items() if k != "objectID"} for row in found), key=str)
