"""Rows of MySQL's wire and of PostgreSQL's COPY as CSV: whatever they hold, wherever they are cut."""

import csv
import ctypes
import io
import os
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.native.text import library
from headrace.native.wire import MysqlRows

CELLS = (
    st.none()
    | st.binary(max_size=12)
    | st.sampled_from([b"", b",", b'"', b"\r\n", b"x" * 300, b"y" * 70_000])
)
END = b"\x05\x00\x00\x09\xfe\x00\x00\x02\x00"


def packed(row):
    body = b""
    for cell in row:
        if cell is None:
            body += b"\xfb"
        elif len(cell) < 0xFB:
            body += bytes([len(cell)]) + cell
        elif len(cell) < 1 << 16:
            body += b"\xfc" + len(cell).to_bytes(2, "little") + cell
        elif len(cell) < 1 << 24:
            body += b"\xfd" + len(cell).to_bytes(3, "little") + cell
        else:
            body += b"\xfe" + len(cell).to_bytes(8, "little") + cell
    return body


def packets(body):
    out = b""
    while True:
        part, body = body[:0xFFFFFF], body[0xFFFFFF:]
        out += len(part).to_bytes(3, "little") + b"\0" + part
        if len(part) < 0xFFFFFF:
            return out


def slow(rows):
    """Write CSV in which NULL is nothing, and an empty text is quoted."""
    lines = []
    for row in rows:
        cells = []
        for cell in row:
            if cell is None:
                cells.append(b"")
            elif cell == b"" or set(cell) & set(b',"\r\n'):
                cells.append(b'"' + cell.replace(b'"', b'""') + b'"')
            else:
                cells.append(cell)
        lines.append(b",".join(cells) + b"\n")
    return b"".join(lines)


def poured(data, columns, sizes):
    """Return CSV, and the reader: `sizes` are of the pieces in which bytes come."""
    at = 0
    turns = iter(sizes)

    def read(_):
        nonlocal at
        size = next(turns, 1 << 20)
        piece = data[at : at + size]
        at += len(piece)
        assert piece, "it reads on behind the end"
        return piece

    rows, out = MysqlRows(columns, read), io.BytesIO()
    ended = rows.pour(out.write, lambda: None)
    return out.getvalue(), rows, ended


@settings(max_examples=300, deadline=None)
@given(
    data=st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), max_size=6).map(lambda rows: (n, rows))),
    sizes=st.lists(st.integers(1, 50), max_size=60), more=st.binary(max_size=5),
)  # fmt: skip
def test_rows_become_csv_however_they_are_cut(data, sizes, more):
    columns, rows = data
    wire = b"".join(packets(packed(row)) for row in rows) + END + more
    text, reader, ended = poured(wire, columns, sizes)
    assert ended
    assert (text, reader.records) == (slow(rows), len(rows))
    plain = [row for row in rows if all(cell is not None and cell.isalnum() for cell in row)]
    if plain == rows and rows:  # what a library makes of it
        found = list(csv.reader(io.StringIO(text.decode("latin-1"), newline="")))
        assert found == [[cell.decode("latin-1") for cell in row] for row in rows]


def test_a_row_of_several_packets_is_one(tmp_path):
    row = (b"a" * 0x1000005, None, b'q"')
    text, reader, ended = poured(
        packets(packed(row)) + packets(packed((b"1", b"2", b"3"))) + END, 3, []
    )
    assert ended
    assert reader.records == 2
    assert text == b"a" * 0x1000005 + b',,"q"""\n1,2,3\n'


def test_an_error_in_the_middle_is_left_for_its_reader():
    error = b"\xff\x25\x05#HY000killed"
    text, reader, ended = poured(packets(packed((b"1",))) + packets(error), 1, [3, 4])
    assert not ended
    assert (text, reader.records) == (b"1\n", 1)
    assert reader.left[4:] == error


@pytest.mark.parametrize("body", [b"\x05ab", b"\x01a\x01b\x01c", b"\x01a", b"\xfd\x01"])
def test_nonsense_is_refused(body):
    with pytest.raises(ValueError, match="no row"):
        poured(packets(body) + END, 2, [])


ESCAPES = {8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 92: b"\\\\"}


def copied(row):
    """Write a row as COPY's text form does."""
    return (
        b"\t".join(
            b"\\N" if cell is None else b"".join(ESCAPES.get(sign, bytes([sign])) for sign in cell)
            for cell in row
        )
        + b"\n"
    )


def drained(rows):
    """Have the native reader take rows from a libpq of ten lines; return what it writes."""
    left = [ctypes.create_string_buffer(row, len(row)) for row in rows]
    taken = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int)
    def get(_, row, __):
        if not left:
            return -1
        taken.append(left.pop(0))
        row[0] = ctypes.addressof(taken[-1])
        return len(taken[-1])

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def let_go(_):
        pass

    size, stop = ctypes.c_int64(), ctypes.c_int64()
    with tempfile.TemporaryFile() as file:
        told = library().headrace_pg_drain(
            None, ctypes.cast(get, ctypes.c_void_p), ctypes.cast(let_go, ctypes.c_void_p),
            file.fileno(), ctypes.byref(size), ctypes.byref(stop),
        )  # fmt: skip
        assert told == 0
        assert os.fstat(file.fileno()).st_size == size.value
        file.seek(0)
        return file.read()


POSTGRES_CELLS = (
    st.none()
    | st.binary(max_size=12).map(lambda cell: cell.replace(b"\0", b""))
    | st.sampled_from(
        [
            b"",
            b",",
            b'"',
            b"\t",
            b"\\",
            b"\\N",
            b"\\n",
            b"a\r\nb",
            b"\\\\t",
            b"x" * 300,
            b"," * 70_000,
        ]
    )
)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 4).flatmap(
        lambda columns: st.lists(
            st.lists(POSTGRES_CELLS, min_size=columns, max_size=columns), max_size=5
        )
    )
)
def test_rows_of_postgresql_are_those_that_it_would_write_as_csv(rows):
    assert drained([copied(row) for row in rows]) == slow(rows)


def test_a_row_larger_than_the_buffer_is_whole():
    rows = [[b"a"], [b'"' * 3_000_000, b"\\" * 500_000, None], [b"b"]]
    assert drained([copied(row) for row in rows]) == slow(rows)
