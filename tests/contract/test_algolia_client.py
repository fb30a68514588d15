"""The official Python client, unchanged but for its host, through a full life of everything."""

from urllib.parse import urlsplit

import pytest
import requests
from algoliasearch.http.exceptions import RequestException
from algoliasearch.http.hosts import Host, HostsCollection
from algoliasearch.ingestion.client import IngestionClientSync
from algoliasearch.ingestion.config import IngestionConfig
from algoliasearch.search.client import SearchClientSync
from algoliasearch.search.config import SearchConfig

from tests.contract.documents import NEWEST, Answers, document
from tests.serving import KEY, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("client") / "data") as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def answers(server):
    """Hold every answer of these tests against the vendor's newest document, if it is at hand."""
    if document(NEWEST) is None:
        yield None
        return
    found = Answers(NEWEST)
    send = requests.Session.send

    def checked(self, request, **how):
        response = send(self, request, **how)
        path = urlsplit(request.url).path
        faults = found.faults(request.method, path, response.status_code, response.content)
        assert not faults, (request.method, path, faults)
        return response

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "send", checked)
        yield found


@pytest.fixture(scope="module")
def client(server):
    config = IngestionConfig("default", KEY, "us")
    port = int(server.client.url.rpartition(":")[2])
    config.hosts = HostsCollection([Host(url="127.0.0.1", scheme="http", port=port)])
    config.proxies = None
    found = IngestionClientSync.create_with_config(config)
    yield found
    found.close()


def gone(call, *args):
    with pytest.raises(RequestException) as caught:
        call(*args)
    assert caught.value.status_code == 404


AUTHENTICATIONS = {
    "googleServiceAccount": {"clientEmail": "a@b.c", "privateKey": "-----KEY"},
    "basic": {"username": "u", "password": "p"},
    "apiKey": {"key": "k"},
    "oauth": {"url": "https://x.y/token", "client_id": "c", "client_secret": "s"},
    "algolia": {"appID": "A", "apiKey": "k"},
    "algoliaInsights": {"appID": "A", "apiKey": "k"},
    "secrets": {"TOKEN": "t", "OTHER": "o"},
}


@pytest.mark.parametrize("type_", AUTHENTICATIONS)
def test_the_life_of_an_authentication(client, type_):
    made = client.create_authentication(
        {"type": type_, "name": f"my {type_}", "input": AUTHENTICATIONS[type_]}
    )
    id_ = made.authentication_id
    shown = client.get_authentication(id_)
    assert (shown.name, shown.type) == (f"my {type_}", type_)
    assert shown.updated_at == shown.created_at
    text = client.get_authentication_with_http_info(id_).raw_data
    for member, value in AUTHENTICATIONS[type_].items():
        hidden = member in ("privateKey", "password", "key", "client_secret", "apiKey")
        if type_ == "secrets" or hidden:
            assert f'"{value}"' not in text
            assert f'"{member}":null' in text
    changed = client.update_authentication(id_, {"name": "renamed"})
    assert changed.name == "renamed"
    assert client.search_authentications({"authenticationIDs": [id_, "no-such-id"]})[0].name == (
        "renamed"
    )
    listed = client.list_authentications(type=[type_], items_per_page=100, sort="name", order="asc")
    assert id_ in [one.authentication_id for one in listed.authentications]
    assert client.delete_authentication(id_).deleted_at
    gone(client.get_authentication, id_)
    gone(client.delete_authentication, id_)


SOURCES = {
    "csv": {"url": "https://x.y/a.csv", "uniqueIDColumn": "id", "mapping": {"n": "integer"},
            "method": "GET", "delimiter": ";"},
    "json": {"url": "https://x.y/a.json", "uniqueIDColumn": "id", "method": "POST"},
    "bigquery": {"projectID": "p", "datasetID": "d", "dataType": "ga4", "table": "t",
                 "customSQLRequest": "select 1", "uniqueIDColumn": "id"},
    "ga4BigqueryExport": {"projectID": "p", "datasetID": "d", "tablePrefix": "events_"},
    "commercetools": {"url": "https://x.y", "projectKey": "p", "storeKeys": ["s"],
                      "locales": ["en-GB", "de"], "fallbackIsInStockValue": True,
                      "customFields": {"inventory": ["a"]}},
    "bigcommerce": {"storeHash": "h", "channel": {"id": 1, "currencies": ["EUR"]},
                    "customFields": ["c"], "productMetafields": [{"namespace": "n", "key": "k"}]},
    "docker": {"image": "github", "configuration": {"repository": "a/b"}},
    "shopify": {"shopURL": "https://x.myshopify.com", "featureFlags": {"a": True}},
    "algoliaIndex": {"indexName": "products", "filters": "a:b"},
    "push": None,
}  # fmt: skip
PATCHES = {
    "commercetools": {"storeKeys": ["s", "t"]}, "docker": {"configuration": {"repository": "c/d"}},
    "shopify": {"featureFlags": {"b": 1}}, "algoliaIndex": {"filters": "c:d"},
    "bigcommerce": {"customFields": ["d"]},
}  # fmt: skip


