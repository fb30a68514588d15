"""The Algolia dialect: documented request, documented answer, through a real server."""

import gzip
import json
import re
import sqlite3
import time

import pytest
import urllib3

from tests.serving import KEY, serving

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
HEADERS = {"x-algolia-application-id": "default", "x-algolia-api-key": KEY}


class Api:
    def __init__(self, server):
        self.server = server
        self.pool = urllib3.PoolManager(retries=False)  # it would wait as Retry-After says

    def raw(self, method, path, body=None, headers=HEADERS):
        return self.pool.request(method, self.server.client.url + path, body=body, headers=headers)

    def __call__(self, method, path, body=None, status=200, **headers):
        data = None if body is None else json.dumps(body).encode()
        answer = self.raw(method, path, data, HEADERS | headers)
        found = json.loads(answer.data)
        assert answer.status == status, found
        if status != 200:
            assert isinstance(found["message"], str)
            assert found["status"] == status
            assert found["error"]["code"]
        return found


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("algolia") / "data") as server:
        found = Api(server)
        yield found
        found.pool.clear()


@pytest.fixture(scope="module")
def things(api):
    path = api.server.data_dir / "files" / "products.csv"
    path.write_text("sku,name,price\n1,Anvil,9.5\n2,Rope,x\n3,Tnt,\n")
    source = api(
        "POST", "/1/sources",
        {"type": "csv", "name": "products", "input": {
            "url": f"file://{path}", "uniqueIDColumn": "sku", "mapping": {"price": "float"},
            "method": "GET", "delimiter": ","}},
    )  # fmt: skip
    destination = api(
        "POST",
        "/1/destinations",
        {"type": "search", "name": "index", "input": {"indexName": "Products"}},
    )
    return source["sourceID"], destination["destinationID"]


def make_task(api, things, version, **members):
    body = {"sourceID": things[0], "destinationID": things[1], "action": "replace"} | members
    if version == 1:
        body["trigger"] = {"type": "onDemand"}
    return api("POST", f"/{version}/tasks", body)["taskID"]


def run_to_end(api, task, version=2):
    started = api("POST", f"/{version}/tasks/{task}/run")
    assert UUID.fullmatch(started["runID"])
    assert DATE.fullmatch(started["createdAt"])
    api.server.client.wait(started["runID"], 60)
    return started["runID"]


def test_created_things_answer_with_id_name_and_date(api, things):
    made = api(
        "POST", "/1/destinations", {"type": "search", "name": "d", "input": {"indexName": "x"}}
    )
    assert set(made) == {"destinationID", "name", "createdAt"}
    assert UUID.fullmatch(made["destinationID"])
    assert DATE.fullmatch(made["createdAt"])
    deleted = api("DELETE", f"/1/destinations/{made['destinationID']}")
    assert set(deleted) == {"deletedAt"}
    api("GET", f"/1/destinations/{made['destinationID']}", status=404)
    api("DELETE", f"/1/destinations/{made['destinationID']}", status=404)


@pytest.mark.parametrize(
    ("type_", "given", "shown"),
    [
        ("basic", {"username": "u", "password": "p"}, {"username": "u", "password": None}),
        ("apiKey", {"key": "k"}, {"key": None}),
        ("algolia", {"appID": "a", "apiKey": "k"}, {"appID": "a", "apiKey": None}),
        ("algoliaInsights", {"appID": "a", "apiKey": "k"}, {"appID": "a", "apiKey": None}),
        ("googleServiceAccount", {"clientEmail": "e", "privateKey": "k"}, {"clientEmail": "e", "privateKey": None}),
        ("oauth", {"url": "u"}, {"url": "u", "client_secret": None}),
        ("secrets", {"a": "1"}, {"a": None}),
    ],
)  # fmt: skip
def test_every_authentication_type_hides_its_secrets(api, type_, given, shown):
    made = api("POST", "/1/authentications", {"type": type_, "name": "n", "input": given})
    found = api("GET", f"/1/authentications/{made['authenticationID']}")
    assert found["input"] == shown
    assert set(found) == {
        "authenticationID", "type", "name", "owner", "platform", "input", "createdAt", "updatedAt",
    }  # fmt: skip


def test_an_authentication_update_merges_its_input(api):
    made = api(
        "POST", "/1/authentications",
        {"type": "basic", "name": "n", "input": {"username": "u", "password": "p"}},
    )["authenticationID"]  # fmt: skip
    changed = api("PATCH", f"/1/authentications/{made}", {"input": {"username": "v"}})
    assert set(changed) == {"authenticationID", "name", "updatedAt"}
    found = api("GET", f"/1/authentications/{made}")
    assert found["input"] == {"username": "v", "password": None}


def test_a_source_is_shown_as_it_was_given(api, things):
    found = api("GET", f"/1/sources/{things[0]}")
    assert found["type"] == "csv"
    assert "authenticationID" not in found
    assert set(found["input"]) == {"url", "uniqueIDColumn", "mapping", "method", "delimiter"}


