"""Writing to Algolia's own services, against a strict fake of them (tests/algolia_fake.py)."""

import itertools
import json
import os

import pytest
from algoliasearch.http.hosts import Host, HostsCollection
from algoliasearch.ingestion.client import IngestionClientSync
from algoliasearch.ingestion.config import IngestionConfig

from headrace.assembly import read_table, work
from headrace.domain.errors import Misconfigured, Refused, Unavailable, Unbalanced
from headrace.engine.plan import Stopped
from tests.algolia_fake import APP, KEY, algolia_fake, until
from tests.engine import Memory, order
from tests.serving import KEY as ADMIN
from tests.serving import serving


@pytest.fixture
def fake():
    with algolia_fake() as fake:
        yield fake


class Rig:
    def __init__(self, fake, folder, kind="algolia"):
        self.fake, self.folder, self.kind = fake, folder, kind
        self.fence = 0
        (folder / "data").mkdir()

    def load(self, records, action="save", key=("id",), end=None, again=False, ascii_=True, **more):
        path = self.folder / "in.json"
        path.write_text(json.dumps(records, ensure_ascii=ascii_))
        self.fence += not again
        input_ = {"indexName": "goods", "appID": APP, "apiKey": KEY} | (end or {})
        return work(
            order(
                self.folder, ("json", {"url": str(path)}), (self.kind, input_), action=action,
                key=key, fence=self.fence, hosts={self.kind: self.fake.url}, **more,
            ),
            Memory(),
        )  # fmt: skip

    def goods(self):
        return {id_: {k: v for k, v in row.items() if k not in ("objectID", "id")}
                for id_, row in self.fake.indexes.get("goods", {}).items()}  # fmt: skip


@pytest.fixture
def rig(fake, tmp_path):
    return Rig(fake, tmp_path)


def counted(receipt):
    return {name: count for name, count in receipt.books.as_dict().items() if count}


def test_a_replace_is_built_aside_and_moved(rig):
    rig.fake.indexes["goods"] = {"old": {"objectID": "old"}}
    rig.fake.settings["goods"] = "as they were"
    receipt = rig.load([{"id": n, "n": n} for n in range(2_500)], "replace")
    assert counted(receipt) == {"read": 2_500, "inserted": 2_500, "replaced_out": 1}
    assert receipt.tables[0].rows_after == 2_500
    assert len(rig.goods()) == 2_500
    assert rig.goods()["7"] == {"n": 7}
    assert rig.fake.settings == {"goods": "as they were"}
    assert list(rig.fake.indexes) == ["goods"]
    batches = [path for _, path in rig.fake.calls if path.endswith("/batch")]
    assert len(batches) == 3
    assert not any(path.startswith("/1/indexes/goods/batch") for path in batches)


@pytest.mark.parametrize("there", [True, False])
def test_a_replace_by_nothing_leaves_an_empty_index(rig, there):
    if there:
        rig.fake.indexes["goods"] = {"old": {"objectID": "old"}}
    assert rig.load([], "replace").books.replaced_out == int(there)
    assert rig.fake.indexes == {"goods": {}}


def test_every_action_counts_what_it_met(rig):
    one = {"id": 1, "a": 1, "b": 1}
    assert counted(rig.load([one, {"id": 2, "a": 2}])) == {"read": 2, "inserted": 2}
    assert counted(rig.load([{"id": 1, "a": 5}, {"id": 3}])) == {
        "read": 2, "inserted": 1, "updated": 1,
    }  # fmt: skip
    assert rig.goods() == {"1": {"a": 5}, "2": {"a": 2}, "3": {}}
    assert counted(rig.load([{"id": 2, "b": 6}, {"id": 4, "c": 7}], "partial")) == {
        "read": 2, "inserted": 1, "updated": 1,
    }  # fmt: skip
    assert counted(rig.load([{"id": 4, "d": 8}, {"id": 9, "d": 8}], "partialNoCreate")) == {
        "read": 2, "updated": 1, "filtered": 1,
    }  # fmt: skip
    assert rig.goods() == {"1": {"a": 5}, "2": {"a": 2, "b": 6}, "3": {}, "4": {"c": 7, "d": 8}}
    assert counted(rig.load([{"id": 1}, {"id": 9}], "delete")) == {
        "read": 2, "deleted": 1, "unchanged": 1,
    }  # fmt: skip
    receipt = rig.load([{"n": 1}, {"n": 1}], "append", key=())
    assert counted(receipt) == {"read": 2, "inserted": 2}
    assert receipt.tables[0].rows_after == 5
    assert set(rig.goods()) > {"2", "3", "4"}


