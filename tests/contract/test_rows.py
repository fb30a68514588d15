"""Rows of the Algolia contract's other tables, each named: wire rules, fields, values, parse traps.

The operations and the values of filters are in test_operations.py; what things mean is tried with
the official clients.
"""

import gzip
import json
import uuid

import pytest
import urllib3

from tests.contract.test_algolia import DATE, HEADERS, Api
from tests.contract.test_operations import BASIC, CODE
from tests.serving import KEY, serving

CSV = {"type": "csv", "name": "n", "input": {"url": "https://x.y/f.csv"}}
SEARCH = {"type": "search", "name": "n", "input": {"indexName": "CamelCase"}}


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("rows") / "data") as server:
        yield Api(server)


@pytest.fixture(scope="module")
def ends(api):
    return (
        api("POST", "/1/sources", CSV)["sourceID"],
        api("POST", "/1/destinations", SEARCH)["destinationID"],
    )


def task(api, ends, version=2, **members):
    given = {"sourceID": ends[0], "destinationID": ends[1], "action": "replace"} | members
    id_ = api("POST", f"/{version}/tasks", given)["taskID"]
    return id_, api("GET", f"/{version}/tasks/{id_}")


# 1, wire rules.


def bare(api, method, path, **more):
    pool = urllib3.PoolManager(retries=False)
    return pool.request(method, api.server.client.url + path, **more)


WIRE = {
    "Credentials: headers": lambda api: bare(api, "GET", "/1/sources", headers=HEADERS).status == 200,
    "Credentials: query": lambda api: bare(
        api, "GET", f"/1/sources?x-algolia-application-id=default&x-algolia-api-key={KEY}").status == 200,
    "Bad or no credentials": lambda api: (
        bare(api, "GET", "/1/sources").status == 403
        and "Invalid Application-ID or API key" in bare(api, "GET", "/1/sources").json()["message"]),
    "Request body: text/plain": lambda api: bare(
        api, "POST", "/1/authentications", body=json.dumps(BASIC),
        headers=HEADERS | {"content-type": "text/plain"}).status == 200,
    "Request body: form": lambda api: bare(
        api, "POST", "/1/authentications", body=json.dumps(BASIC),
        headers=HEADERS | {"content-type": "application/x-www-form-urlencoded"}).status == 200,
    "Body framing: chunked": lambda api: bare(
        api, "POST", "/1/authentications", body=iter([json.dumps(BASIC).encode()]),
        headers=HEADERS, chunked=True).status == 200,
    "Body compression: gzip": lambda api: bare(
        api, "POST", "/1/authentications", body=gzip.compress(json.dumps(BASIC).encode()),
        headers=HEADERS | {"content-encoding": "gzip"}).status == 200,
    "Booleans in query": lambda api: (
        bare(api, "GET", "/2/tasks?enabled=true", headers=HEADERS).status == 200
        and bare(api, "GET", "/2/tasks?enabled=1", headers=HEADERS).status == 400),
    "Unknown query keys": lambda api: bare(
        api, "GET", "/1/sources?x-algolia-agent=a%20b&nothing=1", headers=HEADERS).status == 200,
    "List query values: comma and repeated": lambda api: bare(
        api, "GET", "/1/sources?type=csv%2Cjson&type=push", headers=HEADERS).status == 200,
    "Path ids: percent-encoded": lambda api: bare(
        api, "GET", "/1/sources/a%2Fb", headers=HEADERS).status == 404,
    "Success is 200, created too": lambda api: bare(
        api, "POST", "/1/sources", body=json.dumps(CSV), headers=HEADERS).status == 200,
    "404: unknown route": lambda api: bare(api, "GET", "/1/nothing", headers=HEADERS).json()["status"] == 404,
    "CORS": lambda api: bare(
        api, "OPTIONS", "/1/sources", headers={
            "origin": "https://shop.test", "access-control-request-method": "POST",
            "access-control-request-headers": "x-algolia-api-key,x-algolia-application-id,content-type",
        }).headers["access-control-allow-origin"] == "*",
}  # fmt: skip


@pytest.mark.parametrize("row", WIRE)
def test_a_wire_rule_holds(api, row):
    assert WIRE[row](api)


def test_ids_are_uuids_and_dates_whole_seconds_of_utc(api):
    made = api("POST", "/1/authentications", BASIC)
    assert str(uuid.UUID(made["authenticationID"])) == made["authenticationID"]
    assert DATE.fullmatch(made["createdAt"])