def test_what_is_in_use_cannot_be_deleted(api, things):
    task = make_task(api, things, 2)
    api("DELETE", f"/1/sources/{things[0]}", status=409)
    api("DELETE", f"/1/destinations/{things[1]}", status=409)
    api("DELETE", f"/2/tasks/{task}")


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_goes_from_created_to_finished_with_its_events(api, things, version):
    task = make_task(api, things, version, failureThreshold=50)
    run = run_to_end(api, task, version)
    found = api("GET", f"/1/runs/{run}")
    assert (found["status"], found["outcome"], found["reasonCode"]) == ("finished", "success", "ok")
    assert found["appID"] == "default"
    assert found["taskID"] == task
    assert found["type"] == "reindex"
    assert found["progress"] == {"expectedNbOfEvents": 3, "receivedNbOfEvents": 3}
    events = api("GET", f"/1/runs/{run}/events?itemsPerPage=100")
    assert set(events) == {"events", "pagination", "window"}
    for event in events["events"]:
        assert set(event) == {
            "eventID", "runID", "status", "type", "batchSize", "data", "publishedAt",
        }  # fmt: skip
        assert (event["status"] is None) == (event["type"] == "log")
        assert api("GET", f"/1/runs/{run}/events/{event['eventID']}") == event
    assert {"fetch", "record", "log"} == {event["type"] for event in events["events"]}
    [fetch] = [event for event in events["events"] if event["type"] == "fetch"]
    assert fetch["batchSize"] == 3
    rows = api.server.client.call("GET", f"/v1/tables/{things[1]}/Products/rows")["rows"]
    assert rows == [
        {"objectID": "1", "sku": "1", "name": "Anvil", "price": 9.5},
        {"objectID": "3", "sku": "3", "name": "Tnt", "price": None},
    ]
    api("DELETE", f"/{version}/tasks/{task}")


def test_too_many_failures_end_in_failure_and_leave_the_index(api, things):
    good = make_task(api, things, 2, failureThreshold=50)
    run_to_end(api, good)
    task = make_task(api, things, 2)
    found = api("GET", f"/1/runs/{run_to_end(api, task)}")
    assert (found["outcome"], found["reasonCode"]) == ("failure", "too_many_errors")
    assert "1 of 3 rows" in found["reason"]
    rows = api.server.client.call("GET", f"/v1/tables/{things[1]}/Products/rows")["rows"]
    assert len(rows) == 2


def test_the_two_versions_are_views_of_one_task(api, things):
    task = make_task(api, things, 1)
    two = api("GET", f"/2/tasks/{task}")
    one = api("GET", f"/1/tasks/{task}")
    assert one["trigger"] == {"type": "onDemand"}
    assert "trigger" not in two
    assert two["enabled"] is one["enabled"] is True
    assert set(api("PUT", f"/2/tasks/{task}/disable")) == {"taskID", "updatedAt"}
    assert api("GET", f"/1/tasks/{task}")["enabled"] is False
    api("POST", f"/1/tasks/{task}/run", status=400)
    api("PUT", f"/1/tasks/{task}/enable")
    api("PATCH", f"/2/tasks/{task}", {"failureThreshold": 7})
    assert api("GET", f"/1/tasks/{task}")["failureThreshold"] == 7
    api("DELETE", f"/1/tasks/{task}")
    api("GET", f"/2/tasks/{task}", status=404)


def test_lists_page_sort_and_filter(api):
    names = [f"page-{n}" for n in range(7)]
    for name in names:
        api(
            "POST",
            "/1/destinations",
            {"type": "search", "name": name, "input": {"indexName": name}},
        )
    page = api("GET", "/1/destinations?itemsPerPage=3&page=2&sort=name&order=asc")
    assert page["pagination"]["itemsPerPage"] == 3
    assert page["pagination"]["page"] == 2
    assert page["pagination"]["nbPages"] == -(-page["pagination"]["nbItems"] // 3)
    whole = api("GET", "/1/destinations?itemsPerPage=100&sort=name&order=asc")["destinations"]
    assert [one["name"] for one in page["destinations"]] == [one["name"] for one in whole[3:6]]
    assert api("GET", "/1/destinations?type=insights")["destinations"] == []
    both = api("GET", "/1/authentications?type=basic%2CapiKey&type=oauth&itemsPerPage=100")
    assert {one["type"] for one in both["authentications"]} <= {"basic", "apiKey", "oauth"}


@pytest.mark.parametrize(
    "query", ["itemsPerPage=0", "itemsPerPage=101", "page=0", "page=x", "sort=nope", "order=up"]
)
def test_a_bad_query_is_a_400(api, query):
    api("GET", f"/1/sources?{query}", status=400)


def test_search_returns_those_that_exist(api, things):
    ids = [things[0], "6c02aeb1-775e-418e-870b-1faccd4b2c0f"]
    assert [one["sourceID"] for one in api("POST", "/1/sources/search", {"sourceIDs": ids})] == [
        things[0]
    ]
    assert api("POST", "/2/tasks/search", {"taskIDs": []}) == []


def test_credentials_count_in_the_query_too(api):
    path = f"/1/sources?x-algolia-application-id=default&x-algolia-api-key={KEY}&x-algolia-agent=z"
    assert api.raw("GET", path, headers={}).status == 200
    wrong = api.raw("GET", "/1/sources", headers={**HEADERS, "x-algolia-application-id": "other"})
    assert wrong.status == 403
    assert json.loads(wrong.data)["message"] == "Invalid Application-ID or API key"


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"},
     {"Content-Type": "application/json"}, {"Content-Encoding": "gzip"}],
)  # fmt: skip
def test_a_body_is_json_whatever_it_is_called(api, headers):
    body = json.dumps({"sourceIDs": []}).encode()
    body = gzip.compress(body) if "Content-Encoding" in headers else body
    answer = api.raw("POST", "/1/sources/search", body, HEADERS | headers)
    assert (answer.status, answer.data) == (200, b"[]")


