"""Arrow batches as rows of a COPY: psycopg reads back what was written, and pgpq writes the same."""

import datetime as dt
import json
import struct
from decimal import Decimal, localcontext

import psycopg
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from psycopg.adapt import Transformer
from psycopg.pq import Format

from headrace.connectors.destinations.postgresql import _LibraryRows
from headrace.native import wire
from headrace.native.wire import CopyRows

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
DAYS = st.dates()
MOMENTS = st.datetimes()
DOCUMENTS = st.recursive(
    st.none() | st.integers(-9, 9) | TEXT, lambda one: st.lists(one, max_size=2)
)


def decimals(precision, scale):
    most = 10**precision - 1

    def made(whole):
        with localcontext(prec=40):
            return Decimal(whole).scaleb(-scale)

    few = min(99, most)
    whole = st.integers(-most, most) | st.integers(-few, few) | st.sampled_from([most, -most])
    return whole.map(made)


def kinds():
    """Return pairs of a type of Arrow and PostgreSQL's, with values."""
    simple = [
        (pa.string(), "text", TEXT), (pa.large_string(), "text", TEXT),
        (pa.int64(), "int8", st.integers(-(2**63), 2**63 - 1)),
        (pa.float64(), "float8", st.floats(allow_nan=False)), (pa.bool_(), "bool", st.booleans()),
        (pa.date32(), "date", DAYS), (pa.timestamp("us"), "timestamp", MOMENTS),
        (pa.time64("us"), "time", st.times()), (pa.string(), "jsonb", DOCUMENTS.map(json.dumps)),
    ]  # fmt: skip
    wide = st.integers(1, 38).flatmap(
        lambda precision: st.integers(0, precision).map(lambda scale: (precision, scale))
    )
    short = wide.filter(lambda size: size[0] <= 18)
    numeric = wide.map(lambda size: (pa.decimal128(*size), "numeric", decimals(*size))) | short.map(
        lambda size: (pa.decimal64(*size), "numeric", decimals(*size))
    )
    return st.sampled_from(simple) | numeric


@st.composite
def tables(draw):
    chosen = draw(st.lists(kinds(), min_size=1, max_size=4))
    rows = draw(st.integers(1, 20))
    columns = [
        draw(st.lists(st.none() | values, min_size=rows, max_size=rows)) for *_, values in chosen
    ]
    types = [(type_, theirs) for type_, theirs, _ in chosen]
    return types, columns, draw(st.integers(0, rows - 1))


def batch_of(types, columns):
    """Return a batch whose columns are called after PostgreSQL's types."""
    arrays = [pa.array(values, type_) for (type_, _), values in zip(types, columns, strict=True)]
    names = [f"{theirs}{n}" for n, (_, theirs) in enumerate(types)]
    return pa.record_batch(arrays, names)


def read(data, types):
    """Return the rows of COPY's binary form as psycopg reads them."""
    transformer = Transformer()
    loaders = [
        transformer.get_loader(psycopg.adapters.types[theirs].oid, Format.BINARY)
        for _, theirs in types
    ]
    at, rows = 0, []
    while at < len(data):
        (width,) = struct.unpack_from("!h", data, at)
        assert width == len(types)
        at += 2
        row = []
        for loader in loaders:
            (size,) = struct.unpack_from("!i", data, at)
            at += 4
            row.append(None if size < 0 else loader.load(data[at : at + size]))
            at += max(size, 0)
        rows.append(tuple(row))
    assert at == len(data)
    return rows


def plain(value, theirs):
    if theirs == "jsonb" and value is not None:
        return json.loads(value)
    return value


def written(encoder, batch):
    return b"".join(bytes(part) for part in encoder.parts(batch))


def whole(encoder, batch):
    return encoder.header() + written(encoder, batch) + encoder.end()


@settings(max_examples=400, deadline=None)
@given(tables())
@example(([(pa.date32(), "date")], [[dt.date.min, dt.date.max, dt.date(1999, 12, 31)]], 1))
@example(([(pa.timestamp("us"), "timestamp")], [[dt.datetime.min, dt.datetime.max]], 0))
def test_psycopg_reads_what_was_written(table):
    types, columns, first = table
    batch = batch_of(types, columns).slice(first)  # its columns begin further on
    jsons = {name for name in batch.schema.names if name.startswith("jsonb")}
    encoder = CopyRows.of(batch.schema, jsons)
    data = written(encoder, batch)
    expected = [
        tuple(plain(value, theirs) for value, (_, theirs) in zip(row, types, strict=True))
        for row in list(zip(*columns, strict=True))[first:]
    ]
    assert read(data, types) == expected
    # The library's, which keeps some rows until its end.
    assert whole(encoder, batch) == whole(_LibraryRows(batch.schema, jsons), batch)


def test_zeros_of_a_decimal_are_not_sent_but_its_scale_is():
    batch = batch_of([(pa.decimal128(20, 6), "numeric")], [[Decimal("120000.000000"), Decimal(0)]])
    # Columns and bytes; then groups, the weight of the first, sign, scale; then the groups.
    assert written(CopyRows.of(batch.schema, ()), batch) == (
        struct.pack("!hi5h", 1, 10, 1, 1, 0, 6, 12) + struct.pack("!hi4h", 1, 8, 0, 0, 0, 6)
    )


@pytest.mark.parametrize(
    ("type_", "infinite"),
    [(pa.date32(), (2**31 - 1, -(2**31))), (pa.timestamp("us"), (2**63 - 1, -(2**63)))],
)
def test_infinite_days_and_moments_stay_so(type_, infinite):
    most = infinite[0]
    column = pa.array([most, -most], pa.int32() if type_ == pa.date32() else pa.int64()).view(type_)
    batch = pa.record_batch([column], ["x"])
    size = 4 if type_ == pa.date32() else 8
    form = "!hi" + ("i" if size == 4 else "q")
    assert written(CopyRows.of(batch.schema, ()), batch) == b"".join(
        struct.pack(form, 1, size, value) for value in infinite
    )


def test_a_batch_comes_in_parts_that_stay_small(monkeypatch):
    monkeypatch.setattr(wire, "COPY_BYTES", 1_000)
    texts = ["x" * (n % 50) for n in range(1_000)] + ["long" * 5_000]
    batch = batch_of([(pa.string(), "text")], [texts])
    parts = [bytes(part) for part in CopyRows.of(batch.schema, ()).parts(batch)]
    assert len(parts) > 10
    assert [row[0] for row in read(b"".join(parts), [(None, "text")])] == texts


def test_other_types_are_left_to_the_library():
    assert CopyRows.of(pa.schema([("x", pa.list_(pa.int64()))]), ()) is None
    assert CopyRows.of(pa.schema([("x", pa.int64())]), {"x"}) is None
    assert CopyRows.of(pa.schema([("x", pa.timestamp("ns"))]), ()) is None
