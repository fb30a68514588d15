"""What a connector is handed: guarded access to the outside, and room to work in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from headrace.domain.errors import OwnerError
from headrace.domain.run import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A body on this machine. `content_type` is empty where none was told."""

    path: Path
    content_type: str
    version: str = ""  # what the server tells of this state of it: its ETag, or its date


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was read by the last committed run, for a run that reads only what has changed.

    `versions` by file name. `after` (seconds since 1970): files that are not among them and have
    not changed since then count as read. `whole`: where anything has changed, all is read.
    """

    versions: Mapping[str, str]
    after: float | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFile:
    """One file among others that cannot be read, and why."""

    name: str
    bytes: int
    error: OwnerError


class Parts(Protocol):
    """A body that stays where it is. `version` tells one state of it from another."""

    @property
    def size(self) -> int: ...

    @property
    def version(self) -> str: ...

    def read(self, start: int, end: int) -> bytes:
        """Return some bytes of the state that was met first. Raises Unavailable for another."""


class Tools(Protocol):
    """Handed to every connector by whoever makes it."""

    spool: Path  # a folder of this run's own; removed after it
    memory_bytes: int
    tenant: str
    data_dir: Path
    hosts: Mapping[str, str]  # URLs of services that the operator has elsewhere, by name
    known: Known | None  # None: read everything
    range: Range | None  # a back-fill: read nothing but this
    repeatable: bool  # rows that were read before may be given again: their keys tell
    # Of a source's columns those that the key is made of; None: the keys of all are not wanted.
    key_columns: Callable[[Sequence[str]], Sequence[str]] | None
    needs: Callable[[Sequence[str]], Sequence[str]] | None  # of all columns those that are used
    bad: list[BadFile]  # what was left out; where nothing else is, its error is the run's
    passed: dict[str, str]  # versions of files that are passed over for the first time

    def allowed_paths(self, pattern: str) -> list[Path]:
        """Return the files that a path or glob names, sorted. Raises Denied outside the roots."""

    def allowed_target(self, path: str) -> Path:
        """Return the real path of something to be written. Raises Denied outside the roots."""

    def fetch(
        self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> Fetched | None:
        """Stream a body into the spool: guarded, resumed when it breaks, limited in bytes.

        Returns None where the headers ask for what has changed, and nothing has.
        """

    def parts(self, url: str, headers: dict[str, str]) -> "Parts | None":
        """Return a body of which parts can be asked for; None where it only comes whole."""

    def version_of(self, url: str, headers: dict[str, str]) -> str | None:
        """Ask what state a body is in, without the body; None: nothing is there."""

    def guard_host(self, host: str, port: int) -> str:
        """Resolve a host, check where it leads, return the address to dial."""

    def told(self, message: str, *, done: int = 0, total: int = 0, phase: str = "fetching") -> None:
        """Tell how far slow work is, and notice a cancel: raises Cancelled."""

    def waiting(self, reason: str | None) -> None:
        """Tell that the run waits for `reason`, or that it waits no more."""
