"""One file that cannot be read does not stop the others, and is never passed over in silence."""

import gzip
import json

import pytest

from headrace.assembly import work
from headrace.contract.tools import Known
from headrace.domain.errors import Refused, TooManyRejected
from headrace.engine.plan import Stopped
from tests.engine import Memory, Rig, order

GOOD = {"csv": "id,n\n{},5\n", "json": '[{{"id":{},"n":5}}]'}
BAD = {
    "csv": {
        "a page": b"<!doctype html><p>sign in", "cut archive": gzip.compress(b"id,n\n1,2\n" * 99)[:-12],
        "no zip": b"PK\x03\x04 nothing", "twins": b"id,ID\n1,2\n", "broken header": b'id,"n\n1,2\n',
    },
    "json": {"a page": b"<html>", "cut array": b'[{"id":1},{"id":'},
}  # fmt: skip
CASES = [(kind, what) for kind, bodies in BAD.items() for what in bodies]


def folder_of(tmp_path, kind, bad):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.{kind}").write_text(GOOD[kind].format(number))
    (folder / f"4b.{kind}").write_bytes(bad)
    return folder


@pytest.fixture(params=("duckdb", "postgresql"))
def rig(request, tmp_path, fresh_database):
    return Rig(request.param, tmp_path, fresh_database)


@pytest.mark.parametrize(("kind", "what"), CASES, ids=[" ".join(case) for case in CASES])
def test_the_others_are_loaded_and_the_bad_one_is_told(tmp_path, kind, what):
    rig = Rig("duckdb", tmp_path, "")
    folder_of(tmp_path, kind, BAD[kind][what])
    receipt = rig.load(f"in/*.{kind}", None, failure_threshold=10)
    assert sorted(row["id"] for row in rig.rows()) == [*range(9)]
    assert (receipt.books.read, receipt.books.rejected) == (10, 1)
    assert receipt.rules == {"bad_file": 1}
    [bad] = [file for file in receipt.files if file.books.rejected]
    assert bad.name.endswith(f"4b.{kind}")
    kept = json.loads(next((tmp_path / "rejects").iterdir()).read_text())
    assert (kept["rule"], kept["file"]) == ("bad_file", bad.name)
    assert kept["message"]


def test_by_default_nothing_is_published_and_the_files_are_named(rig, tmp_path):
    folder_of(tmp_path, "csv", b"<html>")
    with pytest.raises(Stopped) as stopped:
        rig.load("in/*.csv", None)
    assert isinstance(stopped.value.error, TooManyRejected)
    assert "1 of 10 files cannot be read" in stopped.value.error.message
    assert "web page" in stopped.value.error.message
    assert stopped.value.receipt.rules == {"bad_file": 1}


def test_a_bad_file_of_many_rows_is_not_hidden_by_the_rows_of_others(tmp_path):
    """One file of two is half of them, however many rows the other has."""
    rig = Rig("duckdb", tmp_path, "")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("id\n" + "1\n" * 100_000)
    (tmp_path / "in/b.csv").write_text("<html>")
    with pytest.raises(Stopped, match="1 of 2 files"):
        rig.load("in/*.csv", None, failure_threshold=1)


def test_where_all_are_bad_the_error_is_the_runs(tmp_path):
    rig = Rig("duckdb", tmp_path, "")
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / f"in/{number}.csv").write_text("<html>")
    with pytest.raises(Stopped, match="web page") as stopped:
        rig.load("in/*.csv", None, failure_threshold=100)
    assert isinstance(stopped.value.error, Refused)


def test_a_column_that_the_mapping_names_and_one_file_lacks(tmp_path):
    rig = Rig("duckdb", tmp_path, "")
    folder_of(tmp_path, "csv", b"id\n7\n")
    receipt = rig.load("in/*.csv", None, more={"mapping": {"n": "integer"}}, failure_threshold=10)
    assert receipt.rules == {"bad_file": 1}
    assert len(rig.rows()) == 9


def test_a_bad_file_is_tried_again_by_the_next_delta_run(tmp_path):
    rig = Rig("duckdb", tmp_path, "")
    folder = folder_of(tmp_path, "csv", b"<html>")
    source = ("csv", {"url": f"{folder}/*.csv"})
    receipt = work(order(tmp_path, source, rig.end, failure_threshold=10), Memory())
    versions = {file.name: file.version for file in receipt.files if file.version}
    assert len(versions) == 9
    (folder / "4b.csv").write_text("id,n\n77,1\n")
    again = work(
        order(tmp_path, source, rig.end, action="append", fence=2, known=Known(versions=versions)),
        Memory(),
    )  # fmt: skip
    assert again.books.read == 1
    assert 77 in [row["id"] for row in rig.rows()]


def test_bad_parquet_and_avro_and_workbooks_do_not_stop_the_others(tmp_path):
    import fastavro
    import pyarrow as pa
    import pyarrow.parquet as pq
    import xlsxwriter

    def parquet(path):
        pq.write_table(pa.table({"id": [1]}), path)

    def avro(path):
        schema = {"type": "record", "name": "r", "fields": [{"name": "id", "type": "long"}]}
        with open(path, "wb") as out:
            fastavro.writer(out, schema, [{"id": 1}])

    def excel(path):
        with xlsxwriter.Workbook(path) as book:
            book.add_worksheet().write_column(0, 0, ["id", 1])

    for kind, ending, write in (
        ("parquet", "parquet", parquet), ("avro", "avro", avro), ("excel", "xlsx", excel),
    ):  # fmt: skip
        folder = tmp_path / kind
        folder.mkdir()
        write(str(folder / f"a.{ending}"))
        write(str(folder / f"b.{ending}"))
        good = (folder / f"a.{ending}").read_bytes()
        (folder / f"c.{ending}").write_bytes(good[: len(good) // 2])
        end = ("duckdb", {"path": str(tmp_path / f"{kind}.duckdb")})
        found = work(
            order(tmp_path, (kind, {"url": f"{folder}/*"}), end, failure_threshold=50), Memory()
        )
        assert (found.books.inserted, found.rules) == (2, {"bad_file": 1}), kind
