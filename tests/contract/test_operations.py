"""All 56 operations of the Algolia Ingestion API, each by its row of the contract.

Every answer is also held against the vendor's own OpenAPI documents, the newest and that of the
older edition, where they are at hand (see documents.py).
"""

import json

import pytest

from headrace.security.vault import Vault, master_key
from headrace.service.access import Access
from headrace.store.database import Database
from tests.contract.documents import NEWEST, OLDER, Answers, document
from tests.contract.test_algolia import Api
from tests.serving import serving

RUN = {"runID", "createdAt"}
WATCH = {"runID", "eventID", "data", "events", "message", "createdAt"}
AUTHENTICATION = {
    "authenticationID",
    "type",
    "name",
    "platform",
    "owner",
    "input",
    "createdAt",
    "updatedAt",
}
SOURCE = {
    "sourceID",
    "type",
    "name",
    "owner",
    "input",
    "authenticationID",
    "createdAt",
    "updatedAt",
}
DESTINATION = {"destinationID", "type", "name", "owner", "input", "createdAt", "updatedAt",
               "authenticationID", "transformationIDs"}  # fmt: skip
TASK = {"taskID", "sourceID", "destinationID", "action", "subscriptionAction", "cron", "lastRun", "nextRun",
        "input", "enabled", "failureThreshold", "cursor", "notifications", "policies", "owner",
        "createdAt", "updatedAt"}  # fmt: skip
TASK_V1 = (TASK - {"subscriptionAction", "cron", "lastRun", "nextRun", "owner"}) | {"trigger"}
TRANSFORMATION = {"transformationID", "code", "type", "input", "name", "description", "owner",
                  "authenticationIDs", "createdAt", "updatedAt"}  # fmt: skip
RUN_SHOWN = {"runID", "appID", "taskID", "status", "progress", "outcome", "failureThreshold", "reason",
             "reasonCode", "type", "createdAt", "startedAt", "finishedAt"}  # fmt: skip
EVENT = {"eventID", "runID", "status", "type", "batchSize", "data", "publishedAt"}
BASIC = {"type": "basic", "name": "n", "input": {"username": "u", "password": "p"}}
CODE = "async function transform(record) { return record }"

