"""Bindings of text.c: CSV and JSON as Arrow streams, and counts of their records.

The library is built with the package (hatch_build.py). Where it is missing everything still works,
by slower ways: callers get None.
"""

import ctypes
import functools
import os
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_int64, c_size_t, c_uint8
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

_VALUES: Final = ("NULL", "BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR", "OBJECT")
LIBRARY: Final = Path(__file__).with_name("libheadrace.so")
CHUNK_BYTES: Final = 1 << 20
GLIMPSE_MAX: Final = 1_000  # records: of so few it reads
GLIMPSE_BYTES: Final = 1 << 16  # at once
MARK_BYTES: Final = 8 << 20
DIGITS_MAX: Final = 38  # of a decimal that is read here
WHOLE: Final = 1 << 62
GROWN, GROWING, CUT = range(3)  # of a file that is read while it is written
_NAME: Final = b"arrow_array_stream"  # PyCapsule keeps the pointer

Kind = Literal["text", "integer", "decimal", "date", "float", "timestamp", "boolean", "json"]
_KINDS: Final[Sequence[Kind]] = (
    "text", "integer", "decimal", "date", "float", "timestamp", "boolean", "json",
)  # fmt: skip


class _Column(Structure):
    _fields_ = (("kind", c_int32), ("precision", c_int32), ("scale", c_int32))


class _Left(Structure):
    _fields_ = (("offset", c_int64), ("size", c_int64), ("record", c_int64), ("file", c_int64))


class _Report(Structure):
    _fields_ = (
        ("records", c_int64), ("place", c_int64), ("stopped_at", c_int64), ("odd_at", c_int64),
        ("stop", c_int64), ("left", c_int64), ("left_max", c_int64), ("lefts", ctypes.c_void_p),
        ("closed", c_int64), ("growing", POINTER(c_int64)),
    )  # fmt: skip


class _Name(Structure):
    _fields_ = (
        ("text", ctypes.c_void_p), ("size", c_size_t), ("next", c_int32), ("sampled", c_int32),
        ("kinds", c_int32), ("record", c_int64), ("place", c_int64),
        ("row", c_int64), ("plain", c_int32),
    )  # fmt: skip