@pytest.mark.parametrize("type_", SOURCES)
def test_the_life_of_a_source(client, type_):
    given = {"type": type_, "name": f"my {type_}"}
    given |= {"input": SOURCES[type_]} if SOURCES[type_] else {}
    id_ = client.create_source(given).source_id
    shown = client.get_source(id_)
    assert (shown.name, shown.type) == (f"my {type_}", type_)
    before = SOURCES[type_]
    if before is None:
        assert shown.input is None
    else:
        assert shown.input.to_dict() == before
        patch = PATCHES.get(type_, before)
        client.update_source(id_, {"name": "renamed", "input": patch})
        assert client.get_source(id_).input.to_dict() == before | patch
    assert id_ in [s.source_id for s in client.list_sources(type=[type_]).sources]
    assert [s.source_id for s in client.search_sources({"sourceIDs": [id_]})] == [id_]
    client.delete_source(id_)
    gone(client.get_source, id_)


def test_a_source_that_has_no_connector_yet_fails_with_a_reason(client):
    source = client.create_source(
        {"type": "shopify", "name": "s", "input": SOURCES["shopify"]}
    ).source_id
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "shop"}}
    ).destination_id
    task = client.create_task(
        {"sourceID": source, "destinationID": end, "action": "replace",
         "input": {"metafields": [], "market": {"countries": [], "currencies": [], "locales": []}}}
    ).task_id  # fmt: skip
    started = client.run_source(source, {"indexToInclude": ["shop"], "entityIDs": ["1"]})
    run = ended(client, started.task_with_run_id[task])
    assert (run.outcome, run.reason_code, run.type) == (
        "failure", "critical", "update",
    )  # fmt: skip
    assert "shopify" in run.reason


def ended(client, run_id):
    return client_wait(lambda: client.get_run(run_id), lambda run: run.status == "finished")


def client_wait(look, done):
    import time

    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = look()
        if done(found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"not in time: {found}")


@pytest.fixture(scope="module")
def index(client):
    """Return source, destination and task of pushes into an index."""
    source = client.create_source({"type": "push", "name": "pushed"}).source_id
    end = client.create_destination(
        {"type": "search", "name": "Pushed", "input": {"indexName": "Pushed"}}
    ).destination_id
    task = client.create_task(
        {"sourceID": source, "destinationID": end, "action": "partial"}
    ).task_id
    return source, end, task


def receipt(server, run_id):
    return server.client.call("GET", f"/v1/runs/{run_id}/receipt")


def rows(server, end, name="Pushed"):
    return {
        row["objectID"]: row
        for row in server.client.call("GET", f"/v1/tables/{end}/{name}/rows?limit=1000")["rows"]
    }


def test_every_push_action_does_what_it_says(server, client, index):
    _, end, task = index

    def push(action, *records):
        return client.push_task(task, {"action": action, "records": list(records)}, watch=True)

    push("clear")
    first = push("addObject", {"objectID": "1", "a": 1, "b": 1}, {"objectID": "2", "a": 2})
    assert first.message
    assert first.events is None
    assert rows(server, end) == {
        "1": {"objectID": "1", "a": 1, "b": 1}, "2": {"objectID": "2", "a": 2},
    }  # fmt: skip
    push("updateObject", {"objectID": "1", "a": 5})
    push("partialUpdateObject", {"objectID": "2", "b": 6}, {"objectID": "3", "c": 7})
    push("partialUpdateObjectNoCreate", {"objectID": "3", "d": 8}, {"objectID": "4", "d": 9})
    assert rows(server, end) == {
        "1": {"objectID": "1", "a": 5}, "2": {"objectID": "2", "a": 2, "b": 6},
        "3": {"objectID": "3", "c": 7, "d": 8},
    }  # fmt: skip
    push("deleteObject", {"objectID": "1"}, {"objectID": "none"})
    assert set(rows(server, end)) == {"2", "3"}
    event = client.get_event(first.run_id, first.event_id)
    assert (event.status, event.batch_size, event.type) == ("succeeded", 2, "record")
    push("clear")
    assert rows(server, end) == {}