def test_a_deleted_id_is_a_404_for_every_kind(api, ends):
    code = {"name": "n", "type": "code", "input": {"code": CODE}}
    for path, body, name in (
        ("/1/authentications", BASIC, "authenticationID"), ("/1/sources", CSV, "sourceID"),
        ("/1/destinations", SEARCH, "destinationID"), ("/1/transformations", code, "transformationID"),
        ("/2/tasks", {"sourceID": ends[0], "destinationID": ends[1], "action": "replace"}, "taskID"),
    ):  # fmt: skip
        id_ = api("POST", path, body)[name]
        assert DATE.fullmatch(api("DELETE", f"{path}/{id_}")["deletedAt"])
        for method in ("GET", "DELETE"):
            api(method, f"{path}/{id_}", status=404)
        searched = path.rpartition("/")[2][:-1] + "IDs"
        assert api("POST", f"{path}/search", {searched: [id_]}) == []


# 3, the fields of a task, in both versions.


TASK_FIELDS = [
    ("subscriptionAction", "save", "both"), ("failureThreshold", 7, "both"), ("enabled", False, "both"),
    ("cursor", "2024-01-08T16:47:41Z", "both"), ("cron", "0 6 * * 1", "v2"),
    ("notifications", {"email": {"enabled": True}}, "v2"), ("policies", {"criticalThreshold": 10}, "v2"),
    ("input", {"streams": [{"name": "s", "properties": ["a"], "syncMode": "incremental"}]}, "both"),
    ("input", {"mapping": {"format": "mappingkit/v1", "actions": [{
        "id": "1", "enabled": True, "trigger": "t", "fieldDirectives": [{"fieldKey": "k", "value": {}}]}]}}, "both"),
    ("input", {"metafields": [{"namespace": "n", "key": "k", "value": "v"}],
               "market": {"countries": ["FR"], "currencies": ["EUR"], "locales": ["fr"]}}, "both"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "where"),
    TASK_FIELDS,
    ids=[f"{n} {i}" for i, (n, *_) in enumerate(TASK_FIELDS)],
)
def test_a_field_of_a_task_is_kept_and_shown(api, ends, name, value, where):
    id_, shown = task(api, ends, **{name: value})
    assert shown[name] == value
    whole = {"destinationID": ends[1], "action": "replace"}
    api("PUT", f"/2/tasks/{id_}", whole | {name: value})
    assert api("GET", f"/2/tasks/{id_}")[name] == value
    if where == "both" and name != "subscriptionAction":
        _, shown = task(api, ends, 1, trigger={"type": "onDemand"}, **{name: value})
        assert shown[name] == value


@pytest.mark.parametrize(("trigger", "shown"), [
    ({"type": "onDemand"}, {"type"}), ({"type": "schedule", "cron": "0 6 * * *"}, {"type", "cron", "nextRun"}),
    ({"type": "subscription"}, {"type"}), ({"type": "streaming"}, {"type"}),
])  # fmt: skip
def test_a_trigger_has_its_form(api, ends, trigger, shown):
    _, found = task(api, ends, 1, trigger=trigger)
    assert set(found["trigger"]) == shown


@pytest.mark.parametrize("legacy", [
    {"startDate": "2024-01-01T00:00:00Z", "endDate": "2024-01-02T00:00:00Z"}, {"timeframe": 30},
])  # fmt: skip
def test_an_input_of_the_older_edition_is_shown_there_only(api, ends, legacy):
    id_, shown = task(api, ends, 1, trigger={"type": "onDemand"}, input=legacy)
    assert shown["input"] == legacy | {"streams": []}
    assert "input" not in api("GET", f"/2/tasks/{id_}")


# 4, values that bodies take.


def refused(api, path, body, field):
    assert field in api("POST", path, body, status=400)["message"]


