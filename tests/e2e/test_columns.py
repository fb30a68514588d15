"""A task's columns and schema by the API: kept, shown, changed, refused, and held by its runs."""

import hashlib
import hmac
import json

import duckdb
import pytest

from headrace.domain.errors import HeadraceError
from tests.serving import serving

SECRET = "a-secret-for-hashes-7f3a"
PLAIN = {
    "select": [], "drop": [], "rename": {}, "cast": {}, "hash": [], "mask": {}, "compute": {},
    "names": "asIs",
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data = tmp_path_factory.mktemp("columns") / "data"
    with serving(data, HEADRACE_HASH_KEY=SECRET) as running:
        yield running


@pytest.fixture
def task(server, request):
    """A task without a shape, and what makes its file."""
    client = server.client
    name = request.node.name.partition("[")[0]
    path = server.data_dir / "files" / f"{name}.csv"
    path.write_text("Id,eMail,n\n1,ann@x.org,5\n2,bob@x.org,6\n")
    source = client.add("sources", type="csv", name="s", input={"url": f"file://{path}"})
    end = client.add(
        "destinations", type="duckdb", name="d", input={"path": f"{path.with_suffix('.duckdb')}"}
    )
    made = client.add(
        "tasks", source=source["id"], destination=end["id"], action="append", table="t"
    )
    return made, path


def rows(path):
    with duckdb.connect(str(path.with_suffix(".duckdb")), read_only=True) as con:
        found = con.execute("from t order by 1")
        names = [column[0] for column in found.description]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def test_a_shape_is_kept_shown_and_held(server, task):
    made, path = task
    assert (made["columns"], made["schema"]) == (PLAIN, "evolve")
    shape = {"hash": ["eMail"], "compute": {"twice": "n * 2"}, "names": "snake"}
    client = server.client
    changed = client.call("PATCH", f"/v1/tasks/{made['id']}", {"columns": shape})
    assert changed["columns"] == PLAIN | shape
    frozen = client.call("PATCH", f"/v1/tasks/{made['id']}", {"schema": "freeze"})
    assert (frozen["columns"], frozen["schema"]) == (PLAIN | shape, "freeze")
    assert client.call("GET", f"/v1/tasks/{made['id']}")["columns"] == PLAIN | shape
    assert client.wait(client.start(made["id"])["id"])["state"] == "succeeded"
    key = hmac.digest(SECRET.encode(), b"default", hashlib.sha256)
    digest = hmac.digest(key, b"ann@x.org", hashlib.sha256).hex()
    assert rows(path)[0] == {"id": 1, "e_mail": digest, "n": 5, "twice": 10}
    path.write_text("Id,eMail,n,more\n3,c@x.org,7,x\n")
    run = client.wait(client.start(made["id"])["id"])
    assert run["state"] == "failed"
    assert "unknown_column" in run["error"]["message"]


def test_a_new_task_takes_one_at_once(server, task):
    made, path = task
    client = server.client
    other = client.add(
        "tasks", source=made["source"], destination=made["destination"], action="replace",
        table="t", columns={"select": ["n"], "cast": {"n": "string"}}, schema="discard",
    )  # fmt: skip
    assert client.wait(client.start(other["id"])["id"])["state"] == "succeeded"
    assert rows(path) == [{"n": "5"}, {"n": "6"}]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"columns": {"cast": {"n": "number"}}}, "columns.cast.n"),
        ({"columns": {"mask": {"n": -1}}}, "columns.mask.n"),
        ({"columns": {"compute": {"x": "(select 1)"}}}, "columns.compute.x"),
        ({"columns": {"compute": {"x": "getenv('HOME')"}}}, "columns.compute.x"),
        ({"columns": {"names": "camel"}}, "columns.names"),
        ({"columns": {"nope": 1}}, "columns.nope"), ({"schema": "melt"}, "schema"),
        ({"deletes": True}, "deletes"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_when_it_is_given(server, task, given, field):
    made, _ = task
    with pytest.raises(HeadraceError) as error:
        server.client.call("PATCH", f"/v1/tasks/{made['id']}", given)
    assert error.value.field == field
    assert server.client.call("GET", f"/v1/tasks/{made['id']}")["columns"] == PLAIN


def test_the_key_of_hashes_is_nowhere_to_be_read(server, task):
    """Neither in the store, nor in the log, nor in what a failing run tells."""
    made, path = task
    client = server.client
    client.call("PATCH", f"/v1/tasks/{made['id']}", {"columns": {"hash": ["eMail"]}, "key": []})
    path.write_text("Id,eMail,n\n1,ann@x.org,5\n2,bob@x.org\n")
    run = client.wait(client.start(made["id"])["id"])
    key = hmac.digest(SECRET.encode(), b"default", hashlib.sha256)
    shown = json.dumps([run, client.call("GET", f"/v1/runs/{run['id']}/events?limit=100")])
    kept = (
        b"".join(one.read_bytes() for one in server.data_dir.rglob("*") if one.is_file())
        + server.log.read_bytes()
    )
    for secret in (SECRET, key.hex()):
        assert secret not in shown
        assert secret.encode() not in kept
    assert key not in kept
