"""What every destination does alike: actions, keys, several files, schemas that grow."""

import duckdb
import psycopg
import pytest

from headrace.domain.errors import Misconfigured, Refused
from headrace.engine.plan import Stopped
from tests.engine import Rig

ENDS = ("duckdb", "postgresql", "search", "parquet")


@pytest.fixture(params=ENDS)
def rig(request, tmp_path, fresh_database):
    return Rig(request.param, tmp_path, fresh_database)


@pytest.fixture(params=("duckdb", "postgresql", "search"))
def keyed(request, tmp_path, fresh_database):
    return Rig(request.param, tmp_path, fresh_database)


def test_a_replace_ends_up_with_exactly_its_rows(rig):
    rig.load("a.csv", "id,n\n1,5\n2,6\n")
    receipt = rig.load("a.csv", "id,n\n3,7\n")
    assert rig.rows() == [{"id": 3, "n": 7}]
    assert receipt.books.replaced_out == 2
    assert receipt.tables[0].rows_after == 1


def test_an_append_adds(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    receipt = rig.load("a.csv", "id,n\n1,5\n", "append")
    assert len(rig.rows()) == 2
    assert receipt.tables[0].rows_after == 2


def test_several_files_have_books_of_their_own(rig):
    (rig.folder / "in").mkdir()
    (rig.folder / "in/1.csv").write_text("id,n\n1,5\n2,x\n")
    (rig.folder / "in/2.csv").write_text("id,n\n3,7\n")
    (rig.folder / "in/3.csv").write_text("n,id,extra\n8,4,e\n")
    receipt = rig.load("in/*.csv", None, more={"mapping": {"n": "integer"}}, failure_threshold=50)
    books = {file.name.rpartition("/")[2]: file.books for file in receipt.files}
    assert {name: (b.read, b.inserted, b.rejected) for name, b in books.items()} == {
        "1.csv": (2, 1, 1), "2.csv": (1, 1, 0), "3.csv": (1, 1, 0),
    }  # fmt: skip
    assert [(row["id"], row["n"]) for row in sorted(rig.rows(), key=lambda r: r["id"])] == [
        (1, 5), (3, 7), (4, 8),
    ]  # fmt: skip


def test_nothing_is_published_above_the_threshold(rig):
    rig.load("a.csv", "id,n\n1,5\n")
    with pytest.raises(Stopped) as caught:
        rig.load("a.csv", "id,n\n2,5\n3,x\n", more={"mapping": {"n": "integer"}})
    assert caught.value.error.code == "too_many_errors"
    assert caught.value.rejects[0].rows == 1
    assert rig.rows() == [{"id": 1, "n": 5}]


def test_a_table_of_no_rows_is_a_table(rig):
    receipt = rig.load("a.csv", "id,n\n")
    assert receipt.books.read == 0
    assert rig.rows() == []


def test_save_replaces_whole_rows_by_key(keyed):
    keyed.load("a.csv", "id,n,m\n1,5,x\n2,6,y\n", key=("id",))
    receipt = keyed.load("b.csv", "id,n\n2,7\n3,8\n3,9\n", "save", key=("id",))
    books = receipt.books
    assert (books.read, books.inserted, books.updated, books.rejected, books.duplicates) == (
        3, 1, 1, 1, 1,
    )  # fmt: skip
    assert [(row["id"], row["n"], row.get("m")) for row in keyed.rows()] == [
        (1, 5, "x"), (2, 7, None), (3, 9, None),
    ]  # fmt: skip


@pytest.mark.parametrize("action", ["partial", "partialNoCreate"])
def test_partial_merges_only_what_a_record_carries(keyed, action):
    keyed.load("a.json", '[{"id": 1, "n": 5, "m": {"a": 1}}, {"id": 2, "n": 6}]', key=("id",))
    receipt = keyed.load(
        "b.json", '{"id": 1, "n": null}\n{"id": 2, "m": {"b": 2}}\n{"id": 9, "n": 7}\n',
        action, key=("id",),
    )  # fmt: skip
    books = receipt.books
    created = action == "partial"
    assert (books.updated, books.inserted, books.filtered) == (2, int(created), int(not created))
    found = {row["id"]: row for row in keyed.rows()}
    assert set(found) == ({1, 2, 9} if created else {1, 2})
    assert found[1]["n"] is None
    assert str(found[1]["m"]).replace(" ", "").replace("'", '"') == '{"a":1}'
    assert found[2]["n"] == 6
    assert str(found[2]["m"]).replace(" ", "").replace("'", '"') == '{"b":2}'


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_columns_are_added_and_widened_never_narrowed(tmp_path, fresh_database, kind):
    keyed = Rig(kind, tmp_path, fresh_database)
    keyed.load("a.csv", "id,n\n1,5\n", key=("id",))
    keyed.load("b.csv", "id,n,m\n2,6.5,new\n", "save", key=("id",))
    keyed.load("c.csv", "id,n,m\n3,7,\n", "append")
    found = {row["id"]: (float(row["n"]), row["m"]) for row in keyed.rows()}
    assert found == {1: (5.0, None), 2: (6.5, "new"), 3: (7.0, None)}
    with pytest.raises(Stopped) as caught:
        keyed.load("d.csv", "id,n\n2020-01-01,1\n", "append")
    assert isinstance(caught.value.error, Refused)
    assert "holds integer; the source gives date" in caught.value.error.message


def test_parquet_refuses_by_name_what_it_cannot_do(tmp_path):
    rig = Rig("parquet", tmp_path, "")
    for action in ("save", "partial"):
        with pytest.raises(Misconfigured, match="cannot do"):
            rig.load("a.csv", "id\n1\n", action, key=("id",))


def test_a_swap_keeps_what_hangs_on_a_table(tmp_path, fresh_database):
    for kind in ("duckdb", "postgresql"):
        rig = Rig(kind, tmp_path, fresh_database)
        rig.load("a.csv", "id,n\n1,5\n")
        con = (
            psycopg.connect(fresh_database, autocommit=True)
            if kind == "postgresql"
            else duckdb.connect(str(tmp_path / "o.duckdb"))
        )
        con.execute("create unique index only_one on t (id)")
        if kind == "postgresql":
            con.execute("create view seen as select id from t")
            con.execute("comment on table t is 'mine'")
        con.close()
        rig.load("a.csv", "id,n\n1,7\n")
        receipt = rig.load("a.csv", "id,n\n2,6\n")
        assert rig.rows() == [{"id": 2, "n": 6}]
        assert receipt.books.replaced_out == 1
        if kind == "postgresql":
            with psycopg.connect(fresh_database) as con:
                assert con.execute("select * from seen").fetchall() == [(2,)]
                assert con.execute("select obj_description('t'::regclass)").fetchone() == ("mine",)
        with pytest.raises(Stopped):
            rig.load("a.csv", "id,n\n2,6\n2,7\n", "append")
        assert rig.rows() == [{"id": 2, "n": 6}]


@pytest.mark.parametrize("kind", ["duckdb", "postgresql"])
def test_rows_that_something_refers_to_are_updated_never_deleted(tmp_path, fresh_database, kind):
    rig = Rig(kind, tmp_path, fresh_database)
    con = (
        psycopg.connect(fresh_database, autocommit=True)
        if kind == "postgresql"
        else duckdb.connect(str(tmp_path / "o.duckdb"))
    )
    con.execute("create table t (id bigint primary key, n bigint, m text)")
    con.execute("insert into t values (1, 5, 'x'), (2, 6, 'y')")
    if kind == "postgresql":
        con.execute("create table child (t_id bigint references t (id) on delete cascade)")
        con.execute("insert into child values (1), (2)")
    con.close()
    receipt = rig.load("a.csv", "id,n\n2,7\n3,8\n", "save", key=("id",))
    assert (receipt.books.inserted, receipt.books.updated) == (1, 1)
    assert [tuple(row.values()) for row in rig.rows()] == [
        (1, 5, "x"), (2, 7, None), (3, 8, None),
    ]  # fmt: skip
    if kind == "postgresql":
        with psycopg.connect(fresh_database) as con:
            assert con.execute("select count(*) from child").fetchone() == (2,)


def test_nul_characters_go_to_the_quarantine_of_postgresql(tmp_path, fresh_database):
    rig = Rig("postgresql", tmp_path, fresh_database)
    receipt = rig.load("a.csv", "id,n\n1,a\0b\n2,c\n", failure_threshold=50)
    assert rig.rows() == [{"id": 2, "n": "c"}]
    assert receipt.rules == {"bad_value": 1}
