"""Backup and restore of the embedded store: one file of everything that a server keeps itself.

A backup is taken while the server works. What is copied after the control store is never older
than it: a run that the copy knows to have landed has landed in the copies of the indexes too.
"""

import contextlib
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headrace import __version__
from headrace.domain.errors import Conflict, Invalid, Misconfigured, Refused

CONTROL: Final = "control.db"
KEYS: Final = ("master.key", "admin.key", "server.id")
DATABASES: Final = ("indexes", "ledgers")  # folders of SQLite files
FILES: Final = ("quarantine", "uploads")
LEFT_OUT: Final = ("files", "lake")
NOTE: Final = "headrace-backup.txt"
BUSY_S: Final = 30.0

Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a backup holds, and what lies beside it that it does not hold."""

    bytes: int
    files: int
    left_out: tuple[str, ...]


def _quiet(what: str, done: int, total: int) -> None:
    return


def backup(data_dir: Path, target: Path, told: Told = _quiet) -> Summary:
    """Write a backup of a data folder to `target`, readable by its owner only.

    Raises Invalid for a folder without an embedded store, Conflict for a file that is there.
    """
    if not (data_dir / CONTROL).exists():
        raise Invalid(
            f"There is no {CONTROL} in {data_dir}.",
            hint="Name the server's --data-dir. A store in PostgreSQL is backed up by pg_dump.",
            field="--data-dir",
        )
    if target.exists():
        raise Conflict(f"{target} is there already.", hint="Name another file.", field="file")
    try:
        with (
            _snapshot(data_dir, told) as folder,
            _replacing(target) as partial,
            tarfile.open(partial, "w:gz", compresslevel=1) as archive,
        ):
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            total = sum(path.stat().st_size for path in paths)
            done = 0
            for path in paths:
                archive.add(path, path.relative_to(folder).as_posix(), recursive=False)
                done += path.stat().st_size
                told("writing", done, total)
    except OSError as error:
        raise Refused(f"The backup cannot be written: {error.strerror}.", field="file") from error
    full = [
        name
        for name in LEFT_OUT
        if any(path.is_file() for path in (data_dir / name).rglob("*"))
    ]  # fmt: skip
    return Summary(bytes=target.stat().st_size, files=len(paths), left_out=tuple(full))


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Lend a file that becomes the target only when all is written, and on disk."""
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _snapshot(data_dir: Path, told: Told) -> Iterator[Path]:
    """Lend a folder with a consistent copy of everything."""
    (data_dir / "spool").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="backup-", dir=data_dir / "spool") as name:
        folder = Path(name)
        source = _opened(data_dir / CONTROL)
        lock = _opened(data_dir / CONTROL)
        try:
            lock.execute("begin immediate")  # nobody writes while the files are linked
            source.execute("begin")
            source.execute("select count(*) from sqlite_master").fetchone()
            for part in FILES:
                _link(data_dir / part, folder / part)
            for key in KEYS:
                if (data_dir / key).exists():
                    (folder / key).write_bytes((data_dir / key).read_bytes())
            lock.execute("rollback")
            _copy(source, folder / CONTROL, told)
        finally:
            lock.close()
            source.close()
        for part in DATABASES:
            for path in sorted((data_dir / part).glob("*.db")):
                (folder / part).mkdir(exist_ok=True)
                with contextlib.closing(_opened(path)) as other:
                    _copy(other, folder / part / path.name, told)
        (folder / NOTE).write_text(f"headrace {__version__}\n")
        yield folder


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)


def _copy(source: sqlite3.Connection, target: Path, told: Told) -> None:
    def progress(_status: int, left: int, total: int) -> None:
        told(target.name, total - left, total)

    with contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy, pages=4096, progress=progress)
        if (found := copy.execute("pragma quick_check").fetchone()[0]) != "ok":
            raise Refused(f"{target.name} is damaged: {found[:200]}")


def _link(source: Path, target: Path) -> None:
    for path in source.rglob("*") if source.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.link(path, place)


def restore(archive: Path, data_dir: Path, newest: str) -> Summary:
    """Make a data folder of a backup. `newest`: the newest revision of the store known here.

    Fences go on from a number that no earlier attempt had: what still works for the old folder
    is refused by the destinations. Raises Conflict for a folder that holds a store.
    """
    if (data_dir / CONTROL).exists():
        raise Conflict(
            f"{data_dir} holds a store already.", hint="Name a new folder.", field="--data-dir"
        )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o750)
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".restore-", dir=data_dir) as name,
            tarfile.open(archive, "r:gz") as opened,
        ):
            folder = Path(name)
            opened.extractall(folder, filter="data")
            if not (folder / NOTE).exists() or not (folder / CONTROL).exists():
                raise Invalid(f"{archive} is no backup of headrace.", field="file")
            _check(folder / CONTROL, newest)
            paths = [path for path in folder.rglob("*") if path.is_file()]
            size = sum(path.stat().st_size for path in paths)
            # The store comes last: without it the folder is not one that a server works over.
            for path in sorted(paths, key=lambda path: path.name == CONTROL):
                if path.name != NOTE:
                    place = data_dir / path.relative_to(folder)
                    place.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
                    path.rename(place)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Refused(f"{archive} cannot be read: {error}", field="file") from error
    return Summary(bytes=size, files=len(paths) - 1, left_out=())


def _check(control: Path, newest: str) -> None:
    with contextlib.closing(_opened(control)) as con:
        if (found := con.execute("pragma quick_check").fetchone()[0]) != "ok":
            raise Refused(f"The store in the backup is damaged: {found[:200]}", field="file")
        (revision,) = con.execute("select version_num from alembic_version").fetchone()
        if revision > newest:
            raise Misconfigured(
                "The backup was made by a newer headrace.",
                hint="Restore it with the version that made it, or a newer one.", field="file",
            )  # fmt: skip
        moment = time.time_ns() // 1_000_000  # fences are counted by ones: never so high
        con.execute("update counter set value = max(value, ?) where name = 'fence'", [moment])