VALUES = [
    ("action", "replace save partial partialNoCreate append",
     lambda ends, v: ("/2/tasks", {"sourceID": ends[2], "destinationID": ends[1], "action": v})),
    ("recordType", "product variant collection",
     lambda ends, v: ("/1/destinations", SEARCH | {"input": {"indexName": "i", "recordType": v}})),
    ("mapping", "string integer float boolean json",
     lambda ends, v: ("/1/sources", CSV | {"input": {"url": "u", "mapping": {"c": v}}})),
    ("method", "GET POST", lambda ends, v: ("/1/sources", CSV | {"input": {"url": "u", "method": v}})),
    ("dataType", "ga4 ga360", lambda ends, v: ("/1/sources", {"type": "bigquery", "name": "n", "input": {
        "projectID": "p", "datasetID": "d", "dataType": v}})),
    ("imageType", "singer custom airbyte", lambda ends, v: ("/1/sources", {"type": "docker", "name": "n", "input": {
        "imageType": v, "registry": "ghcr", "image": "i", "configuration": {}}})),
    ("registry", "dockerhub ghcr", lambda ends, v: ("/1/sources", {"type": "docker", "name": "n", "input": {
        "imageType": "singer", "registry": v, "image": "i", "configuration": {}}})),
    ("syncMode", "incremental fullTable", lambda ends, v: ("/2/tasks", {
        "sourceID": ends[0], "destinationID": ends[1], "action": "replace",
        "input": {"streams": [{"name": "s", "syncMode": v}]}})),
    ("platform", "bigcommerce commercetools shopify", lambda ends, v: ("/1/authentications", BASIC | {"platform": v})),
    ("type", "code noCode", lambda ends, v: ("/1/transformations", {
        "name": "n", "type": v, "input": {"code": CODE} if v == "code" else {"steps": []}})),
    ("criticalThreshold", [1, 10], lambda ends, v: ("/2/tasks", {
        "sourceID": ends[0], "destinationID": ends[1], "action": "replace",
        "policies": {"criticalThreshold": v}})),
    ("failureThreshold", [0, 100], lambda ends, v: ("/2/tasks", {
        "sourceID": ends[0], "destinationID": ends[1], "action": "replace", "failureThreshold": v})),
    ("delimiter", [",", ";", "\t", "|"], lambda ends, v: ("/1/sources", CSV | {
        "input": {"url": "u", "delimiter": v}})),
]  # fmt: skip
WRONG = {"criticalThreshold": [0, 11, "x"], "failureThreshold": [-1, 101, 1.5],
         "delimiter": ["", "ab", "\r", "\n", "\ufffd", " "]}  # fmt: skip


@pytest.mark.parametrize(("name", "values", "made"), VALUES, ids=[row[0] for row in VALUES])
def test_a_member_takes_its_values_and_no_others(api, ends, name, values, made):
    keyed = api("POST", "/1/sources", CSV | {"input": {"url": "u", "uniqueIDColumn": "id"}})[
        "sourceID"
    ]
    for value in values.split() if isinstance(values, str) else values:
        api("POST", *made((*ends, keyed), value))
    for wrong in WRONG.get(name, ["nonsense", "", 5]):
        refused(api, *made((*ends, keyed), wrong), name)


# 8, what would break a client's parser.


def shown(api, body, path="/1/sources", name="sourceID"):
    id_ = api("POST", path, body)[name]
    return id_, api("GET", f"{path}/{id_}")


def test_trap_1_a_push_source_has_no_input(api):
    assert "input" not in shown(api, {"type": "push", "name": "p"})[1]


def test_trap_2_a_docker_source_keeps_its_image(api):
    id_, _ = shown(
        api, {"type": "docker", "name": "d", "input": {"image": "i", "configuration": {"a": 1}}}
    )
    api("PATCH", f"/1/sources/{id_}", {"input": {"configuration": {"b": 2}}})
    assert api("GET", f"/1/sources/{id_}")["input"] == {"image": "i", "configuration": {"b": 2}}


def test_trap_3_a_commercetools_source_keeps_url_and_key(api):
    given = {"url": "https://x.y", "projectKey": "k"}
    id_, _ = shown(api, {"type": "commercetools", "name": "c", "input": given})
    api("PATCH", f"/1/sources/{id_}", {"input": {"locales": ["fr-FR"]}})
    assert given.items() <= api("GET", f"/1/sources/{id_}")["input"].items()


def test_trap_5_an_index_prefix_is_an_index_name_too(api):
    _, found = shown(
        api, SEARCH | {"input": {"indexPrefix": "pre"}}, "/1/destinations", "destinationID"
    )
    assert found["input"] == {"indexPrefix": "pre", "indexName": "pre"}


def test_trap_6_no_code_has_an_empty_code(api):
    body = {
        "name": "n",
        "type": "noCode",
        "input": {"steps": [{"type": "keep", "attributes": ["a"]}]},
    }
    assert shown(api, body, "/1/transformations", "transformationID")[1]["code"] == ""


def test_trap_10_an_on_demand_task_has_no_schedule(api, ends):
    _, found = task(api, ends)
    assert not {"cron", "nextRun"} & set(found)


def test_the_flow_destination_of_the_older_edition_is_refused(api):
    refused(api, "/1/destinations", SEARCH | {"type": "flow"}, "type")


def test_the_case_of_an_index_name_is_kept(api, ends):
    assert api("GET", f"/1/destinations/{ends[1]}")["input"]["indexName"] == "CamelCase"