class _Survey(Structure):
    _fields_ = (
        ("records", c_int64), ("odd_at", c_int64), ("names", c_int32), ("marks", c_int32),
        ("name", POINTER(_Name)), ("mark", POINTER(c_int64)), ("json", ctypes.c_void_p),
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
    found.headrace_csv_open_many.argtypes = (
        c_char_p, c_size_t, c_int32, c_int32, c_uint8, c_uint8, POINTER(_Column), c_int32, c_size_t,
        POINTER(_Report), POINTER(ctypes.c_void_p),
    )  # fmt: skip
    found.headrace_csv_count.argtypes = (c_char_p, c_uint8, c_uint8, c_int32, c_size_t)
    found.headrace_csv_count.restype = c_int64
    found.headrace_lines_count.argtypes = (c_char_p, c_size_t)
    found.headrace_lines_count.restype = c_int64
    found.headrace_json_open.argtypes = (
        c_char_p, c_size_t, c_int32, c_int64, c_int64, c_int32, POINTER(_Column), c_int32, c_char_p,
        POINTER(c_int32), c_size_t, POINTER(_Report), POINTER(ctypes.c_void_p),
    )  # fmt: skip
    found.headrace_json_survey.argtypes = (
        c_char_p, c_int32, c_int64, c_int64, c_int64, c_size_t, POINTER(_Report), POINTER(_Survey),
    )  # fmt: skip
    found.headrace_json_forget.argtypes = (POINTER(_Survey),)
    found.headrace_json_forget.restype = None
    found.headrace_mysql_rows.restype = None
    found.headrace_mysql_rows.argtypes = (
        ctypes.c_void_p, c_int64, c_int32, ctypes.c_void_p, ctypes.c_void_p
    )  # fmt: skip
    found.headrace_pg_room.restype = found.headrace_pg_rows.restype = c_int64
    found.headrace_pg_room.argtypes = (ctypes.c_void_p, ctypes.c_void_p, c_int64, c_int64)
    found.headrace_pg_rows.argtypes = (
        ctypes.c_void_p, ctypes.c_void_p, c_int64, c_int64, ctypes.c_void_p
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


def count_lines(path: str, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Count the lines of a file that hold anything but space. Needs the library; raises OSError."""
    count: int = library().headrace_lines_count(os.fsencode(path), max(chunk_bytes, 3))
    if count < 0:
        raise OSError(-2 - count, os.strerror(-2 - count), path)
    return count


def readable(delimiter: str, quote: str) -> bool:
    """Tell whether CsvStream can read files with this delimiter and quote."""
    return available() and not {delimiter, quote} & set("0123456789+-.")


class _Stream:
    """A file's records that begin in [begin, end), as an Arrow stream.

    Its columns are named c0, c1, …: text (UTF-8), integer (64 bits), decimal (up to 38 digits),
    date (days), float (64 bits), timestamp (microseconds of UTC), boolean and, of JSON, raw json.
    At the first record that is not plain the stream fails, saying that a row does not fit. The
    stream may be asked for again; the marks tell of the last one.
    """

    def __init__(
        self, path: str, columns: Sequence[tuple[Kind, int, int]], begin: int, end: int,
        chunk_bytes: int, left_max: int,
    ) -> None:  # fmt: skip
        """`columns`: kind, precision, scale. `begin` is 0 or where a record begins.

        `left_max`: how many records that are not plain are passed over before it fails.
        """
        self.begin = begin
        self._end = end
        self._report, self._lefts = _report(begin, left_max)
        self._columns = (_Column * len(columns))(
            *(_Column(_KINDS.index(kind), *size) for kind, *size in columns)
        )
        self._path = path
        self._chunk_bytes = chunk_bytes

    @property
    def records(self) -> int:
        """Records read so far."""
        return int(self._report.records)

    @property
    def left(self) -> Sequence["Left"]:
        """Records that were passed over."""
        return _left(self._report, self._lefts)

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

    def _open(self, stream: ctypes.c_void_p) -> int:
        raise NotImplementedError

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Open the file. Raises OSError: BrokenPipeError for one that is CUT."""
        stream = ctypes.c_void_p()
        if number := self._open(stream):
            raise OSError(number, os.strerror(number), self._path)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, c_char_p, ctypes.c_void_p)
        free = ctypes.cast(library().headrace_capsule_free, ctypes.c_void_p)
        capsule: object = new(stream, _NAME, free)
        return capsule


class CsvStream(_Stream):
    """The records of a plain CSV file. An empty cell is NULL, an empty text in quotes is not."""

    def __init__(
        self, path: str, columns: Sequence[tuple[Kind, int, int]], *, delimiter: str, quote: str,
        header: bool, begin: int = 0, end: int = WHOLE, chunk_bytes: int = CHUNK_BYTES,
        left_max: int = 0, growth: c_int64 | None = None,
    ) -> None:  # fmt: skip
        """`growth`: what becomes of a file that is still written.

        The stream waits while it is GROWING; when it is CUT it fails as if a row did not fit.
        """
        super().__init__(path, columns, begin, end, chunk_bytes, left_max)
        self._form = (header, ord(delimiter), ord(quote))
        if growth is not None:
            self._report.growing = ctypes.pointer(growth)

    def _open(self, stream: ctypes.c_void_p) -> int:
        found: int = library().headrace_csv_open(
            os.fsencode(self._path), self.begin, self._end, *self._form, self._columns,
            len(self._columns), self._chunk_bytes, byref(self._report), byref(stream),
        )  # fmt: skip
        return found


class ManyCsvStream(CsvStream):
    """The records of plain CSV files of one form, one file after the other.

    One column more than is asked for comes last: the number of the file, from 0. `stopped_at` is
    in the last file, and a file that was left tells which (`Left.file`).
    """

    def __init__(
        self, paths: Sequence[str], columns: Sequence[tuple[Kind, int, int]], *, delimiter: str,
        quote: str, header: bool, chunk_bytes: int = CHUNK_BYTES, left_max: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(
            paths[0], [*columns, ("integer", 0, 0)], delimiter=delimiter, quote=quote,
            header=header, chunk_bytes=chunk_bytes, left_max=left_max,
        )  # fmt: skip
        self.paths = paths

    def _open(self, stream: ctypes.c_void_p) -> int:
        paths = _ended(self.paths)
        found: int = library().headrace_csv_open_many(
            paths, len(paths), len(self.paths), *self._form, self._columns, len(self._columns),
            self._chunk_bytes, byref(self._report), byref(stream),
        )  # fmt: skip
        return found


class JsonStream(_Stream):
    """The records of a plain JSON file: objects, one a line or the elements of one array.

    What a record lacks is NULL, like null, but in columns of kind json, where null is `null`.
    """

    def __init__(
        self, path: str, columns: Sequence[tuple[Kind, int, int]], names: Sequence[bytes], *,
        lines: bool, begin: int = 0, end: int = WHOLE, chunk_bytes: int = CHUNK_BYTES,
        left_max: int = 0, closed: bool = False,
    ) -> None:  # fmt: skip
        """`names`: the columns' members, in UTF-8. `closed`: the stream fails at another one."""
        super().__init__(path, columns, begin, end, chunk_bytes, left_max)
        self._report.closed = closed
        self._lines = lines
        self._names = b"".join(names)
        self._sizes = (c_int32 * len(names))(*map(len, names))
        self.paths: Sequence[str] = ()

    def _open(self, stream: ctypes.c_void_p) -> int:
        paths = _ended(self.paths) or os.fsencode(self._path)
        found: int = library().headrace_json_open(
            paths, len(paths), len(self.paths), self.begin, self._end, self._lines, self._columns,
            len(self._columns), self._names, self._sizes, self._chunk_bytes, byref(self._report),
            byref(stream),
        )  # fmt: skip
        return found


class ManyJsonStream(JsonStream):
    """The records of plain JSON files, all of lines or all arrays, one file after the other.

    As in ManyCsvStream the number of the file is one column more.
    """

    def __init__(
        self, paths: Sequence[str], columns: Sequence[tuple[Kind, int, int]],
        names: Sequence[bytes], *, lines: bool, chunk_bytes: int = CHUNK_BYTES, left_max: int = 0,
        closed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            paths[0], [*columns, ("integer", 0, 0)], names, lines=lines, chunk_bytes=chunk_bytes,
            left_max=left_max, closed=closed,
        )  # fmt: skip
        self.paths = paths


@dataclass(frozen=True, slots=True)
class Member:
    """A member of JSON records. Kinds are names of json_type's kind; `sampled`: of the first."""

    name: bytes
    sampled: frozenset[str]
    kinds: frozenset[str]
    first: tuple[int, int]  # where it was seen first: the record, and the member there


@dataclass(frozen=True, slots=True)
class JsonSurvey:
    """What plain records of a file have. `marks`: where one begins, every MARK_BYTES.

    `left` are those that are not plain; `records` counts them too, and so does `sample`: how many
    are the first, whose kinds are told apart.
    """

    records: int
    members: Sequence[Member]
    marks: Sequence[int]
    left: "Sequence[Left]"
    sample: int


class Surveying:
    """A look at the records of a JSON file; `place` and `stop` may be used by other threads."""

    def __init__(
        self, path: str, *, lines: bool, sample: int, left_max: int = 0, most: int = WHOLE
    ) -> None:
        """`sample`: how many records are the first; `most`: how many are looked at."""
        chunk = min(CHUNK_BYTES, GLIMPSE_BYTES) if most <= GLIMPSE_MAX else CHUNK_BYTES
        self._args = (os.fsencode(path), lines, sample, most, MARK_BYTES, chunk)
        self._path = path
        self._sample = sample
        self._report, self._lefts = _report(0, left_max)

    @property
    def place(self) -> int:
        return int(self._report.place)

    def stop(self) -> None:
        self._report.stop = 1

    def run(self) -> JsonSurvey | None:
        """Return what was found; None if too many records are not plain. Raises OSError."""
        found = _Survey()
        number = library().headrace_json_survey(*self._args, byref(self._report), byref(found))
        try:
            if number:
                raise OSError(number, os.strerror(number), self._path)
            if found.odd_at >= 0:
                return None
            members = [
                Member(
                    ctypes.string_at(one.text, one.size),
                    _kinds(one.sampled),
                    _kinds(one.kinds),
                    (one.record, one.place),
                )
                for one in found.name[: found.names]
            ]
            left = _left(self._report, self._lefts)
            marks = list(found.mark[: found.marks])
            records = int(found.records) + len(left)
            return JsonSurvey(records, members, marks, left, self._sample)
        finally:
            library().headrace_json_forget(byref(found))


@dataclass(frozen=True, slots=True)
class Left:
    """A record that was passed over: where it begins, its bytes, its number (from 0).

    `file`: of which file of a stream over many, from 0.
    """

    offset: int
    size: int
    record: int
    file: int = 0


def _ended(paths: Sequence[str]) -> bytes:
    return b"".join(os.fsencode(path) + b"\0" for path in paths)


def _report(begin: int, left_max: int) -> tuple[_Report, Any]:  # Any: an array of _Left
    lefts = (_Left * left_max)()
    return _Report(0, begin, -1, -1, 0, 0, left_max, ctypes.addressof(lefts)), lefts


def _left(report: _Report, lefts: Any) -> list[Left]:  # Any: an array of _Left
    return [Left(one.offset, one.size, one.record, one.file) for one in lefts[: report.left]]


@functools.cache
def _kinds(bits: int) -> frozenset[str]:
    return frozenset(name for place, name in enumerate(_VALUES) if bits >> place & 1)
