"""What a source gives: scans, each a relation over files whose rows can be placed again."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import duckdb

from headrace.contract.columns import Column
from headrace.contract.spec import Config, Spec
from headrace.contract.tools import Tools
from headrace.domain.rejected import Rule


@dataclass(slots=True, kw_only=True)
class File:
    """A file that is at hand: `path` on this machine, `name` as the user knows it.

    `records` is counted in its bytes, independently of any load; None where that is impossible.
    A count that is still going on (`counting`) is waited for when it is asked for.
    """

    name: str
    path: str
    head: bytes = b""  # its first bytes, for whoever looks at it first
    bytes: int
    known: int | None = None
    counting: Future[int] | None = None
    text_path: str = ""  # of the bytes that positions refer to, where `path` was rewritten
    cleaned: bool = False  # `path` holds the unbroken records only
    ambiguous: bool = False  # as its count has shown: the reader may take its records for others
    body: str = ""  # path of the file as it came, maybe packed; empty for what is no file
    version: str = ""  # differs when the file at the source does; empty where nobody knows

    @property
    def records(self) -> int | None:
        return self.known if self.counting is None else self.counting.result()

    @property
    def counted(self) -> int | None:
        """The records, if they are counted by now."""
        if self.counting is None:
            return self.known
        return self.counting.result() if self.counting.done() else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One column of a scan and the SQL of its value.

    With `json_type` (SQL of DuckDB's json_type) it is judged as JSON; with `typed` it needs no
    judging; otherwise `sql` is text.
    """

    column: Column
    sql: str
    json_type: str | None = None
    typed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCheck:
    """SQL that is true for a row which breaks `rule`, judged before the row's cells."""

    sql: str
    rule: Rule
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a record stands in its file. `record` and `line` from 1, `byte` from 0.

    `line` and `byte` are None in a file that has none (Parquet).
    """

    record: int
    line: int | None
    byte: int | None
    raw: str
    raw_cut: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A record that the reader cannot split into cells."""

    place: Place
    rule: Rule
    message: str


@dataclass(slots=True, kw_only=True)
class Survey:
    """What a second pass over one file found: every record counted, the broken and the wanted.

    `wanted` maps the ordinal (from 0) among unbroken records to its place.
    """

    records: int = 0
    broken: int = 0
    broken_at: list[int] = field(default_factory=list)  # where they begin in what was read
    kept: list[Broken] = field(default_factory=list)
    wanted: dict[int, Place] = field(default_factory=dict)


class Scan(Protocol):
    """Files of one shape, read by one relation."""

    @property
    def files(self) -> Sequence[File]: ...

    @property
    def cells(self) -> Sequence[Cell]:
        """Every column there is. Type "infer" leaves it to the engine to look at a sample."""

    @property
    def checks(self) -> Sequence[RowCheck]: ...

    @property
    def document(self) -> str | None:
        """SQL of the record as JSON text, where it came as JSON."""

    def needed_cells(self, names: Sequence[str]) -> Sequence[Cell]:
        """Return the cells that must be judged where whole documents are loaded."""

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        """Return SQL of the raw rows of `files`, with the column FILE (its path) on request."""

    def reader_rejects(self, con: duckdb.DuckDBPyConnection) -> dict[str, list[int]]:
        """Return and forget where the records begin that the reader left out, by path; sorted."""

    def survey(self, file: File, wanted: Sequence[int], keep: int) -> Survey:
        """Go over a file record by record: exact, and slow. `wanted` is sorted.

        Keeps the first `keep` broken records.
        """

    def record_bytes(self) -> int:
        """Return about how long a record is, as a sample tells; 0 where nobody knows."""

    def cleaned(self, file: File) -> File:
        """Return a copy of `file` that holds only its unbroken records, in the simplest form."""

    def head(self, file: File, bytes_max: int) -> File | None:
        """Return the first records of a file larger than `bytes_max` as a file, else None."""

    def quick(
        self, con: duckdb.DuckDBPyConnection, types: Mapping[str, str], *, in_order: bool
    ) -> "QuickScan | None":
        """Return a quicker way to read the same cells as these types, if there is one."""


@runtime_checkable
class Guessing(Scan, Protocol):
    """A scan that may have looked at some records only, to tell its cells."""

    def knows(self, left: Sequence["LeftOver"]) -> bool:
        """Tell whether records that a quick scan has passed over have nothing but the cells."""

    def settle(self) -> bool:
        """Look at every record; tell whether the cells that were asked for may be others now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOver:
    """Records of a file that a quick scan has passed over: a file of their own, for the scan.

    `places` are theirs in the file that they come from, in the same order.
    """

    file: File
    places: Sequence[Place]


class QuickScan(Protocol):
    """A way to read plain files: it makes the values itself and judges nothing.

    A few records that are not plain are passed over. Where they are many, or where it is not
    certain where one ends, a scan of its relation fails with `columns.MISFIT`.
    """

    @property
    def cells(self) -> Sequence[Cell]:
        """The scan's cells. Those that this way has made into values are `typed`."""

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        """Return SQL of the rows, as a scan's."""

    def streams(self, files: Sequence[File]) -> Sequence[Any]:
        """Return the rows as Arrow streams, cell by cell."""

    def share(self) -> float:
        """Return how much of the bytes is read, from 0 to 1."""

    def stop(self) -> None:
        """Make whoever reads fail soon; from any thread."""

    def complete(self) -> bool:
        """Tell, after a scan, whether every byte was read, and once."""

    def left_over(self, file: File) -> LeftOver | None:
        """Return what a scan has passed over in a file; None for nothing."""

    def close(self) -> None:
        """Let go of what the connection holds."""


class Source(Protocol):
    """One source with its settings filled in."""

    spec: ClassVar[Spec]

    def check(self) -> None:
        """Raise unless the source can be read: an OwnerError or OutsideError that tells why."""

    def scans(self, con: duckdb.DuckDBPyConnection) -> Iterator[Scan]:
        """Fetch what there is to read and yield it, in an order that is always the same."""

    def close(self) -> None: ...


@runtime_checkable
class Watched(Source, Protocol):
    """A source that can tell what there is to read without reading it."""

    def look(self) -> dict[str, str]:
        """Return the files that are there, each with its version; none: nothing is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Something that can be read. `rows` (an estimate) and `bytes` are None where nobody knows."""

    name: str
    schema: str = ""
    kind: str = "table"
    key: Sequence[str] = ()
    rows: int | None = None
    bytes: int | None = None


@runtime_checkable
class Discovering(Source, Protocol):
    """A source that can tell what else there is to read where it reads."""

    def discover(self) -> Sequence[Stream]:
        """Return tables and views, sorted by name."""


@runtime_checkable
class Deleting(Source, Protocol):
    """A source that can tell which rows there are, so that those that are gone can be removed."""

    def keys(self) -> Scan | None:
        """Return the keys of all rows, of the state that `scans` has read; None: not asked for."""


class SourceMaker(Protocol):
    """A source's class."""

    spec: ClassVar[Spec]

    def __call__(self, config: Config, tools: Tools) -> Source: ...