def test_a_chunked_body_without_a_length_is_read(api):
    answer = api.pool.request(
        "POST", api.server.client.url + "/1/sources/search", headers=HEADERS, chunked=True,
        body=iter([b'{"source', b'IDs": []}']),
    )  # fmt: skip
    assert answer.status == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/1/sources", {"type": "csv", "name": "s"}),
        ("/1/sources", {"type": "docker", "name": "s", "input": {}}),
        (
            "/1/sources",
            {"type": "csv", "name": "s", "input": {"url": "u", "mapping": {"a": "date"}}},
        ),
        ("/1/sources", {"type": "json", "name": "s", "input": {"url": "u", "delimiter": ";"}}),
        ("/1/destinations", {"type": "search", "name": "s", "input": {}}),
        ("/1/destinations", {"type": "flow", "name": "s", "input": {"indexName": "i"}}),
        ("/2/tasks", {"sourceID": "x", "destinationID": "y", "action": "replace"}),
        ("/2/tasks", {"sourceID": "x", "destinationID": "y", "action": "explode"}),
        ("/1/authentications", {"type": "basic", "name": "b", "input": {"username": "u"}}),
    ],
)
def test_a_bad_body_is_a_400_that_names_the_field(api, path, body):
    told = api("POST", path, body, status=400)
    assert re.search(r"input|type|source|action", told["message"])


def test_a_schedule_starts_its_task(api, things):
    source, destination = things
    given = {"sourceID": source, "destinationID": destination, "action": "replace",
             "failureThreshold": 100}  # fmt: skip
    for wrong in ("* * * *", "61 * * * *", "nonsense", "0 0 30 2 *"):
        told = api("POST", "/2/tasks", given | {"cron": wrong}, status=400)
        assert "cron" in told["message"]
    task = api("POST", "/2/tasks", given | {"cron": "* * * * *"})["taskID"]
    with sqlite3.connect(api.server.data_dir / "control.db") as db:  # a minute is long
        db.execute("update task set next_run = 1 where id = ?", [task])
    until = time.monotonic() + 30
    while not (found := api("GET", f"/1/runs?taskID={task}")["runs"]):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert len(found) == 1
    shown = api("GET", f"/2/tasks/{task}")
    assert shown["nextRun"] > shown["createdAt"]
    assert api("GET", f"/1/tasks/{task}")["trigger"]["lastRun"] == shown["lastRun"]
    api("PUT", f"/2/tasks/{task}/disable")


def test_what_the_dialect_cannot_say_is_not_there(api):
    path = str(api.server.data_dir / "files" / "o.duckdb")
    end = api.server.client.add("destinations", type="duckdb", name="d", input={"path": path})["id"]
    api("GET", f"/1/destinations/{end}", status=404)
    listed = api("GET", "/1/destinations?itemsPerPage=100")["destinations"]
    assert end not in [one["destinationID"] for one in listed]


def test_an_unknown_route_answers_in_the_dialects_shape(api):
    api("GET", "/1/nope", status=404)
    api("PUT", "/1/sources", {}, status=405)


def test_the_vendors_rate_limits_can_be_switched_on(tmp_path):
    with serving(
        tmp_path / "data", HEADRACE_ALGOLIA_RATE="5/30", HEADRACE_ALGOLIA_LOOKS_RATE="2/60"
    ) as server:
        api = Api(server)
        for _ in range(5):
            api("GET", "/1/sources")
        answer = api.raw("GET", "/1/sources")
        assert answer.status == 429
        assert 20 < int(answer.headers["retry-after"]) <= 30
        assert "5 requests in 30 s" in answer.json()["message"]
        api("GET", "/1/runs")
        api("GET", "/1/runs")
        told = api.raw("GET", "/1/runs")
        assert told.status == 429
        assert 50 < int(told.headers["retry-after"]) <= 60
        server.client.call("GET", "/v1/runs")  # the native API has no part in it
        api.pool.clear()