def test_a_batch_stays_below_what_one_call_may_hold(rig):
    rig.load([{"id": n, "text": "x" * 90_000} for n in range(200)], "save", memory_bytes=1 << 30)
    assert len(rig.goods()) == 200
    assert sum(path.endswith("/batch") for _, path in rig.fake.calls) == 3


@pytest.mark.parametrize("ascii_", [True, False])
@pytest.mark.parametrize("character", ["名", "😀"])
def test_what_is_escaped_on_its_way_counts_as_it_is_sent(rig, character, ascii_):
    """The client escapes all but ASCII: the fake refuses a body of more than 10 MB."""
    rig.load([{"id": n, "text": character * 20_000} for n in range(300)], ascii_=ascii_,
             memory_bytes=1 << 30)  # fmt: skip
    assert len(rig.goods()) == 300
    assert rig.goods()["7"]["text"] == character * 20_000


def test_a_destination_may_have_a_limit_of_its_own(rig):
    records = [{"id": 1, "text": "x" * 5_000}, {"id": 2}]
    receipt = rig.load(records, "replace", end={"recordBytesMax": 2_000}, failure_threshold=50)
    assert counted(receipt) == {"read": 2, "inserted": 1, "rejected": 1}


def test_a_record_that_is_too_large_is_rejected_not_fatal(rig):
    records = [{"id": 1, "n": 1}, {"id": 2, "text": "x" * 100_001}, {"id": 3, "n": 3},
               {"id": 4, "drop": "x" * 100_001}]  # fmt: skip
    receipt = rig.load(
        records, "replace", end={"attributesToExclude": ["drop"]}, failure_threshold=30
    )
    assert counted(receipt) == {"read": 4, "inserted": 3, "rejected": 1}
    assert set(rig.goods()) == {"1", "3", "4"}
    (line,) = next((rig.folder / "rejects").iterdir()).read_text().splitlines()
    kept = json.loads(line)
    assert (kept["record"], kept["rule"]) == (2, "too_long")
    assert "Algolia takes 100,000" in kept["message"]
    with pytest.raises(Stopped) as caught:
        rig.load(records, "replace")
    assert caught.value.error.code == "too_many_errors"


def test_trouble_that_passes_is_tried_again(rig):
    left = {"/1/indexes/goods/batch": ["cut", 503, 429], "/1/indexes/*/objects": [502]}

    def trouble(method, path):
        return left.get(path, []).pop(0) if left.get(path) else None

    rig.fake.trouble = trouble
    rig.fake.slow_tasks = 3
    assert counted(rig.load([{"id": 1}, {"id": 2}])) == {"read": 2, "inserted": 2}
    assert not any(left.values())


def test_trouble_that_stays_leaves_the_index_alone(rig):
    rig.fake.indexes["goods"] = {"old": {"objectID": "old"}}
    rig.fake.trouble = lambda _, path: 503 if "_tmp_" in path and path.endswith("batch") else None
    with pytest.raises(Stopped) as caught:
        rig.load([{"id": 1}], "replace")
    assert isinstance(caught.value.error, Unavailable)
    assert rig.fake.indexes == {"goods": {"old": {"objectID": "old"}}}


def test_what_was_written_before_a_failure_is_told(rig):
    sent = []

    def trouble(_, path):
        if path.endswith("batch"):
            sent.append(path)
        return 400 if len(sent) == 2 else None

    rig.fake.trouble = trouble
    with pytest.raises(Stopped) as caught:
        rig.load([{"id": n} for n in range(1_500)])
    assert isinstance(caught.value.error, Refused)
    assert "1,000 records were written before that" in caught.value.error.message
    assert len(rig.goods()) == 1_000


def test_a_key_without_rights_is_told(rig):
    rig.fake.rights = {"search"}
    with pytest.raises(Stopped) as caught:
        rig.load([{"id": 1}])
    error = caught.value.error
    assert (error.code, error.field) == ("refused", "authenticationID")
    assert "Method not allowed" in error.message


def test_a_key_that_may_not_look_still_writes(rig):
    rig.fake.rights -= {"search", "browse"}
    rig.fake.indexes["goods"] = {"1": {"objectID": "1"}}
    receipt = rig.load([{"id": 1}, {"id": 2}])
    assert counted(receipt) == {"read": 2, "updated": 2}  # nobody can tell which are new
    assert receipt.tables[0].rows_after is None
    assert counted(rig.load([{"id": 3}], "replace"))["inserted"] == 1
    assert set(rig.goods()) == {"3"}


