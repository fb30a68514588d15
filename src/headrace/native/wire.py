"""Bindings of wire.c and copy.c: rows as databases send them, and as they take them."""

import ctypes
import functools
import glob
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from ctypes import Structure, byref, c_int32, c_int64, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from headrace.native.text import library

CHUNK_BYTES: Final = 1 << 20


@functools.cache
def _libpq() -> Any:
    """Return the libpq that psycopg has loaded; None where it cannot be told."""
    import psycopg

    if psycopg.pq.__impl__ == "python":
        return None  # it has no pointer to its connection either
    try:
        import psycopg_binary
    except ImportError:
        return None
    beside = Path(psycopg_binary.__file__).parent
    found = glob.glob(f"{glob.escape(str(beside))}.libs/libpq-*") + glob.glob(
        f"{glob.escape(str(beside))}/.dylibs/libpq*"
    )
    return ctypes.CDLL(found[0]) if len(found) == 1 else None


@dataclass(slots=True)
class Drain:
    """A COPY of PostgreSQL on its way into a file. `bytes` may be looked at, from any thread."""

    _bytes: c_int64 = field(default_factory=c_int64)
    _stop: c_int64 = field(default_factory=c_int64)

    @property
    def bytes(self) -> int:
        return int(self._bytes.value)

    def stop(self) -> None:
        """Make it end at its next MiB."""
        self._stop.value = 1

    def run(self, connection: int, file: int) -> bool:
        """Append every row of the COPY that is under way to a file descriptor.

        `connection` is libpq's. Returns False where libpq has an error to tell, or was stopped.
        Raises OSError for the file.
        """
        found, libpq = library(), _libpq()
        assert found is not None
        assert libpq is not None  # `drains` was asked
        number = found.headrace_pg_drain(
            c_void_p(connection), ctypes.cast(libpq.PQgetCopyData, c_void_p),
            ctypes.cast(libpq.PQfreemem, c_void_p), file, byref(self._bytes), byref(self._stop),
        )  # fmt: skip
        if number > 0:
            raise OSError(number, os.strerror(number))
        return bool(number == 0)


def drains() -> bool:
    """Tell whether Drain works on this machine."""
    return library() is not None and _libpq() is not None


COPY_BYTES: Final = 1 << 17  # of rows that are written at once: they stay near the processor
_FORMS: Final = {
    "string": 0, "large_string": 1, "decimal128": 4, "decimal64": 5, "int64": 6, "date32[day]": 7,
    "double": 8, "timestamp[us]": 9, "time64[us]": 10, "bool": 11,
}  # fmt: skip
_AS_JSON: Final = 2  # more than the text's


class _Form(Structure):
    _fields_ = (("type", c_int32), ("scale", c_int32))


class CopyRows:
    """Arrow batches as rows of PostgreSQL's `COPY … (FORMAT binary)`."""

    def __init__(self, forms: Sequence[_Form]) -> None:
        self._forms = (_Form * len(forms))(*forms)
        self._out = bytearray()

    @classmethod
    def of(cls, schema: Any, json: Collection[str]) -> Self | None:
        """Return what writes batches of a schema of pyarrow; None where that cannot be done here.

        `json`: columns of text that go into columns of jsonb.
        """
        forms = [_form(field.type, json=field.name in json) for field in schema]
        if library() is None or None in forms:
            return None
        return cls([form for form in forms if form])

    def header(self) -> bytes:
        return b"PGCOPY\n\xff\r\n\0" + bytes(8)

    def end(self) -> bytes:
        return b"\xff\xff"

    def parts(self, batch: Any) -> Iterator[memoryview]:
        """Yield the rows of a batch; each part is gone when the next is asked for."""
        found = library()
        _, capsule = batch.__arrow_c_array__()
        array = _array_of(capsule)
        few = max(COPY_BYTES * batch.num_rows // max(batch.nbytes, 1), 1)
        for first in range(0, batch.num_rows, few):
            count = min(few, batch.num_rows - first)
            room = found.headrace_pg_room(array, self._forms, first, count)
            if room > len(self._out):
                self._out = bytearray(room)
            out = (ctypes.c_char * len(self._out)).from_buffer(self._out)
            made = found.headrace_pg_rows(array, self._forms, first, count, out)
            yield memoryview(out)[:made]


def _form(type_: Any, *, json: bool) -> _Form | None:
    type_ = getattr(type_, "storage_type", type_)
    name = str(type_).partition("(")[0]
    if name not in _FORMS or (json and not name.endswith("string")):
        return None
    return _Form(_FORMS[name] + _AS_JSON * json, getattr(type_, "scale", 0))


def _array_of(capsule: object) -> c_void_p:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype = c_void_p
    get.argtypes = (ctypes.py_object, ctypes.c_char_p)
    return c_void_p(get(capsule, b"arrow_array"))


class _Rows(Structure):
    _fields_ = (
        ("taken", c_int64), ("made", c_int64), ("records", c_int64), ("wanted", c_int64),
        ("status", c_int32),
    )  # fmt: skip


MORE, END, ERROR, BROKEN = range(4)


class MysqlRows:
    """The rows of a text result of MySQL as CSV lines.

    `read` gives some of the connection's next bytes, never none. `left` is what was read beyond
    the rows: the packet of an error, if the server told of one.
    """

    def __init__(self, columns: int, read: Callable[[int], bytes]) -> None:
        self._columns = columns
        self._read = read
        self.records = 0
        self.left = b""
        self.ended = False

    def pour(self, write: Callable[[Any], Any], told: Callable[[], None]) -> bool:
        """Write every row; `told` is called now and then. Returns False for an error packet.

        Raises ValueError for bytes that are no rows.
        """
        found = library()
        assert found is not None  # `available` was asked
        report = _Rows()
        held = bytearray()
        room = ctypes.create_string_buffer(0)
        while True:
            held += self._read(CHUNK_BYTES)
            if report.wanted > len(held):
                continue
            if len(room) < 3 * len(held):
                room = ctypes.create_string_buffer(3 * len(held))
            view = (ctypes.c_char * len(held)).from_buffer(held)
            found.headrace_mysql_rows(view, len(held), self._columns, room, byref(report))
            del view
            if report.made:
                write(memoryview(room)[: report.made])
            self.records += report.records
            del held[: report.taken]
            if report.status == BROKEN:
                raise ValueError("The server sent what is no row.")
            if report.status != MORE:
                self.left = bytes(held)
                self.ended = True
                return bool(report.status == END)
            told()


def available() -> bool:
    """Tell whether MysqlRows works on this machine."""
    return library() is not None
