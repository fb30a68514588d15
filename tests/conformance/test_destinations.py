"""What every destination does alike: actions, keys, several files, schemas that grow."""

import duckdb
import psycopg
import pytest

from headrace.assembly import work
from headrace.contract import room
from headrace.domain.errors import Misconfigured, Refused
from headrace.engine.plan import Stopped
from headrace.settings import RUN_BYTES_MIN
from tests.engine import LARGE, MYSQL, Memory, Rig, kind_of, order

ENDS = ("duckdb", "postgresql", "search", "parquet", "sqlite", "sqlalchemy", MYSQL)


@pytest.fixture(params=ENDS)
def rig(request, tmp_path, fresh):
    return Rig(request.param, tmp_path, fresh(request.param))


@pytest.fixture(
    params=("duckdb", "duckdb in parts", "postgresql", "search", "sqlite", "sqlalchemy", MYSQL)
)
def keyed(request, tmp_path, fresh):
    kind = kind_of(request)
    return Rig(kind, tmp_path, fresh(kind))


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


def test_a_table_that_is_made_anew_for_a_merge_is_what_a_merge_makes(tmp_path, monkeypatch):
    found = {}
    for rows in (1, 10**9):
        monkeypatch.setattr(room, "REBUILD_ROWS", rows)
        monkeypatch.setattr(room, "ROWID_BYTES", LARGE)  # in several slices
        (tmp_path / str(rows)).mkdir()
        rig = Rig("duckdb", tmp_path / str(rows), "")
        rig.load("a.csv", "id,n,m,w\n1,5,x,1.5\n2,6,y,2.5\n4,,,\n", key=("id",))
        receipt = rig.load("b.csv", "m,id,new\nz,2,q\n,3,\n", "save", key=("id",))
        assert receipt.tables[0].rows_after == 4
        found[rows] = receipt.books, rig.rows(), [list(row) for row in rig.rows()]
    assert found[1] == found[10**9]
    assert found[1][1][1] == {"id": 2, "n": None, "m": "z", "w": None, "new": "q"}


def test_what_is_merged_fills_the_groups_of_a_table_but_the_last(tmp_path):
    """Small groups are written twice: when the rows come, and when the file is closed."""
    rows = room.GROUP_ROWS * 5 + 1_000
    (tmp_path / "data").mkdir()
    path = tmp_path / "o.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute("create table t (id bigint, name varchar)")
        con.execute("insert into t values (-1, 'old')")
        con.execute(
            f"copy (select range as id, 'n' || range as name from range({rows}))"
            f" to '{tmp_path / 'a.csv'}' (header)"
        )
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "a.csv")}), ("duckdb", {"path": str(path)}),
        action="save", key=("id",), memory_bytes=1 << 29,
    )  # fmt: skip
    assert work(told, Memory()).tables[0].books.inserted == rows
    with duckdb.connect(str(path)) as con:
        counts = con.execute(
            "select row_group_id, sum(count) from pragma_storage_info('t')"
            " where column_name = 'id' and segment_type <> 'VALIDITY' group by all"
        ).fetchall()
    assert sum(count for _, count in counts) == rows + 1
    assert len([count for _, count in counts if count < room.GROUP_ROWS * 9 // 10]) == 1, counts


@pytest.mark.parametrize(("action", "most"), [("save", 4_000_005), ("delete", 3_960_000)])
@pytest.mark.parametrize("joined", [48, 2_000])
def test_rows_from_all_over_a_large_table_go_in_little_memory(
    tmp_path, monkeypatch, action, most, joined
):
    """DuckDB holds 8 bytes for each row of a vector of which one is deleted: more than a run has."""

    monkeypatch.setattr(room, "ROWID_BYTES", joined)  # in one slice, and in ten
    (tmp_path / "data").mkdir()
    path = tmp_path / "o.duckdb"
    with duckdb.connect(str(path)) as con:
        con.execute(
            "create table t as select range as id, 'n' || range as name from range(4000000)"
        )
    with (tmp_path / "a.csv").open("w") as out:
        out.write("id,name\n")
        out.writelines(f"{n * 100},changed {n}\n" for n in range(40_000))
        out.writelines(f"{4_000_000 + n},new {n}\n" for n in range(5))
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "a.csv")}), ("duckdb", {"path": str(path)}),
        action=action, key=("id",), memory_bytes=RUN_BYTES_MIN,
    )  # fmt: skip
    books = work(told, Memory()).tables[0].books
    with duckdb.connect(str(path)) as con:
        found = con.execute(
            "select count(*), count(distinct id), count(*) filter (name = 'n' || id),"
            " count(*) filter (name = 'changed ' || id // 100 and id % 100 = 0) from t"
        ).fetchone()
    if action == "save":
        assert (books.updated, books.inserted) == (40_000, 5)
        assert found == (most, most, 3_960_000, 40_000)
    else:
        assert (books.deleted, books.unchanged) == (40_000, 5)
        assert found == (most, most, most, 0)


