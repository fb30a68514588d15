"""Of several files each is read, once, and what only the last one's records have is kept."""

import csv
import gzip
import io
import json
import zipfile

import duckdb
import fastavro
import pytest

from headrace.assembly import work
from tests.conformance.test_excel import book
from tests.engine import Memory, order, read_table

COUNT = 4
# Each file has another number of records, and the last one a member more.
RECORDS = [
    [
        {"id": f"{number}-{n}", "of": number} | ({"late": f"l{n}"} if number == COUNT - 1 else {})
        for n in range(number + 2)
    ]
    for number in range(COUNT)
]


def _csv(records):
    out = io.StringIO()
    made = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    made.writeheader()
    made.writerows(records)
    return out.getvalue().encode()


def _lines(records):
    return "".join(f"{json.dumps(one)}\n" for one in records).encode()


def _array(records):
    return json.dumps(records, indent=1).encode()


def _avro(records):
    kinds = {"id": "string", "of": "long", "late": "string"}
    fields = [{"name": name, "type": kinds[name]} for name in records[0]]
    out = io.BytesIO()
    fastavro.writer(out, {"type": "record", "name": "row", "fields": fields}, records)
    return out.getvalue()


def _parquet(records, path):
    with duckdb.connect() as con:
        con.execute("create table t as select unnest(?, recursive := true)", [records])
        con.execute(f"copy t to '{path}' (format parquet)")


def _excel(records, path):
    names = list(records[0])
    book(path, ("One", [names, *([one[name] for name in names] for one in records)]))


FORMS = {
    "csv": ("csv", ".csv", _csv), "lines": ("json", ".jsonl", _lines),
    "arrays": ("json", ".json", _array), "avro": ("avro", ".avro", _avro),
    "parquet": ("parquet", ".parquet", _parquet), "excel": ("excel", ".xlsx", _excel),
    "lines and arrays": ("json", ".json", lambda some: (_lines if len(some) % 2 else _array)(some)),
}  # fmt: skip


def written(folder, form, packed):
    """Write the files; return the kind of their source and their URL."""
    kind, suffix, make = FORMS[form]
    members = {}
    for number, records in enumerate(RECORDS):
        path = folder / f"{number}{suffix}"
        if form in ("parquet", "excel"):
            make(records, path)
            continue
        members[path] = make(records)
    if packed == "zip":
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for path, body in members.items():
                archive.writestr(path.name, body)
        return kind, folder / "all.zip"
    for path, body in members.items():
        if packed == "gz":
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(body))
        else:
            path.write_bytes(body)
    return kind, folder / (f"*{suffix}.gz" if packed == "gz" else f"*{suffix}")


CASES = [
    (form, packed)
    for form in FORMS
    for packed in ("", "gz", "zip")
    if not packed or form in ("csv", "lines", "arrays", "lines and arrays")
]


@pytest.mark.parametrize("end", ["duckdb", "search"])
@pytest.mark.parametrize(("form", "packed"), CASES)
def test_each_file_is_read_and_the_last_ones_member_is_kept(tmp_path, form, packed, end):
    (tmp_path / "data").mkdir()
    kind, url = written(tmp_path, form, packed)
    ends = {
        "duckdb": ("duckdb", {"path": str(tmp_path / "o.duckdb")}),
        "search": ("search", {"indexName": "t"}),
    }
    receipt = work(order(tmp_path, (kind, {"url": str(url)}), ends[end]), Memory())
    assert sorted(one.books.read for one in receipt.files) == [len(some) for some in RECORDS]
    found = read_table(order(tmp_path, ("csv", {}), ends[end]), "t", 1_000, None).rows
    told = [
        {name: row[name] for name in ("id", "of", "late") if row.get(name) is not None}
        for row in found
    ]
    assert sorted(told, key=str) == sorted((one for some in RECORDS for one in some), key=str)
