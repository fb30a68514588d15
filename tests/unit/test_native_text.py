"""The native reader and counter: right where they answer, and silent where they should be."""

import ctypes
import datetime as dt
import decimal
import gc
import threading
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.connectors.families.csv_text import CsvText
from headrace.connectors.families.quick_csv import _kind
from headrace.contract.columns import MISFIT, Column
from headrace.contract.source import Cell
from headrace.engine import fit
from headrace.native import text

PIECES = [b'"', b",", b"\n", b"\r\n", b"a", b'"x"', b'"x\ny"', b'""', b'"a""b"', b" ", b"\r"]
CELLS = [
    b"1", b"-7", b"", b'""', b"007", b"1.5", b"+3", b"1e3", b" 1", b'"12"', b"999999999999999999",
    b"1234567890123456789", b"2024-02-29", b"2023-02-29", b"2024-2-9", b"0000-01-01", b'"2024-12-31"',
    b"12.34", b"12.345", b"-0.5", b".5", b"5.", b"-", b"text", b'"a ""b"" c"', b'"l1\nl2"', b"\xc3\xa4",
    b"\xff", b"\xc3", b"\0", b'a"b', b"a\rb", b'"open', b"12345678901234.99", b"\xed\xa0\x80",
]  # fmt: skip
KINDS = [("text", 0, 0), ("integer", 0, 0), ("decimal", 15, 2), ("date", 0, 0)]
NEVER = object()


def test_the_library_is_there():
    assert text.available(), "set-up did not build it"


@settings(max_examples=600, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=14),
    chunk=st.integers(3, 12),
    bom=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_what_is_counted_fast_is_what_the_exact_reader_counts(tmp_path_factory, pieces, chunk, bom):
    path = tmp_path_factory.getbasetemp() / "counted.csv"
    path.write_bytes(bom + b"h,i\n" + b"".join(pieces))
    fast = count(path, chunk_bytes=chunk)
    exact = list(CsvText(",", '"').records(str(path), 2))
    if fast is not None and not any(record.fault for record in exact):
        assert fast == len(exact)


def count(path, *, blanks=False, **more):
    return text.count_records(str(path), delimiter=",", quote='"', blanks=blanks, **more)


def test_a_plain_file_is_always_counted_fast(tmp_path):
    path = tmp_path / "plain.csv"
    path.write_bytes(b'a,b\n1,"x ""y"" z"\n\n2,"l1\nl2"\n3,"z"\r\n\r\n4,5')
    assert count(path) == 5
    assert count(path, blanks=True) == 7


@pytest.mark.parametrize("body", [b'1"\n,1"\n', b"1,2\r3,4\n", b'1,"2', b'"1"2,3\n', b"1,2\r"])
def test_what_is_odd_is_not_counted(tmp_path, body):
    path = tmp_path / "odd.csv"
    path.write_bytes(b"a,b\n" + body)
    assert count(path) is None


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        count(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError):
        pa.RecordBatchReader.from_stream(stream(tmp_path / "none.csv", [("text", 0, 0)]))


def stream(path, kinds, **more):
    return text.CsvStream(str(path), kinds, delimiter=",", quote='"', header=True, **more)


def read(one):
    """Return the rows of a stream, or NEVER if it gave up."""
    try:
        table = pa.RecordBatchReader.from_stream(one).read_all()
    except pa.ArrowInvalid as error:
        assert MISFIT in str(error)
        return NEVER
    return [tuple(row.values()) for row in table.to_pylist()]


def slow(path, kinds):
    """Read a file by the reference: rows, or NEVER if any record or cell is not plain."""
    rows = []
    reader = CsvText(",", '"')
    for number, found in enumerate(reader.records(str(path), len(kinds))):
        if number == 0:
            continue
        if found.fault or found.cells != len(kinds) or b"\0" in found.text:
            return NEVER
        row = []
        for (raw, value), kind in zip(reader._split(found.text), kinds, strict=True):
            if value is None and (b'"' in raw or b"\r" in raw):
                return NEVER
            cell = slow_value((raw if value is None else value).decode(), value is not None, kind)
            if cell is NEVER:
                return NEVER
            row.append(cell)
        rows.append(tuple(row))
    return rows


