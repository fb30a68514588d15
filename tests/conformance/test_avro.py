"""Avro as a source: its types keep their values."""

import datetime as dt
import json
import uuid
from decimal import Decimal

import duckdb
import fastavro
import pytest

from headrace.assembly import work
from headrace.domain.errors import Refused
from headrace.engine.plan import Stopped
from tests.engine import Memory, order

SCHEMA = {"type": "record", "name": "row", "fields": [
    {"name": "id", "type": "long"}, {"name": "small", "type": ["null", "int"]}, {"name": "f", "type": "double"},
    {"name": "ok", "type": "boolean"}, {"name": "s", "type": ["null", "string"]}, {"name": "b", "type": "bytes"},
    {"name": "d", "type": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 4}},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "local", "type": {"type": "long", "logicalType": "local-timestamp-micros"}},
    {"name": "clock", "type": {"type": "int", "logicalType": "time-millis"}},
    {"name": "u", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "mood", "type": {"type": "enum", "name": "mood", "symbols": ["sad", "ok"]}},
    {"name": "other", "type": ["null", "mood"]}, {"name": "tags", "type": {"type": "array", "items": "string"}},
    {"name": "more", "type": {"type": "map", "values": "long"}},
    {"name": "inner", "type": {"type": "record", "name": "inner", "fields": [{"name": "x", "type": ["null", "int"]}]}},
    {"name": "many", "type": ["null", "long", "string"]},
    {"name": "tree", "type": ["null", {"type": "record", "name": "node", "fields": [
        {"name": "n", "type": "int"}, {"name": "next", "type": ["null", "node"]}]}]},
]}  # fmt: skip
ROW = {
    "id": 2**62, "small": -5, "f": 0.1, "ok": True, "s": "", "b": b"\x00\xff", "d": Decimal("-1234567890.1234"),
    "day": dt.date(2024, 2, 29), "at": dt.datetime(2024, 2, 29, 10, 11, 12, 123000, dt.timezone(dt.timedelta(hours=2))),
    "local": dt.datetime(2024, 2, 29, 10, 11, 12, 123456), "clock": dt.time(23, 59, 59, 999000),
    "u": uuid.UUID(int=7), "mood": "ok", "other": "sad", "tags": ["a", "b"], "more": {"k": 1}, "inner": {"x": None},
    "many": "text", "tree": {"n": 1, "next": {"n": 2, "next": None}},
}  # fmt: skip


def loaded(folder, path, **more):
    told = order(
        folder, ("avro", {"url": str(path)}), ("duckdb", {"path": str(folder / "o.duckdb")}), **more
    )
    return work(told, Memory())


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_every_type_keeps_its_value(tmp_path, codec):
    empty = ROW | {
        "id": 1,
        "small": None,
        "s": None,
        "other": None,
        "many": 5,
        "tree": None,
        "inner": {"x": 3},
        "tags": [],
    }
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, SCHEMA, [ROW, empty] * 300, codec=codec, sync_interval=500)
    receipt = loaded(tmp_path, tmp_path / "x.avro")
    assert (receipt.books.read, receipt.books.inserted) == (600, 600)
    with duckdb.connect(str(tmp_path / "o.duckdb"), read_only=True) as con:
        found = con.execute("select distinct * from t order by id")
        names = [column[0] for column in found.description]
        other, row = (dict(zip(names, one, strict=True)) for one in found.fetchall())
    nested = {name: json.loads(row.pop(name)) for name in ("tags", "more", "inner", "tree")}
    assert nested == {
        "tags": ["a", "b"], "more": {"k": 1}, "inner": {"x": None}, "tree": {"n": 1, "next": {"n": 2, "next": None}},
    }  # fmt: skip
    changed = {
        "b": "AP8=",
        "u": str(ROW["u"]),
        "at": dt.datetime(2024, 2, 29, 8, 11, 12, 123000),
        "many": '"text"',
    }
    assert row == {name: value for name, value in (ROW | changed).items() if name not in nested}
    assert (other["small"], other["s"], other["other"], other["many"], other["tree"]) == (
        None,
        None,
        None,
        "5",
        None,
    )


@pytest.mark.parametrize("body", [b"", b"Obj\x01", b"no avro at all", b"<html>"])
def test_what_is_no_avro_is_refused(tmp_path, body):
    (tmp_path / "x.avro").write_bytes(body)
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, tmp_path / "x.avro")
    assert isinstance(caught.value.error, Refused)


def test_a_file_that_is_cut_off_is_refused_and_loads_nothing(tmp_path):
    with (tmp_path / "x.avro").open("wb") as file:
        fastavro.writer(file, SCHEMA, [ROW] * 300, sync_interval=500)
    whole = (tmp_path / "x.avro").read_bytes()
    (tmp_path / "x.avro").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, tmp_path / "x.avro")
    assert isinstance(caught.value.error, Refused)
