"""The embedded index: a first load takes the place of nothing, whoever comes in between."""

import json
import sqlite3

import duckdb
import hypothesis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from headrace.connectors.destinations import search
from headrace.contract.columns import DOCUMENT, KEY, Column
from headrace.contract.destination import Rows, Target
from headrace.domain.errors import Unavailable
from headrace.domain.task import Action


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index.db"


def begun(path, action=Action.SAVE, fence=1):
    target = Target(
        table="t", action=action, key=("objectID",), scope="s", fence=fence, token=f"r{fence}"
    )
    load = search.SearchLoad(search._open(path), target)
    assert load.begin() is None
    return load


def write(load, first, last):
    with duckdb.connect() as con:
        sql = (
            f"select 'k' || i as {KEY}, json_object('objectID', 'k' || i, 'name', 'loaded n' || i)"
            f"::varchar as {DOCUMENT} from range({first}, {last}) as t(i)"
        )
        load.write(Rows(con=con, sql=sql, columns=[Column("name", "string")], with_file=False))


def staged(path, first, last, **given):
    load = begun(path, **given)
    write(load, first, last)
    return load


def push(path, *ids):
    """Write records as a server does between two chunks of a load."""
    with search._open(path) as db:
        for one in ids:
            body = f'{{"objectID":"{one}"}}'
            db.execute("insert into records (object_id, body) values (?, ?)", [one, body])
        db.execute(
            "insert into records_text (rowid, text) select id, 'pushed' from records"
            " where id not in (select rowid from records_text)"
        )


def found(path, word):
    with sqlite3.connect(path) as db:
        return [
            name
            for (name,) in db.execute(
                "select object_id from records join records_text on records_text.rowid = records.id"
                " where records_text match ? order by 1",
                [word],
            )
        ]


def left(path):
    with sqlite3.connect(path) as db:
        return [
            name
            for (name,) in db.execute("select name from sqlite_master where name glob 'stage*'")
        ]


@pytest.mark.parametrize("action", [Action.SAVE, Action.APPEND])
def test_a_first_load_is_shown_as_it_was_staged(path, action):
    load = staged(path, 0, 5, action=action)
    counts = load.commit(lambda counts: "note")
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 5}, {}, 5)
    assert found(path, "loaded") == ["k0", "k1", "k2", "k3", "k4"]
    assert found(path, "n3") == ["k3"]
    assert left(path) == []
    again = staged(path, 4, 7, fence=2)
    counts = again.commit(lambda counts: "note")
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 2}, {"": 1}, 7)
    assert len(found(path, "loaded")) == 7
    assert left(path) == []


def test_what_is_pushed_while_a_first_load_goes_on_is_not_lost(path):
    load = staged(path, 0, 3)
    push(path, "p", "k1")
    counts = load.commit(lambda counts: "note")
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 2}, {"": 1}, 4)
    assert found(path, "loaded") == ["k0", "k1", "k2"]
    assert found(path, "pushed") == ["p"]  # the load's k1 comes after the push's
    assert left(path) == []


@pytest.fixture
def small(monkeypatch):
    """Chunks of three rows, so that few are many."""
    monkeypatch.setattr(search, "CHUNK_ROWS", 3)


@pytest.fixture
def ten(path, small):
    """An index of ten records, which are many."""
    staged(path, 0, 10).commit(lambda counts: "note")


@pytest.fixture
def anew(monkeypatch):
    """Every load whose stage took the place of the index."""
    found, real = [], search.SearchLoad._show

    def show(self, counts):
        found.append(self._target.fence)
        return real(self, counts)

    monkeypatch.setattr(search.SearchLoad, "_show", show)
    return found


def given(load, *documents):
    with duckdb.connect() as con:
        values = ", ".join(f"($${json.loads(one)['objectID']}$$, $${one}$$)" for one in documents)
        sql = f"select * from (values {values}) as v({KEY}, {DOCUMENT})"
        load.write(Rows(con=con, sql=sql, columns=[], with_file=False))