def slow_value(said, quoted, kind):
    if said == "" and (not quoted or kind[0] != "text"):
        return None
    body = said.removeprefix("-")
    match kind[0]:
        case "text":
            return said
        case "integer":
            plain = body.isascii() and body.isdigit() and len(body) <= 19
            return int(said) if plain and int(body) < 2**63 else NEVER
        case "decimal":
            whole, point, rest = body.partition(".")
            if not (
                whole.isascii() and whole.isdigit() and len(whole) <= 18 and int(whole) < 10**13
            ):
                return NEVER
            if point and not (rest.isascii() and rest.isdigit() and len(rest) <= 2):
                return NEVER
            return decimal.Decimal(said).quantize(decimal.Decimal("0.01"))
        case _:
            try:
                return dt.date.fromisoformat(said) if len(said) == 10 and said[4] == "-" else NEVER
            except ValueError:
                return NEVER


@settings(max_examples=1500, deadline=None)
@given(
    data=st.data(),
    chunk=st.integers(1, 40),
    end=st.sampled_from([b"\n", b"\r\n"]),
    last=st.booleans(),
)
def test_the_reader_agrees_with_the_slow_one_or_gives_up(tmp_path_factory, data, chunk, end, last):
    kinds = data.draw(st.lists(st.sampled_from(KINDS), min_size=2, max_size=3))
    fitting = {"text": CELLS, "integer": CELLS[:12], "decimal": CELLS, "date": CELLS[2:18]}
    rows = data.draw(
        st.lists(st.tuples(*(st.sampled_from(fitting[kind[0]]) for kind in kinds)), max_size=4)
    )
    path = tmp_path_factory.getbasetemp() / "read.csv"
    body = end.join(b",".join(row) for row in [[b"h"] * len(kinds), *rows])
    path.write_bytes(body + end * last)
    assert read(stream(path, kinds, chunk_bytes=chunk)) == slow(path, kinds)


@pytest.mark.parametrize(("said", "kind", "value"), [
    (b"-9223372036854775807", 1, -(2**63 - 1)), (b"9223372036854775808", 1, NEVER),
    (b"00000000000000000001", 1, NEVER), (b"9223372036854775807", 1, 2**63 - 1),
    (b"9999999999999.99", 2, decimal.Decimal("9999999999999.99")), (b"10000000000000", 2, NEVER),
    (b"2000-02-29", 3, dt.date(2000, 2, 29)), (b"1900-02-29", 3, NEVER),
    (b"0001-01-01", 3, dt.date(1, 1, 1)), (b"9999-12-31", 3, dt.date(9999, 12, 31)),
    (b"2024-02-291", 3, NEVER), (b"1_000", 1, NEVER), (b"1.7", 1, NEVER), (b"0x1F", 1, NEVER),
])  # fmt: skip
def test_the_edges_of_values(tmp_path, said, kind, value):
    path = tmp_path / "edge.csv"
    for body in (said, b'"' + said + b'"'):
        path.write_bytes(b"a,b\n" + body + b",1\n")
        found = read(stream(path, [KINDS[kind], KINDS[1]]))
        assert found == (NEVER if value is NEVER else [(value, 1)])


