"""The embedded index: a first load takes the place of nothing, whoever comes in between."""

import sqlite3

import duckdb
import pytest

from headrace.connectors.destinations import search
from headrace.contract.columns import DOCUMENT, KEY, Column
from headrace.contract.destination import Rows, Target
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


def push(path, *ids):
    """Write records as a server does between two chunks of a load."""
    with search._open(path) as db:
        for one in ids:
            body = f'{{"objectID":"{one}"}}'
            db.execute("insert into records (object_id, body) values (?, ?)", [one, body])
        db.execute("insert into records_text (rowid, text) select id, 'pushed' from records")


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
    load = begun(path, action)
    write(load, 0, 5)
    counts = load.commit(lambda counts: "note")
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 5}, {}, 5)
    assert found(path, "loaded") == ["k0", "k1", "k2", "k3", "k4"]
    assert found(path, "n3") == ["k3"]
    assert left(path) == []
    again = begun(path, fence=2)
    write(again, 4, 7)
    counts = again.commit(lambda counts: "note")
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 2}, {"": 1}, 7)
    assert len(found(path, "loaded")) == 7
    assert left(path) == []


def test_what_is_pushed_while_a_first_load_goes_on_is_not_lost(path):
    load = begun(path)
    write(load, 0, 3)
    push(path, "p", "k1")
    counts = load.commit(lambda counts: "note")
    assert (counts.inserted, counts.updated, counts.rows_after) == ({"": 2}, {"": 1}, 4)
    assert found(path, "loaded") == ["k0", "k1", "k2"]
    assert found(path, "pushed") == ["p"]  # the load's k1 comes after the push's
    assert left(path) == []