# operationId, method, path, body, members of the answer (a list's members after a `*`)
ROWS = [
    ("listAuthentications", "GET", "/1/authentications?type=basic,oauth&platform=none&sort=name", None,
     {"authentications", "pagination"}),
    ("createAuthentication", "POST", "/1/authentications", BASIC, {"authenticationID", "name", "createdAt"}),
    ("searchAuthentications", "POST", "/1/authentications/search",
     {"authenticationIDs": ["{authentication}", "none"]}, {"*"} | AUTHENTICATION),
    ("getAuthentication", "GET", "/1/authentications/{authentication}", None, AUTHENTICATION),
    ("updateAuthentication", "PATCH", "/1/authentications/{authentication}", {"name": "m"},
     {"authenticationID", "name", "updatedAt"}),
    ("deleteAuthentication", "DELETE", "/1/authentications/{authentication}", None, {"deletedAt"}),
    ("listSources", "GET", "/1/sources?authenticationID=none&type=csv&order=asc", None,
     {"sources", "pagination"}),
    ("createSource", "POST", "/1/sources", {"type": "csv", "name": "n", "input": {"url": "https://x.y/f.csv"}},
     {"sourceID", "name", "createdAt"}),
    ("searchSources", "POST", "/1/sources/search", {"sourceIDs": ["{csv}"]}, {"*"} | SOURCE),
    ("getSource", "GET", "/1/sources/{csv}", None, SOURCE),
    ("updateSource", "PATCH", "/1/sources/{csv}", {"name": "m"}, {"sourceID", "name", "updatedAt"}),
    ("deleteSource", "DELETE", "/1/sources/{spare}", None, {"deletedAt"}),
    ("validateSource", "POST", "/1/sources/validate", {"type": "csv", "name": "n", "input": {"url": "{url}"}},
     WATCH),
    ("validateSourceBeforeUpdate", "POST", "/1/sources/{csv}/validate", {"input": {"url": "{url}"}}, WATCH),
    ("triggerDockerSourceDiscover", "POST", "/1/sources/{docker}/discover", None, WATCH),
    ("getDockerSourceStreams", "GET", "/1/sources/{docker}/discover", None, {"streams"}),
    ("runSource", "POST", "/1/sources/{shop}/run", {"indexToInclude": ["a"], "runMetadata": {"x": 1}},
     {"taskWithRunID", "createdAt"}),
    ("listDestinations", "GET", "/1/destinations?type=search&sort=updatedAt&transformationID={transformation}",
     None, {"destinations", "pagination"}),
    ("createDestination", "POST", "/1/destinations", {"type": "search", "name": "n", "input": {"indexName": "i"}},
     {"destinationID", "name", "createdAt"}),
    ("searchDestinations", "POST", "/1/destinations/search", {"destinationIDs": ["{end}"]}, {"*"} | DESTINATION),
    ("getDestination", "GET", "/1/destinations/{end}", None, DESTINATION),
    ("updateDestination", "PATCH", "/1/destinations/{end}", {"name": "m"},
     {"destinationID", "name", "updatedAt"}),
    ("deleteDestination", "DELETE", "/1/destinations/{free}", None, {"deletedAt"}),
    ("listTasks", "GET", "/2/tasks?action=replace&enabled=true&sourceType=csv&triggerType=onDemand"
     "&withEmailNotifications=false", None, {"tasks", "pagination"}),
    ("createTask", "POST", "/2/tasks", {"sourceID": "{csv}", "destinationID": "{end}", "action": "replace",
     "cron": "0 3 * * *", "failureThreshold": 3, "policies": {"criticalThreshold": 2},
     "notifications": {"email": {"enabled": False}}}, {"taskID", "createdAt"}),
    ("searchTasks", "POST", "/2/tasks/search", {"taskIDs": ["{task}"]}, {"*"} | TASK),
    ("getTask", "GET", "/2/tasks/{task}", None, TASK),
    ("replaceTask", "PUT", "/2/tasks/{task}", {"destinationID": "{end}", "action": "replace"},
     {"taskID", "updatedAt"}),
    ("updateTask", "PATCH", "/2/tasks/{task}", {"failureThreshold": 5}, {"taskID", "updatedAt"}),
    ("deleteTask", "DELETE", "/2/tasks/{task}", None, {"deletedAt"}),
    ("runTask", "POST", "/2/tasks/{task}/run", {"runMetadata": {"who": "me"}}, RUN),
    ("pushTask", "POST", "/2/tasks/{pushes}/push?watch=true",
     {"action": "addObject", "records": [{"objectID": "1"}]}, WATCH),
    ("enableTask", "PUT", "/2/tasks/{task}/enable", None, {"taskID", "updatedAt"}),
    ("disableTask", "PUT", "/2/tasks/{task}/disable", None, {"taskID", "updatedAt"}),
    ("listTasksV1", "GET", "/1/tasks?triggerType=onDemand", None, {"tasks", "pagination"}),
    ("createTaskV1", "POST", "/1/tasks", {"sourceID": "{csv}", "destinationID": "{end}", "action": "replace",
     "trigger": {"type": "schedule", "cron": "0 3 * * *"}}, {"taskID", "createdAt"}),
    ("searchTasksV1", "POST", "/1/tasks/search", {"taskIDs": ["{task}"]}, {"*"} | TASK_V1),
    ("getTaskV1", "GET", "/1/tasks/{task}", None, TASK_V1),
    ("updateTaskV1", "PATCH", "/1/tasks/{task}", {"trigger": {"cron": "0 4 * * *"}}, {"taskID", "updatedAt"}),
    ("deleteTaskV1", "DELETE", "/1/tasks/{task}", None, {"deletedAt"}),
    ("runTaskV1", "POST", "/1/tasks/{task}/run", None, RUN),
    ("enableTaskV1", "PUT", "/1/tasks/{task}/enable", None, {"taskID", "updatedAt"}),
    ("disableTaskV1", "PUT", "/1/tasks/{task}/disable", None, {"taskID", "updatedAt"}),
    ("listTransformations", "GET", "/1/transformations?type=code&sort=name", None,
     {"transformations", "pagination"}),
    ("createTransformation", "POST", "/1/transformations",
     {"name": "n", "type": "code", "input": {"code": CODE}, "description": "d"},
     {"transformationID", "createdAt"}),
    ("searchTransformations", "POST", "/1/transformations/search",
     {"transformationIDs": ["{transformation}"]}, {"*"} | TRANSFORMATION),
    ("tryTransformation", "POST", "/1/transformations/try",
     {"type": "code", "input": {"code": CODE}, "sampleRecord": {"objectID": "1"}}, {"payloads", "error"}),
    ("getTransformation", "GET", "/1/transformations/{transformation}", None, TRANSFORMATION),
    ("updateTransformation", "PUT", "/1/transformations/{transformation}",
     {"name": "m", "type": "code", "input": {"code": CODE}}, {"transformationID", "updatedAt"}),
    ("deleteTransformation", "DELETE", "/1/transformations/{transformation}", None, {"deletedAt"}),
    ("tryTransformationBeforeUpdate", "POST", "/1/transformations/{transformation}/try",
     {"type": "code", "input": {"code": CODE}, "sampleRecord": {"objectID": "1"}}, {"payloads", "error"}),
    ("listRuns", "GET", "/1/runs?status=finished,started&type=reindex&sort=status", None,
     {"runs", "pagination", "window"}),
    ("getRun", "GET", "/1/runs/{run}", None, RUN_SHOWN),
    ("listEvents", "GET", "/1/runs/{run}/events?status=succeeded&status=started&type=fetch&sort=publishedAt",
     None, {"events", "pagination", "window"}),
    ("getEvent", "GET", "/1/runs/{run}/events/{event}", None, EVENT),
    ("push", "POST", "/1/push/Rows", {"action": "addObject", "records": [{"objectID": "1"}]}, WATCH),
]  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("operations") / "data") as server:
        yield Api(server)