DIGITS = st.text("0123456789", min_size=1, max_size=24)
SIGNS = st.sampled_from(["", "", "-", "+"])
NUMBERS = st.builds(
    "{}{}{}{}{}".format, SIGNS, DIGITS, st.sampled_from(["", ".", ".0"]), st.one_of(st.just(""), DIGITS),
    st.sampled_from(["", "", "", "e5", "E-7", "e+300", "e-330", "e999", "e"]),
)  # fmt: skip
FLOATS = st.one_of(
    NUMBERS, st.floats().map(repr), st.sampled_from(["NaN", "Infinity", "-Infinity", "-NaN", "inf", ".5", "-", "1..2"])
)  # fmt: skip
MOMENTS = st.builds(
    "{}{}{}{}".format,
    st.one_of(st.dates().map(str), st.sampled_from(["2023-02-29", "0001-01-01", "9999-12-31", "2024-1-1", "10000-01-01"])),
    st.sampled_from(["", " ", "T", "  "]),
    st.sampled_from(["", "10:11:12", "23:59:59.999999", "00:00:00.1", "24:00:00", "10:11", "1:2:3", "10:60:00", "10:11:12.1234567", "10:11:12."]),
    st.sampled_from(["", "Z", "z", "+00", "+02", "-11:30", "+0545", "+14", "+15", "-00:00", "+1", "+05:60", " UTC"]),
)  # fmt: skip
TRUTHS = st.sampled_from(
    [
        "true",
        "false",
        "t",
        "f",
        "T",
        "F",
        "True",
        "False",
        "TRUE",
        "FALSE",
        "tRUE",
        "TRue",
        "yes",
        "no",
        "1",
        "0",
        "y",
        "n",
        "tr",
        "fals",
        "truex",
        "falsey",
    ]
)
SAID = {
    "float": FLOATS, "timestamp": MOMENTS, "boolean": TRUTHS, "decimal(38,10)": NUMBERS, "decimal(20,0)": NUMBERS,
    "decimal(38,38)": NUMBERS, "decimal(19,19)": NUMBERS,
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(type_=st.sampled_from(list(SAID)), data=st.data())
def test_a_value_that_is_read_here_is_that_of_the_exact_way(tmp_path_factory, type_, data):
    texts = data.draw(st.lists(SAID[type_], min_size=1, max_size=30))
    kind = _kind(type_)
    path = tmp_path_factory.getbasetemp() / "value.csv"
    found = {}
    for said in texts:
        path.write_text(f"a,b\n{said},1\n")
        table = stream(path, [kind, ("integer", 0, 0)])
        try:
            found[said] = pa.RecordBatchReader.from_stream(table).read_all()
        except pa.ArrowInvalid:
            continue
    cell = Cell(column=Column("c", type_), sql="c")
    with duckdb.connect() as con:
        for said, table in found.items():
            con.register("read", table)
            [(fits, same)] = con.execute(
                f"select {fit.fits(cell, type_)}, {fit.value(cell, type_)} is not distinct from a.c0"
                " from (select ?::varchar as c), read as a", [said]
            ).fetchall()  # fmt: skip
            assert (fits, same) == (True, True), (said, table.to_pylist())
        # And nothing slips through by being NULL.
        assert not any(table["c0"].null_count for table in found.values())


@pytest.mark.parametrize(("type_", "texts"), [
    ("float", ["1", "-0.5", "1e300", "5e-324", "0.1", "1.7976931348623157e308", "123456789.123456789", "NaN", "-Infinity"]),
    ("timestamp", ["2024-02-29", "2024-02-29 10:11:12", "2024-02-29T10:11:12.123456Z", "2024-02-29 10:11:12.5+00", "9999-12-31 23:59:59.999999"]),
    ("boolean", ["t", "f", "true", "false", "True", "FALSE"]),
    ("decimal(38,2)", ["1", "-123456789012345678901234567890123456.12", "0.5"]),
    ("decimal(20,0)", ["18446744073709551615"]),
])  # fmt: skip
def test_what_programs_write_is_plain(tmp_path, type_, texts):
    path = tmp_path / "plain.csv"
    path.write_text("a,b\n" + "".join(f'{said},"{said}"\n' for said in [*texts, ""]))
    found = read(stream(path, [_kind(type_), _kind(type_)]))
    assert found is not NEVER
    assert len(found) == len(texts) + 1
    assert all(row[0] == row[1] or row[0] != row[0] for row in found)
    assert found[-1] == (None, None)


def test_streams_over_pieces_give_every_record_once(tmp_path):
    path = tmp_path / "pieces.csv"
    lines = [b"a,b"] + [b"%d,row %d" % (n, n) for n in range(50_000)]
    path.write_bytes(b"\n".join(lines))
    cut = path.read_bytes().index(b"\n20000,") + 1
    kinds = [KINDS[1], KINDS[0]]
    first, second = stream(path, kinds, end=cut), stream(path, kinds, begin=cut)
    assert read(first) + read(second) == [(n, f"row {n}") for n in range(50_000)]
    assert first.stopped_at == cut == second.begin
    assert (first.records, second.records) == (20_000, 30_000)
    assert second.stopped_at == path.stat().st_size


def test_a_piece_that_begins_inside_a_record_is_found_out(tmp_path):
    path = tmp_path / "inside.csv"
    path.write_bytes(b'a,b\n1,"x\n2,y\n3,z"\n4,w\n')
    cut = path.read_bytes().index(b"2,y")
    first = stream(path, [KINDS[1], KINDS[0]], end=cut)
    assert read(first) == [(1, "x\n2,y\n3,z")]
    assert first.stopped_at != cut


def test_a_record_that_is_too_long_is_odd(tmp_path):
    path = tmp_path / "long.csv"
    for size, fits in ((1_900_000, True), (2_100_000, False), (9_000_000, False)):
        path.write_bytes(b"a,b\n1," + b"x" * size + b"\n")
        found = read(stream(path, [KINDS[1], KINDS[0]]))
        assert (found is not NEVER) is fits


def test_a_stream_that_nobody_reads_is_freed(tmp_path):
    path = tmp_path / "freed.csv"
    path.write_bytes(b"a,b\n1,2\n")
    gc.collect()  # what other tests have left must not be closed in between
    open_before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(50):
        stream(path, [KINDS[0], KINDS[0]]).__arrow_c_stream__()
        assert read(stream(path, [KINDS[0], KINDS[0]])) == [("1", "2")]
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) <= open_before