def test_a_push_by_index_finds_its_task_and_keeps_order(server, client, index):
    _, end, _ = index
    client.push("Pushed", {"action": "clear", "records": []}, watch=True)
    answers = [
        client.push("Pushed", {"action": "updateObject", "records": [{"objectID": "x", "n": n}]})
        for n in range(30)
    ]
    assert len({one.run_id for one in answers}) == 1
    assert len({one.event_id for one in answers}) == 30
    assert answers[0].message is None

    def told(one):
        try:
            return client.get_event(one.run_id, one.event_id)
        except RequestException as error:
            assert error.status_code == 404
            return None

    client_wait(lambda: told(answers[-1]), bool)
    assert rows(server, end)["x"]["n"] == 29
    assert {told(one).status for one in answers} == {"succeeded"}  # the earlier ones are superseded
    run = ended(client, answers[0].run_id)
    assert (run.type, run.outcome) == ("push", "success")
    assert run.progress.received_nb_of_events == run.progress.expected_nb_of_events


def test_partial_pushes_of_one_object_lose_no_attribute(server, client, index):
    _, end, _ = index
    client.push("Pushed", {"action": "clear", "records": []}, watch=True)
    wide = [{"objectID": "y", f"b{n}": n, "last": n} for n in range(5)]
    for n in range(40):  # those that wait go into one commit
        one = {"objectID": "y", f"a{n}": n}
        client.push("Pushed", {"action": "partialUpdateObject", "records": [one]})
    told = client.push("Pushed", {"action": "partialUpdateObject", "records": wide}, watch=True)
    assert told.events is None
    assert rows(server, end)["y"] == (
        {"objectID": "y", "last": 4} | {f"a{n}": n for n in range(40)}
        | {f"b{n}": n for n in range(5)}
    )  # fmt: skip


def test_a_built_in_operation_is_refused_not_kept_as_a_value(client, index):
    record = {"objectID": "1", "n": {"_operation": "Increment", "value": 1}}
    with pytest.raises(RequestException) as caught:
        client.push("Pushed", {"action": "partialUpdateObject", "records": [record]})
    assert caught.value.status_code == 400
    assert "_operation" in str(caught.value)
    text = {"objectID": "1", "n": 'he said "_operation" twice'}
    client.push("Pushed", {"action": "partialUpdateObject", "records": [text]}, watch=True)


def test_a_push_to_a_temporary_index_uses_the_reference(server, client, index):
    _, end, _ = index
    client.push("Pushed", {"action": "clear", "records": []}, watch=True)
    client.push(
        "Pushed_tmp", {"action": "addObject", "records": [{"objectID": "t"}]},
        watch=True, reference_index_name="Pushed",
    )  # fmt: skip
    assert "t" not in rows(server, end)
    with pytest.raises(RequestException) as caught:
        client.push("Nowhere", {"action": "addObject", "records": [{"objectID": "t"}]})
    assert caught.value.status_code == 404
    assert "Nowhere" in str(caught.value)


def test_chunked_push_waits_for_everything(server, client, index):
    _, end, _ = index
    client.push("Pushed", {"action": "clear", "records": []}, watch=True)
    objects = [{"objectID": str(n), "name": f"name {n}"} for n in range(2_500)]
    answers = client.chunked_push("Pushed", objects, "addObject", wait_for_tasks=True)
    assert len(answers) == 3
    assert len(rows(server, end)) == 1_000  # a page of them
    assert client.push(
        "Pushed", {"action": "deleteObject", "records": [{"objectID": "7"}]}, watch=True
    ).message
    assert "7" not in rows(server, end)


def test_two_tasks_of_one_index_are_named(client, index):
    source, end, task = index
    twin = client.create_task({"sourceID": source, "destinationID": end, "action": "save"}).task_id
    with pytest.raises(RequestException) as caught:
        client.push("Pushed", {"action": "addObject", "records": [{"objectID": "t"}]})
    assert caught.value.status_code == 400
    assert twin in str(caught.value)
    assert task in str(caught.value)
    client.delete_task(twin)


