"""Workbooks as a source: values without their formats, and nothing invented."""

import datetime as dt
import zipfile

import duckdb
import pytest
import xlsxwriter

from headrace.assembly import work
from headrace.domain.errors import Misconfigured, Refused
from headrace.engine.plan import Stopped
from tests.engine import Memory, order


def book(path, *sheets):
    """Write sheets: a name and rows each."""
    made = xlsxwriter.Workbook(path)
    day, moment = (
        made.add_format({"num_format": form}) for form in ("yyyy-mm-dd", "yyyy-mm-dd hh:mm:ss")
    )
    for name, rows in sheets:
        sheet = made.add_worksheet(name)
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                if isinstance(cell, dt.datetime):
                    sheet.write_datetime(y, x, cell, moment)
                elif isinstance(cell, dt.date):
                    sheet.write_datetime(y, x, cell, day)
                elif cell is not None:
                    sheet.write(y, x, cell)
    made.close()
    return path


def loaded(folder, url, **more):
    source = {"url": str(url)} | more.pop("source", {})
    told = order(folder, ("excel", source), ("duckdb", {"path": str(folder / "o.duckdb")}), **more)
    return work(told, Memory())


def rows(folder):
    with duckdb.connect(str(folder / "o.duckdb"), read_only=True) as con:
        return con.execute("select * from t order by 1").fetchall()


def test_values_keep_their_kind(tmp_path):
    path = book(tmp_path / "x.xlsx", ("One", [
        ["id", "code", "price", "ok", "day", "at", None, "text"],
        [1, "00123", 1.5, True, dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 10, 11, 12), "more", 'a"b,\nc'],
        [None] * 8,
        [2, "7", 10**9 + 0.5, False, None, None, None, " x "],
        [3, None, -2, None, None, None, None, None],
    ]), ("Two", [["z"], [9]]))  # fmt: skip
    receipt = loaded(tmp_path, path)
    assert (receipt.books.read, receipt.books.inserted) == (3, 3)
    assert rows(tmp_path) == [
        (1, "00123", 1.5, True, dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 10, 11, 12), "more", 'a"b,\nc'),
        (2, "7", 10**9 + 0.5, False, None, None, None, " x "), (3, None, -2.0, None, None, None, None, None),
    ]  # fmt: skip
    loaded(tmp_path, path, source={"sheet": "Two", "mapping": {"z": "string"}})
    assert rows(tmp_path) == [("9",)]
    loaded(tmp_path, path, source={"sheet": "Two", "header": False})
    assert rows(tmp_path) == [("9",), ("z",)]


def test_values_that_do_not_fit_are_rejected_with_their_row(tmp_path):
    path = book(tmp_path / "x.xlsx", ("One", [["id", "n"], [1, "x"], [2, 5]]))
    receipt = loaded(tmp_path, path, source={"mapping": {"n": "integer"}}, failure_threshold=50)
    assert (receipt.books.inserted, receipt.rules) == (1, {"bad_value": 1})


def test_many_workbooks_are_one_run_with_books_each(tmp_path):
    for number in range(3):
        book(tmp_path / f"{number}.xlsx", ("S", [["id"], *([n] for n in range(number + 1))]))
    receipt = loaded(tmp_path, tmp_path / "*.xlsx")
    assert [(file.name.rpartition("/")[2], file.books.read) for file in receipt.files] == [
        ("0.xlsx", 1), ("1.xlsx", 2), ("2.xlsx", 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "kind", "told"),
    [({"sheet": "None"}, Misconfigured, "no sheet 'None'"), ({"mapping": {"q": "string"}}, Misconfigured, "no column 'q'"),
     ({"sheet": "Empty"}, Refused, "is empty"), ({"sheet": "Twins"}, Refused, "twice")],
)  # fmt: skip
def test_what_cannot_be_read_is_told(tmp_path, source, kind, told):
    path = book(
        tmp_path / "x.xlsx", ("One", [["id"], [1]]), ("Empty", []), ("Twins", [["a", "a"], [1, 2]])
    )
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, path, source=source)
    assert isinstance(caught.value.error, kind)
    assert told in str(caught.value.error)


@pytest.mark.parametrize("body", [b"no workbook", b"", b"<html>login</html>", b"PK\x03\x04 broken"])
def test_what_is_no_workbook_is_refused(tmp_path, body):
    (tmp_path / "x.xlsx").write_bytes(body)
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, tmp_path / "x.xlsx")
    assert isinstance(caught.value.error, Refused)
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as archive:
        archive.writestr("other.txt", "x")
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, tmp_path / "x.xlsx")
    assert isinstance(caught.value.error, Refused)