BODIES = st.lists(
    st.sampled_from([b"1,a\n", b'2,"x,\ny"\n', b"\n", b"3,\r\n", b"\xef\xbb\xbf", b"x,1\n", b"4,", b'"5",z', b"\n\n", b"6,\xc3\xbc\n", b"7"]),
    max_size=8,
).map(b"".join)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    bodies=st.lists(BODIES, min_size=1, max_size=5), chunk=st.integers(1, 40),
    left_max=st.sampled_from([0, 0, 1, 10]),
)  # fmt: skip
def test_many_files_are_read_as_each_of_them_alone(tmp_path_factory, bodies, chunk, left_max):
    """The same rows with the file's number, the same records passed over, the same refusals."""
    folder = tmp_path_factory.getbasetemp()
    kinds = [("integer", 0, 0), ("text", 0, 0)]
    paths, expected, left = [], [], []
    for number, body in enumerate(bodies):
        path = folder / f"many-{number}.csv"
        path.write_bytes(b"a,b\n" + body)
        paths.append(str(path))
        one = stream(path, kinds, chunk_bytes=chunk, left_max=left_max - len(left))
        rows = read(one)
        if rows is NEVER:
            expected = NEVER
            break
        expected += [(*row, number) for row in rows]
        left += [text.Left(some.offset, some.size, some.record, number) for some in one.left]
    together = text.ManyCsvStream(
        paths, kinds, delimiter=",", quote='"', header=True, chunk_bytes=chunk, left_max=left_max
    )
    found = read(together)
    if expected is NEVER:
        assert found is NEVER
        return
    assert found == expected
    assert list(together.left) == left
    assert together.records == len(expected)
    assert together.stopped_at == len(b"a,b\n" + bodies[-1])
    assert together.place == sum(len(b"a,b\n" + body) for body in bodies)


def growing(tmp_path, parts, *, pause=0.004, end=text.GROWN, chunk=64):
    """Begin to write a file in parts; return a reader of it, and its stream."""
    path = tmp_path / "growing.csv"
    path.write_bytes(parts[0])
    growth = ctypes.c_int64(text.GROWING)
    stream = text.CsvStream(
        str(path), [("integer", 0, 0), ("text", 0, 0)], delimiter=",", quote='"', header=True,
        chunk_bytes=chunk, growth=growth,
    )  # fmt: skip

    def write():
        with path.open("ab", buffering=0) as out:
            for part in parts[1:]:
                time.sleep(pause)
                out.write(part)
        growth.value = end

    stream.writer = threading.Thread(target=write)
    stream.writer.start()
    return pa.RecordBatchReader.from_stream(stream), stream


WRITTEN = b'id,t\n1,"a ""b"", c"\n22,\n333,"l1\nl2"\n\n4444,"\xc3\xa4"\n5,last'
LANDED = [(1, 'a "b", c'), (22, None), (333, "l1\nl2"), (4444, "ä"), (5, "last")]


@pytest.mark.parametrize("cut", range(5, len(WRITTEN), 3))
def test_a_file_that_grows_is_read_to_its_end_wherever_its_parts_are_cut(tmp_path, cut):
    reader, stream = growing(tmp_path, [WRITTEN[:cut], WRITTEN[cut : cut + 5], WRITTEN[cut + 5 :]])
    found = [tuple(row.values()) for row in reader.read_all().to_pylist()]
    assert found == LANDED
    assert (stream.records, stream.stopped_at) == (5, len(WRITTEN))
    stream.writer.join()


def test_a_file_whose_writer_gives_up_does_not_end_well(tmp_path):
    reader, stream = growing(tmp_path, [WRITTEN[:20], WRITTEN[20:]], end=text.CUT)
    with pytest.raises(pa.ArrowInvalid, match=MISFIT):
        reader.read_all()
    assert stream.stopped_at is None
    stream.writer.join()


def test_who_waits_for_a_file_to_grow_can_be_stopped(tmp_path):
    reader, stream = growing(tmp_path, [WRITTEN[:20], WRITTEN[20:]], pause=3)
    begun = time.monotonic()
    threading.Timer(0.1, stream.stop).start()
    with pytest.raises(OSError, match="stopped"):
        reader.read_all()
    assert time.monotonic() - begun < 2
    stream.writer.join()