@pytest.fixture(scope="module")
def stage(api):
    """Make what no operation uses up: a run that has ended, an index that takes pushes."""

    def make(path, body, name):
        return api("POST", path, body)[name]

    path = api.server.data_dir / "files" / "rows.csv"
    path.write_text("id,n\n1,5\n")
    url = f"file://{path}"
    csv = make(
        "/1/sources",
        {"type": "csv", "name": "c", "input": {"url": url, "uniqueIDColumn": "id"}},
        "sourceID",
    )
    end = make(
        "/1/destinations",
        {"type": "search", "name": "e", "input": {"indexName": "Ran"}},
        "destinationID",
    )
    rows = {"type": "search", "name": "e", "input": {"indexName": "Rows"}}
    pushes = make("/2/tasks", {
        "sourceID": make("/1/sources", {"type": "push", "name": "p"}, "sourceID"),
        "destinationID": make("/1/destinations", rows, "destinationID"), "action": "save"}, "taskID")  # fmt: skip
    ran = make("/2/tasks", {"sourceID": csv, "destinationID": end, "action": "replace"}, "taskID")
    run = api("POST", f"/2/tasks/{ran}/run")["runID"]
    api.server.client.wait(run, 60)
    event = api("GET", f"/1/runs/{run}/events?type=fetch")["events"][0]["eventID"]
    shop = {"type": "shopify", "name": "s", "input": {"shopURL": "x.test"}}
    docker = {
        "type": "docker",
        "name": "d",
        "input": {"image": "source-faker", "configuration": {}},
    }
    return {
        "url": url, "csv": csv, "end": end, "pushes": pushes, "run": run, "event": event,
        "shop": make("/1/sources", shop, "sourceID"), "docker": make("/1/sources", docker, "sourceID"),
    }  # fmt: skip


