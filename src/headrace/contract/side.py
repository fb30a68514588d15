"""A side: one state of a table's rows in a database, for whoever compares it with another."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from headrace.contract.canonical import Dialect

CursorKind = Literal["number", "moment", "day"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableColumn:
    """One column: our type of it ("infer" where only its values tell), and SQL of its text.

    `native` is the database's name of its type; `cursor` what it can be a cursor as, if it can.
    The SQL speaks of the table as `t`.
    """

    name: str
    type: str
    sql: str
    native: str
    cursor: CursorKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Rows that can be asked about in SQL. `dialect` is None where they can only be read.

    `pour` appends the rows of a query to a file, as CSV, and returns how many they are.
    """

    dialect: Dialect | None
    relation: str  # SQL, to stand behind `from`
    columns: Sequence[TableColumn]
    pour: Callable[[str, Path], int]
    value: Callable[[str], str | None]  # of a query's only value
    quoted: Callable[[str], str]
    conditions: Sequence[str] = ()
    cursor: TableColumn | None = None
    literal: Callable[[TableColumn, str], str] | None = None  # SQL of a cursor's value


@runtime_checkable
class Asked(Protocol):
    """A source whose rows can be asked about where they are."""

    def side(self) -> AbstractContextManager[Side]: ...

    def only(self, condition: str) -> None:
        """Have `scans` and `keys` read the rows that meet a condition, and nothing else."""


@runtime_checkable
class Comparable(Protocol):
    """A destination whose tables can be compared with what they were loaded from."""

    def side(self, table: str) -> AbstractContextManager[Side]:
        """Raises NotFound for a table that is not there."""
