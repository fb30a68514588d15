"""Bindings of text.c: CSV as an Arrow stream, and an independent count of records.

The library is built with the package (hatch_build.py). Where it is missing everything still works,
by slower ways: callers get None.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint8
from pathlib import Path
from typing import Any, Final, Literal

LIBRARY: Final = Path(__file__).with_name("libheadrace.so")
CHUNK_BYTES: Final = 1 << 20
DIGITS_MAX: Final = 38  # of a decimal that is read here
WHOLE: Final = 1 << 62
_NAME: Final = b"arrow_array_stream"  # PyCapsule keeps the pointer

Kind = Literal["text", "integer", "decimal", "date", "float", "timestamp", "boolean"]
_KINDS: Final[Sequence[Kind]] = (
    "text", "integer", "decimal", "date", "float", "timestamp", "boolean",
)  # fmt: skip


class _Column(Structure):
    _fields_ = (("kind", c_int32), ("precision", c_int32), ("scale", c_int32))


class _Report(Structure):
    _fields_ = (
        ("records", c_int64), ("place", c_int64), ("stopped_at", c_int64), ("odd_at", c_int64),
        ("stop", c_int64),
    )  # fmt: skip


@functools.cache
def library() -> Any:  # Any: ctypes knows its functions by name
    """Return the loaded library, or None where it was not built."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
    except OSError:
        return None
    found.headrace_csv_open.argtypes = (
        c_char_p, c_int64, c_int64, c_int32, c_uint8, c_uint8, POINTER(_Column), c_int32, c_size_t,
        POINTER(_Report), POINTER(ctypes.c_void_p),
    )  # fmt: skip
    found.headrace_csv_count.argtypes = (c_char_p, c_uint8, c_uint8, c_int32, c_size_t)
    found.headrace_csv_count.restype = c_int64
    found.headrace_mysql_rows.restype = None
    found.headrace_mysql_rows.argtypes = (
        ctypes.c_void_p, c_int64, c_int32, ctypes.c_void_p, ctypes.c_void_p
    )  # fmt: skip
    found.headrace_pg_drain.argtypes = (
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, c_int32, ctypes.c_void_p,
        ctypes.c_void_p,
    )  # fmt: skip
    return found


def available() -> bool:
    """Tell whether the library was built."""
    return library() is not None


def count_records(
    path: str, *, delimiter: str, quote: str, blanks: bool, chunk_bytes: int = CHUNK_BYTES
) -> int | None:
    """Count the records of a CSV file by its newlines outside quotes, the header included.

    Blank lines count if `blanks`. None where quotes or carriage returns stand anywhere but where a
    plain CSV has them: only an exact reader can tell then. Raises OSError.
    """
    if (found := library()) is None:
        return None
    count = found.headrace_csv_count(
        os.fsencode(path), ord(delimiter), ord(quote), blanks, max(chunk_bytes, 3)
    )
    if count < -1:
        raise OSError(-2 - count, os.strerror(-2 - count), path)
    return None if count < 0 else int(count)


def readable(delimiter: str, quote: str) -> bool:
    """Tell whether CsvStream can read files with this delimiter and quote."""
    return available() and not {delimiter, quote} & set("0123456789+-.")


class CsvStream:
    """The records of a plain CSV file that begin in [begin, end), as an Arrow stream.

    Its columns are named c0, c1, …: text (UTF-8), integer (64 bits), decimal (up to 38 digits),
    date (days), float (64 bits), timestamp (microseconds of UTC) and boolean. An empty cell is
    NULL, an empty text in quotes is not. At the first record that is not plain the stream fails,
    saying that a row does not fit. The stream may be asked for again; the marks tell of the last
    one.
    """

    def __init__(
        self, path: str, columns: Sequence[tuple[Kind, int, int]], *, delimiter: str, quote: str,
        header: bool, begin: int = 0, end: int = WHOLE, chunk_bytes: int = CHUNK_BYTES,
    ) -> None:  # fmt: skip
        """`columns`: kind, precision, scale. `begin` is 0 or where a record begins."""
        self.begin = begin
        self._report = _Report(0, begin, -1, -1, 0)
        self._columns = (_Column * len(columns))(
            *(_Column(_KINDS.index(kind), *size) for kind, *size in columns)
        )
        self._path = path
        self._args = (
            os.fsencode(path), begin, end, header, ord(delimiter), ord(quote), self._columns,
            len(columns), chunk_bytes,
        )  # fmt: skip

    @property
    def records(self) -> int:
        """Records read so far."""
        return int(self._report.records)

    @property
    def place(self) -> int:
        """Where the next record begins, in bytes."""
        return int(self._report.place)

    @property
    def stopped_at(self) -> int | None:
        """Where the first record behind the last one of this stream begins; None before its end."""
        return None if self._report.stopped_at < 0 else int(self._report.stopped_at)

    def stop(self) -> None:
        """Make the stream that is being read fail before its next batch."""
        self._report.stop = 1

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Open the file. Raises OSError."""
        stream = ctypes.c_void_p()
        library_ = library()
        number = library_.headrace_csv_open(*self._args, byref(self._report), byref(stream))
        if number:
            raise OSError(number, os.strerror(number), self._path)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, c_char_p, ctypes.c_void_p)
        free = ctypes.cast(library_.headrace_capsule_free, ctypes.c_void_p)
        capsule: object = new(stream, _NAME, free)
        return capsule
