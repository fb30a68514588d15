"""A CSV broken at random: counts, quarantine and table must be what a slow, obvious reader says."""

import json
import re
import shutil
import tempfile
from pathlib import Path

import duckdb
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headrace.assembly import work
from headrace.connectors.families import csv_scan as csv
from headrace.connectors.families import quick_streams
from headrace.engine.plan import Stopped
from tests.engine import Memory, order

CELLS = [
    "1", "-5", "+7", "007", "1.7", "1_000", "0x1F", "1e3", "", "abc", 'a "b" c', "x,y", "l1\nl2",
    " 3", "99999999999999999999", "é", "true", '5" pipe', "l1\r\nl2", "NULL",
]  # fmt: skip
NOISE = [b'"', b",", b"\n", b"\r\n", b"\xff", b'""', b'","', b"\x00", b" ", b"\n\n", b'a"b', b'"\n']


def slow_records(data: bytes) -> list[tuple[bytes, list[bytes | None] | None, str | None]]:
    """Read CSV one byte at a time: (text, cells with None for an unquoted empty cell, fault)."""
    out = []
    at = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    while at < len(data):
        begin, cells, fault = at, [], None
        while True:  # a cell
            start = at
            look = at
            while data[look : look + 1] == b" ":
                look += 1
            if data[look : look + 1] == b'"':
                at = look + 1
                value = b""
                while True:
                    if at >= len(data):
                        fault = "unterminated_quote"
                        break
                    if data[at : at + 2] == b'""':
                        value += b'"'
                        at += 2
                    elif data[at : at + 1] == b'"':
                        at += 1
                        break
                    else:
                        value += data[at : at + 1]
                        at += 1
                if not fault:
                    while data[at : at + 1] == b" ":
                        at += 1
                    if at < len(data) and data[at : at + 1] not in (b",", b"\n", b"\r"):
                        fault = "bad_quoting"
                cells.append(value)
            else:
                while at < len(data) and data[at : at + 1] not in (b",", b"\n"):
                    at += 1
                value = data[start:at]
                if at >= len(data) or data[at : at + 1] == b"\n":
                    value = value[:-1] if value.endswith(b"\r") else value
                cells.append(value or None)
            if not fault and data[at : at + 1] == b"\r" and data[at + 1 : at + 2] in (b"\n", b""):
                at += 1
            elif not fault and data[at : at + 1] == b"\r":
                fault = "bad_quoting"
            if fault or data[at : at + 1] != b",":
                break
            at += 1
        if fault == "bad_quoting":
            while at < len(data) and data[at : at + 1] != b"\n":
                at += 1
        text = data[begin:at]
        at += 1
        if not fault and text.strip(b"\r\n") == b"":
            continue
        out.append((text, None if fault else cells, fault))
    return out


def expected(data: bytes):
    """Return the rows of (a integer, b string) that fit, and (record, rule) of those that do not."""
    rows, rejected = [], []
    for number, (text, cells, fault) in enumerate(slow_records(data)[1:], 1):
        rule = fault
        if not rule:
            try:
                text.decode()
            except UnicodeDecodeError:
                rule = "bad_encoding"
        if not rule:
            while len(cells) > 2 and cells[-1] is None:
                cells.pop()
            if len(cells) != 2:
                rule = "too_many_cells" if len(cells) > 2 else "too_few_cells"
        if not rule:
            a = cells[0].decode() if cells[0] is not None else None
            if a in (None, ""):
                value = None
            elif re.fullmatch(r"[+-]?[0-9]+", a) and -(2**63) <= int(a) < 2**63:
                value = int(a)
            else:
                rule = "bad_value"
        if rule:
            rejected.append((number, rule))
        else:
            rows.append((value, None if cells[1] is None else cells[1].decode()))
    return rows, rejected


def quoted(cell: str, always: bool) -> str:
    if always or any(char in cell for char in ',"\n\r'):
        return '"' + cell.replace('"', '""') + '"'
    return cell


@st.composite
def csvs(draw) -> bytes:
    end = draw(st.sampled_from(["\n", "\r\n"]))
    lines = []
    for _ in range(draw(st.integers(0, 12))):
        cells = draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=3))
        if draw(st.integers(0, 3)):
            cells = (cells * 2)[:2]
        lines.append(",".join(quoted(cell, draw(st.booleans())) for cell in cells))
    data = (end.join(lines) + draw(st.sampled_from(["", end]))).encode()
    for _ in range(draw(st.integers(0, 3))):
        where = draw(st.integers(0, len(data)))
        data = data[:where] + draw(st.sampled_from(NOISE)) + data[where:]
    return draw(st.sampled_from([b"", b"", b"\xef\xbb\xbf"])) + f"a,b{end}".encode() + data


@settings(max_examples=220, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=csvs(), quick=st.booleans())
@example(b'a,b\n1"\n,1"', False)  # two stray quotes hide a line end from a count of quotes
@example(b'a,b\r\n1e3,""\r"\n1,1', False)  # a carriage return taken for a line end
@example(
    b'a,b\n"l1\r\nl2"\n\n,"l\xff2"""\ntrue,1e3\n"1",1\n', False
)  # a column that was not asked for
@example(b'a,b\r\n"-5",-5\r"\n1,1,"1"\r\n1', False)  # what is cut off lies beside a broken record
@example(b"a,b\r\n1,x\r\r\n2,y\r\n", False)  # and where it is a blank line
@example(b'a,b\n1,"l1\nl2"\n2,"x\n3,y\n"\n4,z', True)  # pieces begin inside of quotes
def test_a_broken_csv_is_read_as_the_slow_reader_reads_it(data, quick):
    folder = Path(tempfile.mkdtemp())
    smallest = csv.SMALL_BYTES, quick_streams.PIECE_BYTES_MIN
    if quick:  # as large files are read
        csv.SMALL_BYTES, quick_streams.PIECE_BYTES_MIN = 0, 1
    try:
        (folder / "in.csv").write_bytes(data)
        told = order(
            folder,
            ("csv", {"url": str(folder / "in.csv"), "mapping": {"a": "integer", "b": "string"}}),
            ("duckdb", {"path": str(folder / "out.duckdb")}),
            failure_threshold=100,
        )
        journal = Memory()
        rows, rejected = expected(data)
        receipt = work(told, journal)
        books = receipt.books
        assert (books.read, books.inserted, books.rejected) == (
            len(rows) + len(rejected),
            len(rows),
            len(rejected),
        )
        with duckdb.connect(str(folder / "out.duckdb")) as con:
            assert sorted(con.execute("select a, b from t").fetchall(), key=str) == sorted(
                rows, key=str
            )
        kept = [
            json.loads(line)
            for path in (folder / "rejects").glob("*")
            for line in path.read_text().splitlines()
        ]
        assert sorted((row["record"], row["rule"]) for row in kept) == sorted(rejected)
        for row in kept:
            text = row["raw"].encode()
            if b"\\x" not in text:
                assert data[row["byte"] :].startswith(text)
                assert row["line"] == data[: row["byte"]].count(b"\n") + 1
    except Stopped as stopped:
        raise AssertionError(f"{data!r}: {stopped.error}") from stopped
    finally:
        csv.SMALL_BYTES, quick_streams.PIECE_BYTES_MIN = smallest
        shutil.rmtree(folder)
