"""Digests of what a run reads: SHA-256 of every file as it came, beside the loading."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from headrace.contract.source import File
from headrace.domain.errors import Unavailable

CHUNK_BYTES: Final = 1 << 20
WAIT_S: Final = 0.1


class Digests:
    """Reads files one after the other in a thread of its own; a body is read once.

    A file that changes while the run reads it is an error: nobody could tell what was read.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self._found: dict[str, str] = {}
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._names = {file.body: file.name for file in files if file.body}
        self._states = {path: _state(path) for path in self._names}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        buffer = memoryview(bytearray(CHUNK_BYTES))
        try:
            for path in self._names:
                digest = hashlib.sha256()
                with Path(path).open("rb", buffering=0) as body:
                    while (size := body.readinto(buffer)) and not self._stop.is_set():
                        digest.update(buffer[:size])
                if self._stop.is_set():
                    return
                self._found[path] = digest.hexdigest()
        except BaseException as error:  # told to who waits
            self._error = error

    def wait(self, told: Callable[[], None]) -> None:
        """Return when all is read; call `told` meanwhile. Raises Unavailable for what changed."""
        while self._thread.is_alive():
            told()
            self._thread.join(WAIT_S)
        if changed := self.changed():
            raise changed
        if self._error is not None:
            raise self._error

    def changed(self) -> Unavailable | None:
        """Return the error of a file that is no longer as it was; it may be whole next time."""
        for path, name in self._names.items():
            if _state(path) != self._states[path]:
                return Unavailable(
                    f"{name} has changed while it was read.",
                    hint="Nothing was published; it is to be read again when it is whole.",
                )
        return None

    def of(self, file: File) -> str:
        """Return a file's digest, after `wait`; empty for what is no file."""
        return self._found.get(file.body, "")

    def stop(self) -> None:
        """Read no more; may be called at any time, and twice."""
        self._stop.set()
        self._thread.join()


def _state(path: str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except FileNotFoundError:
        return ()
    return (found.st_size, found.st_mtime_ns, found.st_ino)