@pytest.fixture
def scene(api, stage):
    """Make what an operation may change or delete; return all ids by name."""

    def make(path, body, name):
        return api("POST", path, body)[name]

    code = {"name": "n", "type": "code", "input": {"code": CODE}}
    task = {"sourceID": stage["csv"], "destinationID": stage["end"], "action": "replace"}
    end = {"type": "search", "name": "e", "input": {"indexName": "Ran"}}
    return stage | {
        "transformation": make("/1/transformations", code, "transformationID"),
        "authentication": make("/1/authentications", BASIC, "authenticationID"),
        "spare": make("/1/sources", {"type": "json", "name": "c", "input": {"url": stage["url"]}}, "sourceID"),
        "free": make("/1/destinations", end, "destinationID"), "task": make("/2/tasks", task, "taskID"),
    }  # fmt: skip


def filled(text, scene):
    for name, value in scene.items():
        text = text.replace(f"{{{name}}}", value)
    return text


@pytest.mark.parametrize(
    ("operation", "method", "path", "body", "members"), ROWS, ids=[row[0] for row in ROWS]
)
def test_an_operation_answers_as_its_row_says(api, scene, operation, method, path, body, members):
    path = filled(path, scene)
    data = None if body is None else filled(json.dumps(body), scene).encode()
    answer = api.raw(method, path, data)
    found = json.loads(answer.data)
    assert answer.status == 200, found
    assert answer.headers["content-type"].partition(";")[0] == "application/json"
    told = found[0] if "*" in members else found
    assert set(told) <= members, set(told) - members
    for name in (NEWEST, OLDER):
        if document(name) is None:
            continue
        answers = Answers(name)
        bare = path.partition("?")[0]
        if name == NEWEST and operation != "getDockerSourceStreams":
            assert answers.operation(method, bare), "not in the document"
        assert answers.faults(method, bare, answer.status, answer.data) == []


def test_the_table_holds_every_operation_of_the_documents():
    names = [row[0] for row in ROWS]
    assert len(names) == len(set(names)) == 56
    for edition in (NEWEST, OLDER):
        if document(edition) is None:
            continue
        told = {
            operation["operationId"]
            for path, item in document(edition)["paths"].items() if path[:3] in ("/1/", "/2/")
            for operation in item.values() if isinstance(operation, dict)
        }  # fmt: skip
        known = set(names) | ({"getTasks"} if edition == OLDER else set())
        if edition == NEWEST:
            assert told == known - {"getDockerSourceStreams"}
        else:
            assert len(told) == 33


def test_another_tenants_ids_are_not_there(api, scene):
    settings = api.server.data_dir
    database = Database(f"sqlite:///{settings / 'control.db'}")
    vault = Vault(master_key("", settings))
    Access(database, vault).add_tenant("other", "other-key-0123456789")
    database.close()
    other = {"x-algolia-application-id": "other", "x-algolia-api-key": "other-key-0123456789"}
    before = api("GET", f"/2/tasks/{scene['task']}"), api("GET", f"/1/sources/{scene['csv']}")
    for operation, method, path, body, _ in ROWS:
        if "{" not in path and "search" not in operation:
            continue
        data = None if body is None else filled(json.dumps(body), scene).encode()
        answer = api.raw(method, filled(path, scene), data, other)
        found = json.loads(answer.data)
        if operation.startswith("search"):
            assert found == [], operation
        elif operation == "listDestinations":
            assert found["destinations"] == []
        else:
            assert answer.status == 404, (operation, found)
    answer = api.raw(
        "POST", "/1/push/Rows", b'{"action":"addObject","records":[{"objectID":"1"}]}', other
    )
    assert answer.status == 404
    for body in ({"sourceID": scene["csv"], "destinationID": scene["end"], "action": "replace"},):
        answer = api.raw("POST", "/2/tasks", json.dumps(body).encode(), other)
        assert answer.status == 400
        assert "cannot find source" in answer.json()["message"]
    mixed = {"x-algolia-application-id": "default", "x-algolia-api-key": "other-key-0123456789"}
    assert api.raw("GET", "/2/tasks", None, mixed).status == 403
    after = api("GET", f"/2/tasks/{scene['task']}"), api("GET", f"/1/sources/{scene['csv']}")
    assert after == before


