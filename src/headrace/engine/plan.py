"""The plan of one run: everything the engine needs to know, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from headrace.contract.tools import BadFile
from headrace.domain.books import Receipt
from headrace.domain.errors import HeadraceError
from headrace.domain.event import NewEvent
from headrace.domain.shape import PLAIN, Shape
from headrace.domain.task import Action

REJECTS_MAX: Final = 100_000  # raw rows that the quarantine keeps of one run


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`scope` and `fence` guard the destination; `token` makes the commit safe to repeat."""

    run: str
    scope: str
    fence: int
    token: str
    table: str
    action: Action
    key: tuple[str, ...]
    documents: bool
    refuses_nul: bool
    failure_threshold: float
    rejects_max: int
    memory_bytes: int
    threads: int
    spool: Path
    transformations: tuple[tuple[str, Mapping[str, Any]], ...] = ()  # code, secrets
    only_tells: bool = False
    latest: str | None = None  # of two rows with one key: the one with more here, else the later
    shape: Shape = PLAIN
    deletes: bool = False  # rows whose keys are gone from the source are removed
    among: tuple[str, ...] = ()  # of the key: only rows that share these with a kept one may go
    inner: bool = False  # another load of the same run is under way in the same database
    keys: str = ""  # path of the keys of the rows that stay, where a file has them
    within: str = ""  # SQL of a condition on the table `t`: no other rows are touched or removed
    bad: Sequence[BadFile] = ()  # filled while the source is read
    hash_key: bytes = b""
    passed: Mapping[str, str] = field(default_factory=dict)  # filled while the source is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A file of rejected rows in the quarantine. It exists once a manifest names it."""

    name: str
    rows: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        return {"name": self.name, "rows": self.rows, "bytes": self.bytes}


class Journal(Protocol):
    """Where the engine tells how far it is. Any call raises Cancelled or LostClaim to stop it."""

    def told(
        self, phase: str, *, rows: int = 0, done: int = 0, total: int = 0, message: str = ""
    ) -> None:
        """Tell the progress: `done` of `total` in the unit of the phase."""

    def event(self, event: NewEvent) -> None:
        """Tell something worth keeping."""

    def advance(self, token: str, receipt: Receipt, rejects: tuple[Segment, ...]) -> None:
        """Tell what is committed, and return when it is on record (invariant 1)."""


class Stopped(Exception):
    """A run that failed, with what is known of its books and its quarantine."""

    def __init__(
        self, error: HeadraceError, receipt: Receipt | None, rejects: tuple[Segment, ...]
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.receipt = receipt
        self.rejects = rejects