def test_a_service_that_loses_a_record_is_caught(rig, monkeypatch):
    monkeypatch.setattr("headrace.connectors.families.algolia_service.SETTLED_S", 0.1)
    rig.fake.indexes["goods"] = {"old": {"objectID": "old"}}
    batch = rig.fake._batch

    def lossy(name, given, body):
        found = batch(name, given, body)
        rig.fake.indexes[name].pop("2", None)
        return found

    rig.fake._batch = lossy
    with pytest.raises(Stopped) as caught:
        rig.load([{"id": 1}, {"id": 2}], "replace")
    assert isinstance(caught.value.error, Unbalanced)
    assert set(rig.goods()) == {"old"}
    rig.fake._batch = lambda *given: (200, batch(*given)[1] | {"objectIDs": ["1"]})
    with pytest.raises(Stopped) as caught:
        rig.load([{"id": 1}, {"id": 2}])
    assert "confirmed 1 of 2" in caught.value.error.message


@pytest.mark.parametrize("bad", [{"appID": "evil.example/", "apiKey": "k"}, {"appID": "A"}, {}])
def test_credentials_that_cannot_be_right_are_told_first(fake, tmp_path, bad):
    rig = Rig(fake, tmp_path)
    path = tmp_path / "in.json"
    path.write_text("[]")
    given = order(tmp_path, ("json", {"url": str(path)}), ("algolia", {"indexName": "goods"} | bad),
                  hosts={"algolia": fake.url})  # fmt: skip
    with pytest.raises(Misconfigured):
        work(given, Memory())
    assert rig.fake.calls == []


def test_an_index_is_read_back_in_pages(rig):
    rig.load([{"id": n} for n in range(25)])
    given = order(rig.folder, ("csv", {}), ("algolia", {
        "indexName": "goods", "appID": APP, "apiKey": KEY}), hosts={"algolia": rig.fake.url})  # fmt: skip
    seen, cursor = [], None
    while True:
        page = read_table(given, "goods", 10, cursor)
        seen += [row["objectID"] for row in page.rows]
        if (cursor := page.next) is None:
            break
    assert seen == [str(n) for n in range(25)]


# User events.


def event(n, **more):
    return {
        "eventType": "view",
        "eventName": "Seen",
        "userToken": f"u{n}",
        "objectIDs": ["1"],
    } | more


def test_events_are_sent_in_batches_and_bad_ones_rejected(fake, tmp_path):
    rig = Rig(fake, tmp_path, "insights")
    events = [event(n) for n in range(1_500)]
    events += [event(0, eventType="buy"), event(0, userToken="not a token!"),
               event(0, objectIDs=[]), event(0, index="other")]  # fmt: skip
    receipt = rig.load(events, "append", key=(), failure_threshold=1)
    assert counted(receipt) == {"read": 1_504, "inserted": 1_501, "rejected": 3}
    assert len(fake.events) == 1_501
    assert [one["index"] for one in fake.events[-2:]] == ["goods", "other"]
    assert [path for _, path in fake.calls] == ["/1/events"] * 2
    with pytest.raises(Misconfigured):
        rig.load(events, "replace")


def test_events_that_arrived_are_not_sent_again(fake, tmp_path):
    rig = Rig(fake, tmp_path, "insights")
    events = [event(n) for n in range(2_500)]
    answers = iter([None, 503, 503, 503, 503])
    fake.trouble = lambda *_: next(answers, None)
    with pytest.raises(Stopped) as caught:
        rig.load(events, "append", key=(), run="the-run")
    assert isinstance(caught.value.error, Unavailable)
    assert "1,000 events were sent before that" in caught.value.error.message
    assert counted(rig.load(events, "append", key=(), run="the-run")) == {
        "read": 2_500, "inserted": 2_500,
    }  # fmt: skip
    assert [one["userToken"] for one in fake.events] == [f"u{n}" for n in range(2_500)]


# The whole way, by the ingestion client.


@pytest.fixture
def server(fake, tmp_path):
    with serving(
        tmp_path / "data", HEADRACE_ALGOLIA_HOST=fake.url, HEADRACE_ALGOLIA_INSIGHTS_HOST=fake.url
    ) as server:
        yield server


def client_of(server):
    config = IngestionConfig("default", ADMIN, "us")
    config.hosts = HostsCollection([Host(server.client.url.partition("//")[2], scheme="http")])
    config.proxies = None
    return IngestionClientSync.create_with_config(config)