@pytest.mark.parametrize("body", [
    {"action": "addObject", "records": [{"name": "no id"}]},
    {"action": "addObject", "records": [{"objectID": 5}]},
    {"action": "addObject", "records": ["x"]},
    {"action": "nonsense", "records": []},
    {"action": "addObject"},
    {"action": "addObject", "records": [], "more": 1},
])  # fmt: skip
def test_a_push_that_is_wrong_is_refused_whole(client, index, body):
    with pytest.raises(RequestException) as caught:
        client.push_task(index[2], body)
    assert caught.value.status_code == 400


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the client's, of version 1
def test_the_life_of_a_task_in_both_versions(client):
    source = client.create_source(
        {"type": "csv", "name": "s", "input": {"url": "https://x.y/a.csv"}}
    ).source_id
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "tasks"}}
    ).destination_id
    given = {
        "sourceID": source, "destinationID": end, "action": "replace", "cron": "*/5 * * * *",
        "subscriptionAction": "save", "failureThreshold": 12, "cursor": "2024-01-01T00:00:00Z",
        "notifications": {"email": {"enabled": True}}, "policies": {"criticalThreshold": 3},
        "input": {"streams": [{"name": "a", "syncMode": "fullTable", "properties": ["x"]}]},
        "enabled": False,
    }  # fmt: skip
    id_ = client.create_task(given).task_id
    shown = client.get_task(id_).to_dict()
    for name, value in given.items():
        assert shown[name] == value or name == "input", name
    assert shown["nextRun"]
    v1 = client.get_task_v1(id_)
    assert (v1.trigger.actual_instance.type, v1.trigger.actual_instance.cron) == (
        "schedule", "*/5 * * * *",
    )  # fmt: skip
    assert "subscriptionAction" not in v1.to_dict()
    client.update_task_v1(id_, {"trigger": {"cron": "0 1 * * *"}, "enabled": True})
    assert client.get_task(id_).cron == "0 1 * * *"
    client.update_task(id_, {"failureThreshold": 50})
    replaced = client.replace_task(id_, {"destinationID": end, "action": "append"})
    assert replaced.updated_at
    shown = client.get_task(id_).to_dict()
    assert (shown["failureThreshold"], shown.get("cron"), shown["action"]) == (0, None, "append")
    assert "policies" not in shown
    client.disable_task(id_)
    assert client.get_task(id_).enabled is False
    with pytest.raises(RequestException) as caught:
        client.run_task(id_)
    assert caught.value.status_code == 400
    client.enable_task(id_)
    assert id_ in [t.task_id for t in client.list_tasks(source_type=["csv"], enabled=True).tasks]
    assert client.list_tasks(source_type=["push"], source_id=[source]).tasks == []
    assert client.search_tasks({"taskIDs": [id_]})[0].task_id == id_
    old = client.create_task_v1(
        {"sourceID": source, "destinationID": end, "action": "replace",
         "trigger": {"type": "subscription"}, "input": {"timeframe": 7}}
    ).task_id  # fmt: skip
    assert client.get_task_v1(old).trigger.actual_instance.type == "subscription"
    assert client.get_task(old).input is None
    assert len(client.list_tasks_v1(source_id=[source]).tasks) == 2
    with pytest.raises(RequestException) as caught:
        client.delete_source(source)
    assert caught.value.status_code == 409
    for one in (id_, old):
        client.delete_task(one)
        gone(client.get_task, one)
    client.delete_source(source)


CODE = """
async function transform(record, helper) {
  console.log("saw", record.objectID, helper.secrets.TOKEN);
  if (record.objectID === "bad") throw new Error("no " + helper.secrets.TOKEN);
  if (record.objectID === "drop") return;
  return [record, {...record, objectID: record.objectID + "-copy"}];
}
"""


def test_the_life_of_a_transformation(client):
    secret = client.create_authentication(
        {"type": "secrets", "name": "s", "input": {"TOKEN": "sesame-1"}}
    ).authentication_id
    id_ = client.create_transformation(
        {"name": "t", "type": "code", "input": {"code": CODE}, "description": "d",
         "authenticationIDs": [secret]}
    ).transformation_id  # fmt: skip
    shown = client.get_transformation(id_)
    assert (shown.code, shown.name, shown.description) == (CODE, "t", "d")
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "transformed"},
         "transformationIDs": [id_]}
    ).destination_id  # fmt: skip
    assert client.get_destination(end).transformation_ids == [id_]
    assert [
        one.destination_id for one in client.list_destinations(transformation_id=id_).destinations
    ] == [end]
    for call in (client.delete_transformation, client.delete_authentication):
        with pytest.raises(RequestException) as caught:
            call(id_ if call == client.delete_transformation else secret)
        assert caught.value.status_code == 409
    tried = client.try_transformation_before_update(
        id_, {"type": "code", "input": {"code": CODE}, "sampleRecord": {"objectID": "1"}}
    )
    assert tried.payloads == ['{"objectID":"1"}', '{"objectID":"1-copy"}']
    tried = client.try_transformation(
        {"type": "code", "input": {"code": CODE}, "sampleRecord": {"objectID": "bad"},
         "authentications": [{"type": "secrets", "name": "x", "input": {"TOKEN": "sesame-2"}}]}
    )  # fmt: skip
    assert tried.payloads == []
    assert tried.error.message == "no ***"
    client.update_transformation(
        id_, {"name": "u", "type": "noCode", "input": {"steps": [{"a": 1}]}}
    )
    shown = client.get_transformation(id_)
    assert (shown.code, shown.type) == ("", "noCode")
    assert [t.transformation_id for t in client.list_transformations(type="noCode").transformations]
    assert client.search_transformations({"transformationIDs": [id_]})[0].name == "u"
    client.delete_destination(end)
    client.delete_transformation(id_)
    gone(client.get_transformation, id_)
    client.delete_authentication(secret)


@pytest.mark.parametrize("code", ["this is no code", "const x = 1", "while (true) {}"])
def test_code_that_cannot_run_is_told(client, code):
    tried = client.try_transformation({"code": code, "sampleRecord": {}})
    assert tried.payloads == []
    assert tried.error.message