@pytest.mark.parametrize(
    ("action", "rows", "doubles", "memory"),
    [("save", 6_000_000, 6_000, RUN_BYTES_MIN * 2), ("delete", 8_000_000, 0, RUN_BYTES_MIN)],
)
def test_as_many_rows_as_a_large_table_has_come_to_it_in_little_memory(
    tmp_path, action, rows, doubles, memory
):
    """Their keys have no room at once, and neither has what DuckDB holds of doubles that go."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "o.duckdb"
    with duckdb.connect() as con:
        con.execute(f"attach '{path}' as o")
        con.execute(
            f"create table o.t as select range * 2 as id, 0::bigint as n from range({rows})"
        )
        con.execute(
            f"copy (select range * 3 as id, 7 as n from range({rows}) union all"
            f" select range * 3000, 8 from range({doubles})) to '{tmp_path / 'a.csv'}' (header)"
        )
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "a.csv")}), ("duckdb", {"path": str(path)}),
        action=action, key=("id",), memory_bytes=memory,
    )  # fmt: skip
    books = work(told, Memory()).tables[0].books
    assert (books.read, books.duplicates) == (rows + doubles, doubles)
    met = -(-rows // 3)  # every sixth number is in both
    if action == "save":
        assert (books.updated, books.inserted) == (met, rows - met)
        wanted = {0: rows - met, 7: rows - doubles, 8: doubles}
    else:
        assert (books.deleted, books.unchanged) == (met, rows - met)
        wanted = {0: rows - met}
    with duckdb.connect(str(path)) as con:
        found = con.execute("select n, count(*), count(distinct id) from t group by n").fetchall()
    assert sorted(found) == sorted((n, count, count) for n, count in wanted.items())


@pytest.mark.parametrize("action", ["save", "partial", "partialNoCreate", "delete"])
def test_keys_of_other_types_than_the_tables_meet_in_one_part(tmp_path, monkeypatch, action):
    """A part is told by a hash, and that of 7 differs from that of 7.0."""
    monkeypatch.setattr(room, "KEY_BYTES", LARGE)
    rig = Rig("duckdb", tmp_path, "")
    types = {
        "i": ("bigint", "integer", "{n}"), "d": ("decimal(20,4)", "decimal(20,4)", "{n}.50"),
        "f": ("double", "integer", "-{n}"), "a": ("timestamp", "date", "2024-01-{day:02}"),
        "b": ("varchar", "string", "key {n}"),
    }  # fmt: skip
    columns = ", ".join(f"{name} {type_}" for name, (type_, _, _) in types.items())
    lines = [
        ",".join(text.format(n=n, day=n % 28 + 1) for *_, text in types.values())
        for n in range(200)
    ]
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        con.execute(f"create table t ({columns}, v bigint)")
        con.executemany(
            "insert into t values (?, ?, ?, ?, ?, 1)", [line.split(",") for line in lines[:150]]
        )
    text = "\n".join([",".join([*types, "v"]), *(f"{line},2" for line in lines[50:])])
    mapping = {name: type_ for name, (_, type_, _) in types.items()}
    books = rig.load("a.csv", text, action, key=tuple(types), more={"mapping": mapping}).books
    assert 100 in {books.updated, books.deleted}
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        found = dict(con.execute("select v, count(*) from t group by v").fetchall())
    new = 50 if action in {"save", "partial"} else 0
    assert found == ({1: 50} if action == "delete" else {1: 50, 2: 100 + new})


@pytest.mark.parametrize(
    "made",
    [
        "create table t (id bigint, n bigint)",
        "create table t (id bigint, n bigint default 7)",
        "create table t (id bigint not null, n bigint)",
        "create table t (id bigint, n bigint, twice bigint generated always as (n * 2))",
        "create table t (id bigint, n bigint, rowid varchar)",
        "create table t (id bigint, n bigint); create index i on t (n)",
        "create table t (id bigint, n bigint); comment on column t.n is 'how many'",
    ],
)
@pytest.mark.parametrize("action", ["save", "delete"])
def test_a_table_from_which_much_goes_stays_what_it_is(tmp_path, monkeypatch, made, action):
    monkeypatch.setattr(room, "REBUILD_ROWS", 1)
    monkeypatch.setattr(room, "ROWID_BYTES", LARGE)  # in several slices
    monkeypatch.setattr(room, "KEY_BYTES", LARGE)  # and parts
    rig = Rig("duckdb", tmp_path, "")
    told = (
        "select sql, (select list(sql) from duckdb_indexes()),"
        " (select list(comment) from duckdb_columns() where table_name = 't')"
        " from duckdb_tables() where table_name = 't'"
    )
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        con.execute(made)
        con.execute("insert into t (id, n) values (1, 5), (2, 6), (3, null)")
        before = con.execute(told).fetchall()
    rig.load("a.csv", "id,n\n2,8\n3,9\n", action, key=("id",))
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        assert con.execute(told).fetchall() == before
        left = con.execute("select id, n from t order by id").fetchall()
        assert left == ([(1, 5), (2, 8), (3, 9)] if action == "save" else [(1, 5)])
        assert con.execute("select count(*) from duckdb_tables()").fetchone() == (3,)


def test_a_table_that_is_made_anew_is_held_twice(tmp_path, monkeypatch):
    """What DuckDB holds of both, outside its limit, is not for what it does meanwhile."""
    limits = []
    real = room.going

    def going(con, *args):
        limits.extend(con.execute("select current_setting('memory_limit')").fetchone())
        return real(con, *args)

    monkeypatch.setattr(room, "REBUILD_ROWS", 1)
    monkeypatch.setattr(room, "HELD_BYTES", 2 * 10**6)
    monkeypatch.setattr(room, "going", going)
    rows = room.GROUP_ROWS
    with duckdb.connect(str(tmp_path / "o.duckdb")) as con:
        con.execute(f"create table t as select range as id, 0::bigint as n from range({rows})")
        con.execute(
            f"copy (select range as id, 1 as n from range({rows // 2}))"
            f" to '{tmp_path / 'a.csv'}' (header)"
        )
    (tmp_path / "data").mkdir()
    told = order(
        tmp_path, ("csv", {"url": str(tmp_path / "a.csv")}),
        ("duckdb", {"path": str(tmp_path / "o.duckdb")}),
        action="save", key=("id",), memory_bytes=128_000_000,
    )  # fmt: skip
    assert work(told, Memory()).tables[0].books.updated == rows // 2
    # Twice the 4 MB of the table, and 2 or 3 of the stage.
    assert [float(limit.removesuffix(" MiB")) for limit in limits] == [
        pytest.approx((64e6 - 13e6) / 2**20, abs=2)
    ]


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


@pytest.mark.parametrize("kind", ["duckdb", "postgresql", "sqlite", "sqlalchemy", MYSQL])
def test_columns_are_added_and_widened_never_narrowed(tmp_path, fresh, kind):
    keyed = Rig(kind, tmp_path, fresh(kind))
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


# Where a unique index of PostgreSQL holds the key, a merge is one statement.


@pytest.fixture
def unique(tmp_path, fresh_database):
    """A table with a primary key and a column that no source has; and what runs SQL there."""
    rig = Rig("postgresql", tmp_path, fresh_database)

    def run(text):
        with psycopg.connect(fresh_database, autocommit=True) as con:
            found = con.execute(text)
            return found.fetchall() if found.description else None

    run(
        "create table t (id bigint primary key, n bigint, m text default 'd', own text default 'o')"
    )
    run("insert into t select x, x, 'm', 'mine' from generate_series(1, 3) x")
    return rig, run


@pytest.fixture
def statements(monkeypatch):
    """Return what is executed while a stage is applied."""
    from headrace.connectors.destinations.postgresql import PostgresqlLoad

    found = []
    real = PostgresqlLoad._query

    def query(self, text):
        found.append(text)
        return real(self, text)

    monkeypatch.setattr(PostgresqlLoad, "_query", query)
    return found


def test_a_unique_key_merges_whole_rows_at_once(unique, statements):
    rig, run = unique
    receipt = rig.load("a.csv", "id,n\n2,20\n3,\n4,40\n4,41\n", "save", ("id",))
    books = receipt.books
    assert (books.inserted, books.updated, books.duplicates) == (1, 2, 1)
    assert any("on conflict" in text for text in statements)
    assert run("select * from t order by id") == [
        (1, 1, "m", "mine"), (2, 20, None, None), (3, None, None, None), (4, 41, "d", "o"),
    ]  # fmt: skip


def test_a_unique_key_merges_what_a_record_carries(unique, statements):
    rig, run = unique
    receipt = rig.load("a.csv", "id,n\n2,20\n4,40\n", "partial", ("id",))
    assert (receipt.books.inserted, receipt.books.updated) == (1, 1)
    assert any("on conflict" in text for text in statements)
    assert run("select * from t where id in (2, 4) order by id") == [
        (2, 20, "m", "mine"), (4, 40, "d", "o"),
    ]  # fmt: skip
    rig.load("b.json", '{"id":2,"m":null}\n{"id":3,"n":7}\n', "partial", ("id",))
    assert run("select n, m from t where id in (2, 3) order by id") == [(20, None), (7, "m")]


def test_a_unique_key_and_several_files_have_books_of_their_own(unique, statements):
    rig, _ = unique
    (rig.folder / "in").mkdir()
    (rig.folder / "in/1.csv").write_text("id,n\n1,10\n8,80\n")
    (rig.folder / "in/2.csv").write_text("id,n\n2,20\n9,90\n10,100\n")
    receipt = rig.load("in/*.csv", None, "save", ("id",))
    assert any("on conflict" in text for text in statements)
    assert [(file.books.inserted, file.books.updated) for file in receipt.files] == [(1, 1), (2, 1)]


def test_a_key_alone_is_counted_too(unique):
    rig, run = unique
    receipt = rig.load("a.csv", "id\n1\n4\n", "partial", ("id",))
    assert (receipt.books.inserted, receipt.books.updated) == (1, 1)
    assert run("select n, own from t where id = 1") == [(1, "mine")]


@pytest.mark.parametrize(
    "index",
    [
        "create unique index u on t (id, n)", "create unique index u on t (id) where n > 0",
        "create unique index u on t ((id + 1))", "create index u on t (id)",
        "alter table t add constraint u unique (id) deferrable",
        "create unique index u on t (n) include (id)",
    ],
)  # fmt: skip
def test_another_index_is_none_that_holds_the_key(unique, statements, index):
    rig, run = unique
    run("alter table t drop constraint t_pkey")
    run(index)
    receipt = rig.load("a.csv", "id,n\n2,20\n4,40\n", "save", ("id",))
    assert (receipt.books.inserted, receipt.books.updated) == (1, 1)
    assert not any("on conflict" in text for text in statements)
    assert run("select id, n from t order by id") == [(1, 1), (2, 20), (3, 3), (4, 40)]


def test_an_index_that_includes_more_holds_its_key(unique, statements):
    rig, run = unique
    run("alter table t drop constraint t_pkey")
    run("create unique index u on t (id) include (n)")
    rig.load("a.csv", "id,n\n2,20\n", "save", ("id",))
    assert any("on conflict" in text for text in statements)


def test_a_row_that_a_trigger_swallows_fails_the_run(unique):
    """The statement has written other rows than were staged: nothing is published."""
    rig, run = unique
    run("create function skip() returns trigger language plpgsql as"
        " 'begin if new.id = 4 then return null; end if; return new; end'")  # fmt: skip
    run("create trigger s before insert on t for each row execute function skip()")
    with pytest.raises(Stopped, match="other rows than were staged"):
        rig.load("a.csv", "id,n\n2,20\n4,40\n", "save", ("id",))
    assert run("select count(*), sum(n) from t") == [(3, 6)]


def test_a_stage_that_is_merged_leaves_nothing_behind(unique):
    rig, run = unique
    rig.load("a.csv", "id,n\n2,20\n", "save", ("id",))
    assert run("select relname from pg_class where relname like '%headrace_stage%'") == []
    run("drop table t")
    rig.load("a.csv", "id,n\n2,20\n", "save", ("id",))
    assert run("select relpersistence from pg_class where relname = 't'") == [("p",)]


@pytest.mark.parametrize("action", ["replace", "append", "save"])
def test_what_is_shown_in_postgresql_is_on_its_disk(unique, monkeypatch, action):
    """The stage need not be, before that."""
    from headrace.connectors.destinations.postgresql import PostgresqlLoad

    rig, _ = unique
    real, asked = PostgresqlLoad._check_fence, []

    def check(self):
        asked.append(self._con.execute("show synchronous_commit").fetchone())
        return real(self)

    monkeypatch.setattr(PostgresqlLoad, "_check_fence", check)
    rig.load("a.csv", "id,n\n9,20\n", action, ("id",) if action == "save" else ())
    assert asked == [("on",)] * 2  # where the fence is raised, and where rows are shown


def test_a_table_that_goes_away_while_rows_are_staged_is_made_to_last(unique, monkeypatch):
    """The stage was made to be merged; it becomes the table, and must survive a crash."""
    from headrace.connectors.destinations.postgresql import PostgresqlLoad

    rig, run = unique
    real = PostgresqlLoad.commit

    def late(self, sign):
        run("drop table t")
        return real(self, sign)

    monkeypatch.setattr(PostgresqlLoad, "commit", late)
    rig.load("a.csv", "id,n\n2,20\n", "save", ("id",))
    assert run("select relpersistence from pg_class where relname = 't'") == [("p",)]
    assert run("select * from t") == [(2, 20)]
