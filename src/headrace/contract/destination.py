"""What a destination does: stages rows, shows all at once with a commit, reads them back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Protocol

import duckdb

from headrace.contract.columns import Column
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.rejected import Rule
from headrace.domain.task import Action

TIDY_EVERY: Final = 50
NOTE_DAYS: Final = 60  # that the note of a commit is kept: no run is tried again after so long


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a load goes, for whom, and what it does there.

    `scope` (the task) names the fence row; a load with a lower fence than the row's is refused.
    `token` names the commit: a second commit with the same token finds the first one's note.
    """

    table: str
    action: Action
    key: tuple[str, ...]
    scope: str
    fence: int
    token: str
    among: tuple[str, ...] = ()  # of the key: `keep` removes only rows that share these with one
    inner: bool = False  # another load of the same run is under way in the same database
    within: str = ""  # SQL of a condition on the table `t`: no other rows are touched or removed
    keeps_columns: bool = False  # a table that is there keeps its columns and types, replaced too

    @property
    def tidies(self) -> bool:
        """Whether this load also removes old notes of commits: one in so many does."""
        return self.fence % TIDY_EVERY == 0


@dataclass(slots=True, kw_only=True)
class Counts:
    """Rows as the destination counted them, by file path ("" where there is only one file)."""

    inserted: dict[str, int] = field(default_factory=dict)
    updated: dict[str, int] = field(default_factory=dict)
    filtered: dict[str, int] = field(default_factory=dict)
    deleted: dict[str, int] = field(default_factory=dict)
    unchanged: dict[str, int] = field(default_factory=dict)  # a delete that found nothing
    replaced_out: int = 0
    removed: int = 0  # rows whose keys are gone from the source
    rows_after: int | None = None
    digest: str = ""  # of what landed: its kind, a colon, and the digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Rows on their way: SQL on a connection. Columns FILE, KEY, DOCUMENT as the load needs.

    `streams` are the same rows as Arrow streams, column by column, where no SQL is needed to make
    them: objects with `__arrow_c_stream__`. Reading both reads the rows twice. `row_bytes`: about
    how long a row is; 0 where nobody knows.
    """

    con: duckdb.DuckDBPyConnection
    sql: str
    columns: Sequence[Column]
    with_file: bool
    with_attributes: bool = False
    streams: Sequence[Any] = ()
    row_bytes: int = 0


def _takes_all(document: str) -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRules:
    """What a destination makes of documents before they are written, and which it does not take.

    `shaped` returns a document as it will be written. `suspect` is SQL over DOCUMENT that is true
    for those which `why` is asked about: it returns the rule that one breaks, and a sentence.
    """

    shaped: Callable[[str], str] | None = None
    suspect: str = "false"
    why: Callable[[str], tuple[Rule, str] | None] = _takes_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Rows read back: plain values, and where the next page begins."""

    columns: Sequence[str]
    rows: Sequence[Mapping[str, Any]]
    next: str | None


class Load(Protocol):
    """One load into one table. Nothing is seen before `commit`; `abort` forgets it."""

    stages: bool  # rows stage by `write` into a table that `con` sees, and may be changed there
    con: duckdb.DuckDBPyConnection | None  # the destination's own connection, where it is DuckDB
    stage: str  # that table's name in SQL
    temporary: bool  # whether it is made as a temporary one

    def begin(self) -> str | None:
        """Raise the fence; return the note of an earlier commit with this token, or None.

        Raises LostClaim if a higher fence is there.
        """

    def columns(self) -> Sequence[Column] | None:
        """Return the columns of the table that is there, in our types; None without a table."""

    def write(self, rows: Rows) -> dict[str, int]:
        """Stage rows; return how many that were, by file path. May be called again."""

    def keep(self, rows: Rows) -> None:
        """Have the commit remove every row whose key is not among these; see `Spec.deletes`."""

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        """Show everything at once.

        In the data's own transaction: check the fence, apply, count, keep `sign(counts)` under
        the token. If `sign` raises, nothing has happened.
        """

    def abort(self) -> None:
        """Forget what was staged; may be called at any time, and twice. `begin` may follow."""

    def close(self) -> None:
        """Let go of everything; may be called at any time, and twice."""


class Destination(Protocol):
    """One destination with its settings filled in."""

    spec: ClassVar[Spec]
    document_rules: DocumentRules | None

    def check(self) -> None:
        """Raise unless rows can be written."""

    def table_for(self, wanted: str | None, stream: str) -> str:
        """Return the table that a task writes: `wanted`, or what the settings say, or `stream`."""

    def exclusive(self) -> str | None:
        """Return a name for what only one load at a time may hold, or None."""

    def load(self, target: Target) -> Load: ...

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        """Read a page back. Raises NotFound for a table that is not there."""

    def close(self) -> None: ...


class DestinationMaker(Protocol):
    """A destination's class."""

    spec: ClassVar[Spec]

    def __call__(self, config: Config, tools: Tools) -> Destination: ...