@pytest.mark.parametrize(
    "body",
    [
        "while (true) {}",
        "await null; while (true) {}",
        "const a = []; for (;;) a.push(new Array(1e5).fill(1))",
    ],
)
def test_code_that_never_ends_or_eats_memory_is_ended(client, body):
    tried = client.try_transformation(
        {"code": f"async function transform(r) {{ {body} }}", "sampleRecord": {}}
    )
    assert tried.payloads == []
    assert tried.error.message


def test_validate_shows_records_or_says_why_not(server, client):
    path = server.data_dir / "files" / "v.csv"
    path.write_text("id,n\n1,5\n2,6\n")
    shown = client.validate_source(
        {
            "type": "csv",
            "name": "v",
            "input": {"url": f"file://{path}", "mapping": {"n": "integer"}},
        }
    )
    assert shown.data == [{"id": "1", "n": 5}, {"id": "2", "n": 6}]
    assert client.get_run(shown.run_id).type == "validate"
    shown = client.validate_source(
        {"type": "csv", "name": "v", "input": {"url": "http://127.0.0.1:1/none.csv"}}
    )
    assert shown.message
    assert shown.events[0].status == "failed"
    assert client.get_run(shown.run_id).outcome == "failure"
    source = client.create_source(
        {"type": "csv", "name": "v", "input": {"url": f"file://{path}"}}
    ).source_id
    shown = client.validate_source_before_update(
        source, {"input": {"url": f"file://{path}", "mapping": {"id": "integer"}}}
    )
    assert shown.data[0] == {"id": 1, "n": "5"}
    assert client.get_source(source).input.to_dict() == {"url": f"file://{path}"}


def test_discover_is_for_docker_sources(client):
    source = client.create_source(
        {"type": "docker", "name": "d", "input": {"image": "github", "configuration": {}}}
    ).source_id
    found = client.trigger_docker_source_discover(source)
    assert client.get_run(found.run_id).type == "discover"
    other = client.create_source({"type": "push", "name": "p"}).source_id
    with pytest.raises(RequestException) as caught:
        client.trigger_docker_source_discover(other)
    assert caught.value.status_code == 400


def test_the_main_job(server, client):
    path = server.data_dir / "files" / "main.csv"
    path.write_text("sku,name,price\n1,Anvil,9.5\n2,Rope,x\n3,Tnt,\n")
    owner = client.create_authentication(
        {"type": "basic", "name": "a", "input": {"username": "u", "password": "p"}}
    ).authentication_id
    source = client.create_source(
        {"type": "csv", "name": "main", "authenticationID": owner, "input": {
            "url": f"file://{path}", "uniqueIDColumn": "sku", "mapping": {"price": "float"}}}
    ).source_id  # fmt: skip
    end = client.create_destination(
        {"type": "search", "name": "main", "input": {
            "indexName": "Main", "attributesToExclude": ["name"]}}
    ).destination_id  # fmt: skip
    task = client.create_task(
        {"sourceID": source, "destinationID": end, "action": "replace", "failureThreshold": 50}
    ).task_id
    run = ended(client, client.run_task(task).run_id)
    assert (run.outcome, run.reason_code) == ("success", "ok")
    events = client.list_events(run.run_id, type=["record"], status=["succeeded"])
    assert events.events[0].batch_size == 2
    assert rows(server, end, "Main") == {
        "1": {"objectID": "1", "sku": "1", "price": 9.5},
        "3": {"objectID": "3", "sku": "3", "price": None},
    }
    assert client.list_runs(task_id=task).runs[0].run_id == run.run_id
    assert client.list_runs(type=["push"], task_id=task).runs == []


def test_what_is_pushed_passes_through_the_transformation(server, client):
    secret = client.create_authentication(
        {"type": "secrets", "name": "s", "input": {"TOKEN": "sesame-3"}}
    ).authentication_id
    code = client.create_transformation(
        {"name": "t", "input": {"code": CODE}, "authenticationIDs": [secret]}
    ).transformation_id
    source = client.create_source({"type": "push", "name": "p"}).source_id
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "Fan"}, "transformationIDs": [code]}
    ).destination_id
    task = client.create_task({"sourceID": source, "destinationID": end, "action": "save"}).task_id
    told = client.push_task(
        task,
        {"action": "addObject",
         "records": [{"objectID": "1", "n": 5}, {"objectID": "bad"}, {"objectID": "drop"}]},
        watch=True,
    )  # fmt: skip
    assert rows(server, end, "Fan") == {
        "1": {"objectID": "1", "n": 5}, "1-copy": {"objectID": "1-copy", "n": 5},
    }  # fmt: skip
    (event,) = told.events
    (bad,) = event.data["rejected"]
    assert (bad["record"], bad["reason"]) == (2, "no ***")
    books = receipt(server, told.run_id)["books"]
    assert (books["read"], books["expanded"], books["inserted"], books["filtered"],
            books["rejected"]) == (3, 1, 2, 1, 1)  # fmt: skip
    rejects = server.client.call("GET", f"/v1/runs/{told.run_id}/rejects")["items"]
    assert [row["rule"] for row in rejects] == ["transformation"]
    client.push_task(
        task, {"action": "deleteObject", "records": [{"objectID": "1-copy"}]}, watch=True
    )
    assert set(rows(server, end, "Fan")) == {"1"}


