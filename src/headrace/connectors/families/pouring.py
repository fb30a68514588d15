"""Rows that are read while they are still on their way into their file.

A large table takes its time to come. Its rows are judged and loaded meanwhile, the quick way; who
wants more than that (an exact look, a count) waits for the last of them.
"""

import ctypes
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final

import duckdb

from headrace.connectors.families.csv_scan import CsvForm, CsvScan
from headrace.connectors.families.quick_csv import QuickCsv, QuickCsvFiles
from headrace.connectors.families.text_scan import HEAD_BYTES
from headrace.contract.source import Cell, File, Survey
from headrace.contract.tools import Tools
from headrace.domain.errors import Cancelled
from headrace.native import text

WAIT_S: Final = 0.1
STOP_S: Final = 10  # then a peer that does not answer is left to its own time-out


class Pouring:
    """A file that a thread of its own appends to, from `begin` on.

    Its `records` are known when it is whole, like its size, which is a guess until then.
    """

    def __init__(self, file: File, pour: Callable[[], int], tools: Tools) -> None:
        """`pour` appends all rows, and returns how many there are."""
        self.file = file
        self.growth = ctypes.c_int64(text.GROWING)
        self._pour = pour
        self._tools = tools
        self._stopped = threading.Event()
        self._done: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, name="headrace-pour", daemon=True)
        file.counting = self._done

    def begin(self) -> None:
        """Begin, and return when there is something to look at. Raises what `pour` raises."""
        self._thread.start()
        path = Path(self.file.path)
        while not self._done.done() and (size := path.stat().st_size) <= HEAD_BYTES:
            self._tools.told(f"reading {self.file.name}", done=size)
            self._stopped.wait(0.01)
        if self._done.done():
            self.wait()

    def _run(self) -> None:
        try:
            rows = self._pour()
            self.file.bytes = Path(self.file.path).stat().st_size
        except BaseException as error:  # told to who waits
            self._done.set_exception(error)
            self.growth.value = text.CUT
        else:
            self._done.set_result(rows)
            self.growth.value = text.GROWN

    @property
    def goes_on(self) -> bool:
        return not self._done.done()

    def proceed(self, _done: int) -> None:
        """Have `pour` go on, if it may: raises Cancelled."""
        if self._stopped.is_set():
            raise Cancelled("Nobody waits for the rows any more.")

    def wait(self) -> None:
        """Return when the file is whole. Raises what `pour` raises."""
        while True:
            try:
                self._done.result(WAIT_S)
            except TimeoutError:
                if self._done.done():
                    raise
                self._tools.told("")
            else:
                return

    def stop(self) -> None:
        """End it, whatever is left; may be called at any time, and twice."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)


class PouredScan(CsvScan):
    """The rows of one file that is being written."""

    def __init__(self, pouring: Pouring, names: Sequence[str], form: CsvForm, tools: Tools) -> None:
        super().__init__([pouring.file], names, form, tools)
        self._pouring = pouring

    def _settle(self, files: Sequence[File]) -> None:
        """Wait for the file, if it is among those that are asked for."""
        if any(file.path == self._pouring.file.path for file in files):
            self._pouring.wait()

    def relation(self, files: Sequence[File], *, with_file: bool) -> str:
        self._settle(files)
        return super().relation(files, with_file=with_file)

    def survey(self, file: File, wanted: Sequence[int], keep: int) -> Survey:
        self._settle([file])
        return super().survey(file, wanted, keep)

    def cleaned(self, file: File) -> File:
        self._settle([file])
        return super().cleaned(file)

    def quick(
        self, con: duckdb.DuckDBPyConnection, types: Mapping[str, str], *, in_order: bool
    ) -> QuickCsv | QuickCsvFiles | None:
        if self._pouring.goes_on:
            return QuickPoured(
                con, self._pouring, self.cells, types, self._tools, self._form, in_order=in_order
            )  # fmt: skip
        self._pouring.wait()
        return super().quick(con, types, in_order=in_order)


class QuickPoured(QuickCsv):
    """The quick way through such a file: one stream, as far as the file is there."""

    def __init__(
        self, con: duckdb.DuckDBPyConnection, pouring: Pouring, cells: Sequence[Cell],
        types: Mapping[str, str], tools: Tools, form: CsvForm, *, in_order: bool,
    ) -> None:  # fmt: skip
        super().__init__(
            con, [pouring.file], cells, types, tools, delimiter=form.delimiter, quote=form.quote,
            header=form.header, in_order=in_order, threads=1, growth=pouring.growth,
        )  # fmt: skip
        self._pouring = pouring

    def share(self) -> float:
        [stream] = self.streams([self._pouring.file])
        return min(stream.place / max(self._pouring.file.bytes, 1), 1.0)

    def complete(self) -> bool:
        self._pouring.wait()
        return super().complete()
