"""The tools that connectors are handed: guarded fetching, allowed paths, a spool."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from headrace.contract.tools import BadFile, Fetched, Known
from headrace.domain.run import Range

if TYPE_CHECKING:
    from headrace.connectors.fetching import Fetch, RangedBody

AddressOf = Callable[[str, int], str]
Told = Callable[[str, str, int, int], None]


class Paths(Protocol):
    """Which local files may be used."""

    def found(self, pattern: str) -> list[Path]: ...

    def target(self, path: str) -> Path: ...


def _quiet(phase: str, message: str, done: int, total: int) -> None:
    return


def _patient(reason: str | None) -> None:
    return


class WorkTools:
    """Tools of one run, check or preview."""

    def __init__(
        self,
        *,
        spool: Path,
        data_dir: Path,
        tenant: str,
        paths: Paths,
        address_of: AddressOf,
        memory_bytes: int = 512 << 20,
        told: Told = _quiet,
        waiting: Callable[[str | None], None] = _patient,
        hosts: Mapping[str, str] | None = None,
        known: Known | None = None,
        range_: Range | None = None,
        repeatable: bool = False,
    ) -> None:
        self.spool = spool
        self.data_dir = data_dir
        self.tenant = tenant
        self.memory_bytes = memory_bytes
        self.hosts = hosts or {}
        self.known = known
        self.range = range_
        self.repeatable = repeatable
        self.passed: dict[str, str] = {}
        self.bad: list[BadFile] = []
        self.key_columns: Callable[[Sequence[str]], Sequence[str]] | None = None
        self.needs: Callable[[Sequence[str]], Sequence[str]] | None = None
        self._paths = paths
        self._address_of = address_of
        self._told = told
        self._waiting = waiting

    def allowed_paths(self, pattern: str) -> list[Path]:
        return self._paths.found(pattern)

    def allowed_target(self, path: str) -> Path:
        return self._paths.target(path)

    def guard_host(self, host: str, port: int) -> str:
        return self._address_of(host, port)

    def told(self, message: str, *, done: int = 0, total: int = 0, phase: str = "fetching") -> None:
        self._told(phase, message, done, total)

    def waiting(self, reason: str | None) -> None:
        self._waiting(reason)

    def fetch(
        self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> Fetched | None:
        return self._fetch(url, method, headers or {}).run()

    def parts(self, url: str, headers: dict[str, str]) -> "RangedBody | None":
        return self._fetch(url, "GET", headers).parts()

    def version_of(self, url: str, headers: dict[str, str]) -> str | None:
        return self._fetch(url, "HEAD", headers).version()

    def _fetch(self, url: str, method: str, headers: dict[str, str]) -> "Fetch":
        from headrace.connectors.fetching import Fetch  # most runs need no HTTP

        return Fetch(self, url, method, headers)