def test_a_file_passes_through_the_transformation(server, client):
    path = server.data_dir / "files" / "fan.csv"
    path.write_text("sku,n\n" + "".join(f"{n},{n % 7}\n" for n in range(3_000)) + "drop,1\n")
    code = client.create_transformation(
        {"name": "t", "input": {"code": """
            async function transform(record) {
              console.log("seen " + record.objectID);
              if (record.n === "6") throw new Error("six");
              if (record.objectID === "drop") return;
              record.double = 2 * record.n;
              return record;
            }"""}}
    ).transformation_id  # fmt: skip
    source = client.create_source(
        {"type": "csv", "name": "f", "input": {"url": f"file://{path}", "uniqueIDColumn": "sku"}}
    ).source_id
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "Doubled"},
         "transformationIDs": [code]}
    ).destination_id  # fmt: skip
    task = client.create_task(
        {"sourceID": source, "destinationID": end, "action": "replace", "failureThreshold": 20}
    ).task_id
    run = ended(client, client.run_task(task).run_id)
    assert run.outcome == "success"
    books = receipt(server, run.run_id)["books"]
    assert (books["read"], books["inserted"], books["filtered"], books["rejected"]) == (
        3_001, 2_572, 1, 428,
    )  # fmt: skip
    assert rows(server, end, "Doubled")["1"]["double"] == 2
    event = client.list_events(run.run_id, type=["transform"]).events[0]
    assert event.batch_size == 3_001
    assert event.data["console"][0] == "seen 0"
    assert len(event.data["console"]) == 100
    strict = client.create_task(
        {"sourceID": source, "destinationID": end, "action": "replace"}
    ).task_id
    run = ended(client, client.run_task(strict).run_id)
    assert run.reason_code == "too_many_errors"


def test_records_that_a_transformation_makes_the_same_are_kept_as_rejects(server, client):
    def code(text):
        given = {"name": "t", "input": {"code": f"async function transform(r) {{{text}}}"}}
        return client.create_transformation(given).transformation_id

    path = server.data_dir / "files" / "twins.csv"
    path.write_text("sku,n\n1,a\n2,b\n3,c\n4,d\n5,e\n")
    source = client.create_source(
        {"type": "csv", "name": "f", "input": {"url": f"file://{path}", "uniqueIDColumn": "sku"}}
    ).source_id
    steps = [
        code("if (r.n === 'a') return; r.was = r.objectID; return r;"),
        code("if (r.n < 'd') r.objectID = 'same'; return r;"),
    ]
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "Twins"},
         "transformationIDs": steps}
    ).destination_id  # fmt: skip
    task = client.create_task({"sourceID": source, "destinationID": end, "action": "replace"})
    run = ended(client, client.run_task(task.task_id).run_id)
    assert run.outcome == "success"
    assert {key: row["n"] for key, row in rows(server, end, "Twins").items()} == {
        "same": "c", "4": "d", "5": "e",
    }  # fmt: skip
    (reject,) = server.client.call("GET", f"/v1/runs/{run.run_id}/rejects")["items"]
    assert (reject["rule"], reject["record"]) == ("duplicate_key", 2)
    assert '"n":"b"' in reject["raw"]
    books = receipt(server, run.run_id)["books"]
    assert (books["read"], books["inserted"], books["filtered"], books["rejected"],
            books["duplicates"]) == (5, 3, 1, 1, 1)  # fmt: skip


def test_an_odd_id_from_a_transformation_rejects_its_record_only(server, client):
    code = "async function transform(r) { r.objectID = {1: {a: 1}, 2: 1.5, 3: true, 4: 44}[r.id] ?? r.id; return r }"
    made = client.create_transformation({"name": "t", "input": {"code": code}}).transformation_id
    source = client.create_source({"type": "push", "name": "p"}).source_id
    end = client.create_destination({"type": "search", "name": "d", "input": {"indexName": "Odd"},
                                     "transformationIDs": [made]}).destination_id  # fmt: skip
    task = client.create_task({"sourceID": source, "destinationID": end, "action": "save"}).task_id
    records = [{"objectID": f"r{n}", "id": str(n)} for n in range(1, 6)]
    told = client.push_task(task, {"action": "addObject", "records": records}, watch=True)
    assert set(map(str, rows(server, end, "Odd"))) == {"44", "5"}
    (event,) = told.events
    assert [one["record"] for one in event.data["rejected"]] == [1, 2, 3]
    assert "no text and no whole number" in event.data["rejected"][0]["reason"]