ENUMS = [
    ("/1/authentications", "type", "googleServiceAccount basic apiKey oauth algolia algoliaInsights secrets"),
    ("/1/authentications", "platform", "bigcommerce commercetools shopify none"),
    ("/1/authentications", "sort", "name type auth_type platform updatedAt createdAt"),
    ("/1/sources", "type", "algoliaIndex bigcommerce bigquery commercetools csv docker ga4BigqueryExport json"
     " shopify push"),
    ("/1/sources", "sort", "name type updatedAt createdAt"),
    ("/1/destinations", "type", "search insights"),
    ("/1/destinations", "sort", "name type updatedAt createdAt"),
    ("/1/transformations", "type", "code noCode"),
    ("/1/transformations", "sort", "name updatedAt createdAt"),
    ("/2/tasks", "action", "replace save partial partialNoCreate append"),
    ("/2/tasks", "triggerType", "onDemand schedule subscription streaming"),
    ("/2/tasks", "sort", "enabled triggerType action updatedAt createdAt"),
    ("/1/tasks", "action", "replace save partial partialNoCreate append"),
    ("/1/tasks", "sort", "enabled triggerType action updatedAt createdAt"),
    ("/1/runs", "status", "created started finished skipped idled"),
    ("/1/runs", "type", "reindex update discover validate push"),
    ("/1/runs", "sort", "status updatedAt createdAt"),
    ("/1/runs/{run}/events", "status", "created started retried failed succeeded critical"),
    ("/1/runs/{run}/events", "type", "fetch record log transform"),
    ("/1/runs/{run}/events", "sort", "status type publishedAt"),
    ("/1/runs", "order", "asc desc"),
]  # fmt: skip


@pytest.fixture(scope="module")
def any_run(api):
    answer = api("POST", "/1/sources/validate", {
        "type": "csv", "name": "n", "input": {"url": "file:///nowhere.csv"}})  # fmt: skip
    return {"run": answer["runID"]}


@pytest.mark.parametrize(
    ("path", "name", "values"), ENUMS, ids=[f"{row[0]} {row[1]}" for row in ENUMS]
)
def test_an_enumeration_takes_its_values_and_no_others(api, any_run, path, name, values):
    path = filled(path, any_run)
    for value in values.split():
        api("GET", f"{path}?{name}={value}")
    for wrong in ("nonsense", values.split()[0].upper(), f"{values.split()[0]}%00"):
        told = api("GET", f"{path}?{name}={wrong}", status=400)
        assert name in told["message"] or "%00" in wrong


@pytest.mark.parametrize("path", ["/1/authentications", "/1/sources", "/1/destinations", "/1/tasks", "/2/tasks",
                                  "/1/transformations", "/1/runs", "/1/runs/{run}/events"])  # fmt: skip
def test_pages_keep_to_their_bounds(api, any_run, path):
    path = filled(path, any_run)
    for query in (
        "itemsPerPage=0",
        "itemsPerPage=101",
        "itemsPerPage=x",
        "page=0",
        "page=-1",
        "page=1.5",
    ):
        api("GET", f"{path}?{query}", status=400)
    found = api("GET", f"{path}?itemsPerPage=100&page=1&x-algolia-agent=test")["pagination"]
    assert set(found) == {"nbPages", "page", "nbItems", "itemsPerPage"}
    assert found["nbPages"] >= 1
    assert api("GET", path)["pagination"]["itemsPerPage"] == 10