def everything(path):
    """Return all records in their order, and hold the text of each against it."""
    with sqlite3.connect(path) as db:
        records = db.execute("select id, object_id, body from records order by id").fetchall()
        texts = dict(db.execute("select rowid, text from records_text").fetchall())
        db.execute("insert into records_text (records_text) values ('integrity-check')")
    assert list(texts) == [one[0] for one in records]
    for id_, _, body in records:
        words = " ".join(one for one in json.loads(body).values() if isinstance(one, str))
        assert texts[id_] == words
    assert left(path) == []
    return [(name, json.loads(body)) for _, name, body in records]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@hypothesis.given(
    before=st.sets(st.integers(0, 14)), after=st.sets(st.integers(0, 20), min_size=1),
    action=st.sampled_from([Action.SAVE, Action.APPEND, Action.PARTIAL, Action.PARTIAL_NO_CREATE]),
)  # fmt: skip
def test_both_ways_to_change_an_index_make_the_same(tmp_path_factory, before, after, action):
    folder = tmp_path_factory.mktemp("both")
    ends = []
    for chunk in (3, 10_000):
        path = folder / f"{chunk}.db"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(search, "CHUNK_ROWS", chunk)
            if before:
                load = begun(path)
                given(load, *(f'{{"objectID":"k{n}","a":"old {n}","b":"kept"}}' for n in before))
                load.commit(lambda counts: "note")
            load = begun(path, action, fence=2)
            given(load, *(f'{{"objectID":"k{n}","a":"new {n}"}}' for n in after))
            counts = load.commit(lambda counts: "note")
        assert sum(counts.updated.values()) == len(before & after)
        ends.append((everything(path), counts))
    assert ends[0] == ends[1]


def test_most_of_an_index_written_anew_changes_it_by_a_rename(path, ten, anew):
    load = staged(path, 3, 12, fence=2)
    seen = []
    counts = load.commit(lambda counts: seen.append(len(found(path, "loaded"))) or "note")
    assert anew == [2]
    assert seen == [10]  # who looks meanwhile sees the old one, whole
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 2}, {"": 7}, 12)
    assert [name for name, _ in everything(path)] == [f"k{n}" for n in range(12)]
    load = staged(path, 0, 3, fence=3)
    counts = load.commit(lambda counts: "note")
    assert anew == [2]  # few of many are changed in place
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 0}, {"": 3}, 12)
    assert len(everything(path)) == 12


def test_what_is_pushed_while_most_of_an_index_is_staged_is_not_lost(path, ten, anew):
    load = staged(path, 0, 10, fence=2)
    push(path, "p")  # where the stage begins
    counts = load.commit(lambda counts: "note")
    assert anew == []
    assert (counts.updated, counts.rows_after) == ({"": 10}, 11)
    assert found(path, "pushed") == ["p"]
    assert len(found(path, "loaded")) == 10


def test_who_writes_meanwhile_is_not_overwritten(path, ten, anew, monkeypatch):
    """Nobody may; one whose claim was lost without his knowing could."""
    load = staged(path, 0, 10, fence=2)
    real = load._lay_anew

    def meanwhile():
        counts = real()
        push(path, "p")
        return counts

    monkeypatch.setattr(load, "_lay_anew", meanwhile)
    with pytest.raises(Unavailable, match="somebody else"):
        load.commit(lambda counts: "note")
    load.abort()
    load.close()
    assert left(path) == []
    again = staged(path, 0, 10, fence=3)
    assert again.commit(lambda counts: "note").rows_after == 11
    assert found(path, "pushed") == ["p"]


def test_what_is_left_of_an_index_that_was_being_made_anew_is_gone_at_the_next_load(path, ten):
    killed = staged(path, 5, 15, fence=2)
    assert killed._lay_anew() is not None
    killed._db.close()
    assert left(path) != []
    staged(path, 0, 2, fence=3).commit(lambda counts: "note")
    assert [name for name, _ in everything(path)] == [f"k{n}" for n in (*range(2, 10), 0, 1)]