def test_run_metadata_overrides_the_source_for_one_run(server, client):
    files = server.data_dir / "files"
    for name in ("usual", "other"):
        (files / f"{name}.csv").write_text(f"sku,n\n{name},1\n")
    source = client.create_source({"type": "csv", "name": "f", "input": {
        "url": f"file://{files}/usual.csv", "uniqueIDColumn": "sku"}}).source_id  # fmt: skip
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "Overridden"}}
    ).destination_id
    task = client.create_task(
        {"sourceID": source, "destinationID": end, "action": "replace"}
    ).task_id

    def landed(metadata):
        run = client.run_task(task, {"runMetadata": metadata}).run_id
        assert ended(client, run).outcome == "success"
        return set(rows(server, end, "Overridden"))

    other = {"parametersOverride": {"source": {"url": f"file://{files}/other.csv"}}, "who": "me"}
    assert landed(other) == {"other"}
    assert landed({"who": "me"}) == {"usual"}
    assert client.get_source(source).input.to_dict()["url"].endswith("usual.csv")
    for wrong, field in (
        ({"parametersOverride": {"source": {"url": 5}}}, "source.url"),
        ({"parametersOverride": {"source": {"nothing": 5}}}, "nothing"),
        ({"parametersOverride": {"source": [1]}}, "parametersOverride"),
        ({"parametersOverride": "x"}, "parametersOverride"),
    ):
        with pytest.raises(RequestException) as caught:
            client.run_task(task, {"runMetadata": wrong})
        assert caught.value.status_code == 400
        assert field in str(caught.value)


def test_rejected_rows_of_a_file_are_told_with_reason_and_row(server, client):
    path = server.data_dir / "files" / "rejected.csv"
    path.write_text("sku,n\n" + "".join(f"{n},{'x' if n % 2 else n}\n" for n in range(300)))
    source = client.create_source({"type": "csv", "name": "f", "input": {
        "url": f"file://{path}", "uniqueIDColumn": "sku", "mapping": {"n": "integer"}}}).source_id  # fmt: skip
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "Rejected"}}
    ).destination_id
    for threshold, outcome in ((50, "success"), (49, "failure")):
        task = client.create_task({"sourceID": source, "destinationID": end, "action": "replace",
                                   "failureThreshold": threshold}).task_id  # fmt: skip
        run = ended(client, client.run_task(task).run_id)
        assert run.outcome == outcome
        told = client.list_events(run.run_id, type=["record"], status=["failed"]).events
        (event,) = [one for one in told if "rejected" in one.data]
        assert event.batch_size == 150
        assert len(event.data["rejected"]) == 100
        first = event.data["rejected"][0]
        assert (first["record"], first["row"]) == (2, "1,x")
        assert "'x' is not" in first["reason"]


def test_no_code_steps_make_what_a_run_lands(server, client):
    path = server.data_dir / "files" / "steps.csv"
    path.write_text("sku,n,name\n1,5, A \n2,x,b\n3,7,c\n")
    steps = client.create_transformation({"name": "s", "type": "noCode", "input": {"steps": [
        {"type": "convert", "attribute": "n", "to": "number"},
        {"type": "case", "attributes": ["name"], "to": "trim"},
        {"type": "filter", "attribute": "n", "operator": "<", "value": 7},
    ]}}).transformation_id  # fmt: skip
    wrong = client.create_transformation(
        {"name": "w", "type": "noCode", "input": {"steps": [{"type": "magic"}]}}
    ).transformation_id
    source = client.create_source(
        {"type": "csv", "name": "f", "input": {"url": f"file://{path}", "uniqueIDColumn": "sku"}}
    ).source_id

    def run(transformation):
        end = client.create_destination(
            {"type": "search", "name": "d", "input": {"indexName": "Steps"},
             "transformationIDs": [transformation]}
        ).destination_id  # fmt: skip
        task = client.create_task(
            {"sourceID": source, "destinationID": end, "action": "replace", "failureThreshold": 50}
        ).task_id
        return end, ended(client, client.run_task(task).run_id)

    end, told = run(steps)
    assert told.outcome == "success"
    assert rows(server, end, "Steps") == {"1": {"objectID": "1", "sku": "1", "n": 5, "name": "A"}}
    books = receipt(server, told.run_id)["books"]
    assert (books["inserted"], books["filtered"], books["rejected"]) == (1, 1, 1)
    _, told = run(wrong)
    assert told.outcome == "failure"
    assert "input.steps[0] is no step" in told.reason