def set_up(client, source, type_="search", action="save"):
    authentication = client.create_authentication({
        "type": "algolia" if type_ == "search" else "algoliaInsights", "name": "a",
        "input": {"appID": APP, "apiKey": KEY}}).authentication_id  # fmt: skip
    end = client.create_destination({
        "type": type_, "name": "d", "input": {"indexName": "goods"},
        "authenticationID": authentication}).destination_id  # fmt: skip
    source = client.create_source(source).source_id
    made = client.create_task({"sourceID": source, "destinationID": end, "action": action})
    return end, made.task_id


def test_a_run_and_pushes_reach_the_service(server, fake):
    client = client_of(server)
    path = server.data_dir / "files" / "goods.csv"
    path.write_text("sku,n\n1,a\n2,b\n")
    csv = {"type": "csv", "name": "c", "input": {"url": f"file://{path}", "uniqueIDColumn": "sku"}}
    end, task = set_up(client, csv, action="replace")
    run = client.run_task(task).run_id
    until(lambda: client.get_run(run).status == "finished")
    assert client.get_run(run).outcome == "success", client.get_run(run)
    assert {id_: row["n"] for id_, row in fake.indexes["goods"].items()} == {"1": "a", "2": "b"}
    found = server.client.call("GET", f"/v1/tables/{end}/goods/rows")["rows"]
    assert {row["objectID"] for row in found} == {"1", "2"}
    _, push = set_up(client, {"type": "push", "name": "p"})
    for n in range(5):
        client.push_task(push, {"action": "partialUpdateObject",
                                "records": [{"objectID": "1", f"p{n}": n}]})  # fmt: skip
    told = client.push_task(
        push, {"action": "deleteObject", "records": [{"objectID": "2"}]}, watch=True
    )
    assert told.events is None
    assert fake.indexes["goods"] == {
        "1": {"objectID": "1", "sku": "1", "n": "a"} | {f"p{n}": n for n in range(5)}
    }
    client.push_task(push, {"action": "delete", "records": []}, watch=True)
    assert fake.indexes == {}
    sent = json.dumps(fake.calls)
    assert KEY not in sent.replace(f"/1/keys/{KEY}", "")


def test_events_of_a_file_reach_the_service(server, fake):
    client = client_of(server)
    path = server.data_dir / "files" / "events.json"
    path.write_text(json.dumps([event(n) for n in range(3)]))
    source = {"type": "json", "name": "c", "input": {"url": f"file://{path}"}}
    _, task = set_up(client, source, "insights", "append")
    run = client.run_task(task).run_id
    until(lambda: client.get_run(run).status == "finished")
    assert client.get_run(run).outcome == "success"
    assert [one["userToken"] for one in fake.events] == ["u0", "u1", "u2"]


KILLS = list(
    itertools.product(
        ("replace", "save", "partial", "append"), ("child.in_commit", "child.committed")
    )
)


@pytest.mark.faults
@pytest.mark.parametrize(
    ("action", "point"), KILLS if os.environ.get("HEADRACE_FAULTS") == "all" else KILLS[::3]
)
def test_a_kill_on_the_way_changes_neither_index_nor_books(fake, tmp_path, action, point):
    fake.indexes["goods"] = {"1": {"objectID": "1", "old": True}}
    marker = tmp_path / "happened"
    with serving(
        tmp_path / "data", HEADRACE_ALGOLIA_HOST=fake.url, HEADRACE_FAULT=point,
        HEADRACE_FAULT_ONCE=str(marker), HEADRACE_LEASE="1.5",
    ) as server:  # fmt: skip
        client = client_of(server)
        path = server.data_dir / "files" / "goods.csv"
        path.write_text("sku,n\n" + "".join(f"{n},{n}\n" for n in range(1, 1_501)))
        csv = {"type": "csv", "name": "c", "input": {"url": f"file://{path}"}}
        if action != "append":
            csv["input"]["uniqueIDColumn"] = "sku"
        _, task = set_up(client, csv, action=action)
        run = client.run_task(task).run_id
        until(lambda: client.get_run(run).status == "finished")
        assert marker.exists()
        assert client.get_run(run).outcome == "success", client.get_run(run)
        books = server.client.call("GET", f"/v1/runs/{run}/receipt")["books"]
    new = 1_500 if action in ("replace", "append") else 1_499
    assert (books["read"], books["inserted"], books["updated"]) == (1_500, new, 1_500 - new)
    assert list(fake.indexes) == ["goods"]
    assert len(fake.indexes["goods"]) == 1_500 + (action == "append")