@pytest.fixture(scope="module")
def searcher(server):
    config = SearchConfig("default", KEY)
    port = int(server.client.url.rpartition(":")[2])
    config.hosts = HostsCollection([Host(url="127.0.0.1", scheme="http", port=port)])
    config.proxies = None
    found = SearchClientSync.create_with_config(config)
    yield found
    found.close()


@pytest.fixture(scope="module")
def shop(client):
    source = client.create_source({"type": "push", "name": "p"}).source_id
    end = client.create_destination(
        {"type": "search", "name": "d", "input": {"indexName": "Shop"}}
    ).destination_id
    task = client.create_task({"sourceID": source, "destinationID": end, "action": "save"}).task_id
    records = [
        {"objectID": str(n), "name": f"Anvil number {n}", "price": n, "brand": "Acme" if n % 2 else
         "Zenith", "tags": ["heavy", f"t{n % 3}"], "on": n % 4 == 0, "size": {"unit": "kg"}}
        for n in range(100)
    ]  # fmt: skip
    records.append({"objectID": "rope", "name": "Rope of hemp", "price": 5.5, "about": "anvil"})
    client.push_task(task, {"action": "addObject", "records": records}, watch=True)
    return "Shop"


def test_the_search_client_lists_browses_and_gets(searcher, shop):
    item = next(one for one in searcher.list_indices().items if one.name == shop)
    assert item.entries == 101
    first = searcher.browse(shop, {"hitsPerPage": 60})
    rest = searcher.browse(shop, {"hitsPerPage": 60, "cursor": first.cursor})
    assert rest.cursor is None
    ids = [hit.object_id for hit in (*first.hits, *rest.hits)]
    assert ids == [*(str(n) for n in range(100)), "rope"]
    seen = []
    searcher.browse_objects(shop, lambda page: seen.extend(page.hits), {"filters": "price > 97"})
    assert [hit.object_id for hit in seen] == ["98", "99"]
    assert searcher.get_object(shop, "rope")["price"] == 5.5
    assert searcher.get_object(shop, "rope", ["price"]) == {"objectID": "rope", "price": 5.5}
    found = searcher.get_objects({"requests": [
        {"indexName": shop, "objectID": "3"}, {"indexName": shop, "objectID": "none"}]})  # fmt: skip
    assert found.results[0]["name"] == "Anvil number 3"
    assert found.results[1] is None
    for missing in (("Nowhere", "1"), (shop, "none")):
        with pytest.raises(RequestException) as caught:
            searcher.get_object(*missing)
        assert caught.value.status_code == 404


@pytest.mark.parametrize(("query", "ids"), [
    ({"query": "hemp"}, ["rope"]),
    ({"query": "anvil numb 7", "hitsPerPage": 3}, None),
    ({"query": "number 42"}, ["42"]),
    ({"query": "rop"}, ["rope"]),
    ({"query": "", "filters": "price < 2"}, ["0", "1"]),
    ({"query": "", "filters": "brand:Acme AND price >= 97"}, ["97", "99"]),
    ({"query": "", "filters": "(price = 4 OR price = 6) AND NOT on:true"}, ["6"]),
    ({"query": "", "filters": "tags:t1 AND price:10 TO 16"}, ["10", "13", "16"]),
    ({"query": "", "filters": 'size.unit:"kg" AND price > 98'}, ["99"]),
    ({"query": "", "facetFilters": [["brand:Acme", "brand:Zenith"], "on:true", "tags:-t0"],
      "hitsPerPage": 2}, ["4", "8"]),
    ({"query": "nothing such"}, []),
    ({"query": '"; drop table records; --'}, []),
])  # fmt: skip
def test_the_search_client_finds(searcher, shop, query, ids):
    found = searcher.search_single_index(shop, query)
    if ids is not None:
        assert [hit.object_id for hit in found.hits] == ids
    assert found.nb_pages == -(-found.nb_hits // found.hits_per_page)
    both = searcher.search({"requests": [{"indexName": shop, **query}]})
    assert both.results[0].actual_instance.nb_hits == found.nb_hits


def test_pages_of_a_search(searcher, shop):
    first = searcher.search_single_index(shop, {"query": "anvil", "hitsPerPage": 50})
    second = searcher.search_single_index(shop, {"query": "anvil", "hitsPerPage": 50, "page": 1})
    assert first.nb_hits == 101
    assert not {h.object_id for h in first.hits} & {h.object_id for h in second.hits}


@pytest.mark.parametrize(
    "wrong",
    ["price >", "(price < 1", "a b", "price < x", ":", "NOT", "()", "(" * 100 + "a:b" + ")" * 100],
)
def test_a_filter_that_cannot_be_read_is_a_400(searcher, shop, wrong):
    with pytest.raises(RequestException) as caught:
        searcher.search_single_index(shop, {"query": "", "filters": wrong})
    assert caught.value.status_code == 400
    assert "filters" in str(caught.value)
