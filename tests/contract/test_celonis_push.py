"""Celonis's Data Push API: jobs, chunks, loads into the pool's tables; OAuth; who may."""

import io
import json
import resource
import socket
import threading
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import urllib3

from tests.algolia_fake import until
from tests.contract.test_celonis import Celonis
from tests.serving import KEY, serving

JOB = {"id", "dataPoolId", "targetName", "type", "fileType", "keys", "status", "lastModified", "lastPing", "logs",
       "connectionId", "tableSchema", "csvParsingOptions", "upsertStrategy", "fallbackVarcharLength"}  # fmt: skip
SCHEMA = {"tableName": "t", "columns": [
    {"columnName": "id", "columnType": "INTEGER", "pkField": True}, {"columnName": "v", "columnType": "STRING"},
    {"columnName": "at", "columnType": "DATETIME"}, {"columnName": "f", "columnType": "FLOAT"}]}  # fmt: skip


class Push(Celonis):
    root = "/integration/api/v1/data-push"
    n = 0

    def jobs(self, rest=""):
        return f"{self.root}/{self.pool}/jobs{rest}"

    def new(self, type_="DELTA", **more):
        if "targetName" not in more:
            Push.n += 1
            more["targetName"] = f"t{Push.n}"
        made = self(
            "POST",
            self.jobs("/"),
            {"type": type_, "dataPoolId": self.pool, "fileType": "CSV"} | more,
        )
        assert (set(made), made["status"], made["logs"]) == (JOB, "NEW", [])
        return made

    def chunk(self, job, content, kind="upserted", status=200, name="file"):
        body, type_ = urllib3.encode_multipart_formdata({name: ("rows", content)})
        answer = self.raw(
            "POST", self.jobs(f"/{job['id']}/chunks/{kind}"), body,
            **{"authorization": f"AppKey {KEY}", "content-type": type_},
        )  # fmt: skip
        assert answer.status == status, answer.data
        return answer.json()

    def start(self, job, query=""):
        answer = self.raw("POST", self.jobs(f"/{job['id']}{query}"), authorization=f"Bearer {KEY}")
        assert (answer.status, answer.data) == (200, b"")

    def over(self, job):
        def look():
            found = self("GET", self.jobs(f"/{job['id']}"))
            assert set(found) == JOB
            return found["status"] not in ("QUEUED", "RUNNING") and found

        return until(look, 60)

    def load(self, job, *chunks, query=""):
        for chunk in chunks:
            kind, content = chunk if isinstance(chunk, tuple) else ("upserted", chunk)
            self.chunk(job, content, kind)
        self.start(job, query)
        return self.over(job)

    def rows(self, table, limit=50):
        end = self.shop.call("GET", f"/v1/pools/{self.pool}")["destination"]
        found = self.shop.call("GET", f"/v1/tables/{end}/{table}/rows?limit={limit}")["rows"]
        return sorted(found, key=lambda row: row["id"])


@pytest.fixture(scope="module", params=["/integration/api", "/data-ingestion/api"])
def push(request, server):
    made = Push(server)
    made.root = f"{request.param}/v1/data-push"
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("push") / "data", HEADRACE_CHUNK_MAX="32MB") as server:
        yield server


def test_a_million_rows_of_parquet_are_pushed_executed_and_counted_in_the_destination(push):
    rows = 1_000_000
    file = io.BytesIO()
    pq.write_table(
        pa.table({"id": list(range(rows)), "v": [f"v{n % 1000}" for n in range(rows)]}), file
    )
    job = push.new("REPLACE", fileType="PARQUET", keys=["id"], targetName="cases")
    assert push.load(job, file.getvalue())["status"] == "DONE"
    assert push.rows("cases", 2) == [{"id": 0, "v": "v0"}, {"id": 1, "v": "v1"}]
    run = push.shop.call("GET", "/v1/runs?limit=1")["items"][0]
    assert run["books"]["inserted"] == run["books"]["read"] == rows
    receipt = push.shop.call("GET", f"/v1/runs/{run['id']}/receipt")
    assert receipt["tables"][0]["rowsAfter"] == rows  # the destination's own count
    assert {"name": "cases", "loaderSource": "PUSH"} in push(
        "GET", f"/integration/api/pools/{push.pool}/tables"
    )


def test_upserts_and_deletes_are_applied_in_the_order_they_came(push):
    job = push.new("REPLACE", tableSchema=SCHEMA)
    table = job["targetName"]
    text = "id,v,at,f\n1,a,2024-06-01 10:00:00,1.5\n2,b,,2\n3,c,,\n"
    done = push.load(job, text)
    assert (done["status"], done["keys"]) == ("DONE", ["id"])  # by pkField
    assert push.rows(table)[0] == {"id": 1, "v": "a", "at": "2024-06-01T10:00:00Z", "f": 1.5}
    job = push.new(keys=["id"], tableSchema=SCHEMA, targetName=table)
    done = push.load(job, "id,v\n1,A\n4,d\n", ("deleted", "id\n2\n4\n9\n"), "id,v\n4,again\n5,e\n")
    assert done["status"] == "DONE"
    assert [(row["id"], row["v"]) for row in push.rows(table)] == [
        (1, "A"),
        (3, "c"),
        (4, "again"),
        (5, "e"),
    ]
    assert push.rows(table)[0]["f"] == 1.5  # a column that the chunk lacks stays as it is
    run = push.shop.call("GET", "/v1/runs?limit=1")["items"][0]
    counts = {
        name: run["books"][name] for name in ("read", "inserted", "updated", "deleted", "unchanged")
    }
    assert counts == {"read": 7, "inserted": 3, "updated": 1, "deleted": 2, "unchanged": 1}
    chunks = push("GET", push.jobs(f"/{job['id']}/chunks"))
    assert [one["type"] for one in chunks] == ["UPSERT", "DELETE", "UPSERT"]
    assert {frozenset(one) for one in chunks} == {
        frozenset({"id", "creationDate", "type", "pushJobId", "checksum"})
    }
    job = push.new(
        keys=["id"],
        tableSchema=SCHEMA,
        targetName=table,
        upsertStrategy="UPSERT_WITH_NULLIFICATION",
    )
    push.load(job, "id,v\n1,B\n")
    assert push.rows(table)[0] == {"id": 1, "v": "B", "at": None, "f": None}


def test_appends_without_keys_and_the_newest_of_two(push):
    job = push.new(targetName=f"log{time.monotonic_ns()}")
    push.load(job, "id,v\n1,a\n1,a\n")
    push.load(push.new(targetName=job["targetName"]), "id,v\n1,a\n")
    assert (
        push.rows(job["targetName"]) == [{"id": "1", "v": "a"}] * 3
    )  # without a schema all is text
    schema = {
        "columns": [
            {"columnName": "id", "columnType": "INTEGER"},
            {"columnName": "n", "columnType": "INTEGER"},
        ]
    }
    job = push.new(keys=["id"], tableSchema=schema)
    done = push.load(job, "id,n\n1,10\n1,9\n1,\n2,1\n2,1\n", query="?duplicateRemovalColumn=n")
    assert done["status"] == "DONE"
    assert push.rows(job["targetName"]) == [{"id": 1, "n": 10}, {"id": 2, "n": 1}]
    job = push.new(keys=["id"], tableSchema=schema)
    push.chunk(job, "id,n\n1,1\n")
    answer = push.raw(
        "POST", push.jobs(f"/{job['id']}?duplicateRemovalColumn=x"), authorization=f"Bearer {KEY}"
    )
    assert (answer.status, b"duplicateRemovalColumn" in answer.data) == (400, True)


def test_parquet_takes_the_types_of_the_schema(push):
    file = io.BytesIO()
    table = pa.table({"id": pa.array([1.0, 2.0]), "v": pa.array([7, 8]), "f": pa.array([1, 2]),
                      "at": pa.array([0, 1_000_000], pa.timestamp("us"))})  # fmt: skip
    pq.write_table(table, file)
    job = push.new("REPLACE", fileType="PARQUET", tableSchema=SCHEMA)
    assert push.load(job, file.getvalue())["status"] == "ERROR"  # 1.0 is no integer
    assert any("'id'" in one for one in push("GET", push.jobs(f"/{job['id']}"))["logs"])
    file = io.BytesIO()
    pq.write_table(table.set_column(0, "id", pa.array([1, 2])), file)
    job = push.new("REPLACE", fileType="PARQUET", tableSchema=SCHEMA)
    assert push.load(job, file.getvalue())["status"] == "DONE"
    assert push.rows(job["targetName"])[1] == {
        "id": 2,
        "v": "8",
        "at": "1970-01-01T00:00:01Z",
        "f": 2.0,
    }


def test_bad_rows_fail_the_load_and_change_nothing(push):
    job = push.new("REPLACE", tableSchema=SCHEMA)
    push.load(job, "id,v\n1,a\n")
    bad = push.new("REPLACE", tableSchema=SCHEMA, targetName=job["targetName"])
    done = push.load(bad, "id,v\n2,b\nx,c\n")
    assert done["status"] == "ERROR"
    assert any("rejected" in one for one in done["logs"])
    assert [row["id"] for row in push.rows(job["targetName"])] == [1]


def test_csv_as_it_is_written(push):
    options = {"separatorSequence": ";", "quoteSequence": "'", "charSet": "latin-1"}
    job = push.new("REPLACE", csvParsingOptions=options)
    assert push.load(job, "id;v\n1;'a;b'\n2;é\n".encode("latin-1"))["status"] == "DONE"
    assert push.rows(job["targetName"]) == [{"id": "1", "v": "a;b"}, {"id": "2", "v": "é"}]


def refused(answer, status):
    assert set(answer) == {"title", "status", "detail", "errorCode"}
    assert answer["status"] == status
    return answer["detail"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, "targetName"), ({"targetName": "t"}, "type"), ({"targetName": "t", "type": "MERGE"}, "type"),
        ({"targetName": " ", "type": "DELTA"}, "targetName"),
        ({"targetName": "t", "type": "DELTA", "fileType": "XLSX"}, "fileType"),
        ({"targetName": "t", "type": "DELTA", "dataPoolId": "x"}, "dataPoolId"),
        ({"targetName": "t", "type": "DELTA", "keys": ["a", "a"]}, "keys"),
        ({"targetName": "t", "type": "DELTA", "keys": ["z"], "tableSchema": SCHEMA}, "'z'"),
        ({"targetName": "t", "type": "DELTA", "postExecutionQuery": "drop table t"}, "postExecutionQuery"),
        ({"targetName": "t", "type": "DELTA", "tableSchema": {"columns": [{"columnName": "a", "columnType": "BLOB"}]}},
         "columnType"),
        ({"targetName": "t", "type": "DELTA", "csvParsingOptions": {"decimalSeparator": ","}}, "decimalSeparator"),
        ({"targetName": "t", "type": "DELTA", "csvParsingOptions": {"separatorSequence": "||"}}, "separatorSequence"),
    ],
)  # fmt: skip
def test_a_job_that_cannot_be(push, body, told):
    assert told in refused(push("POST", push.jobs(), body, status=400), 400)


def test_a_chunk_that_cannot_be_is_not_kept(push):
    job = push.new(keys=["id"], tableSchema=SCHEMA)

    def no(content, told, status=400, kind="upserted", name="file"):
        assert told in refused(push.chunk(job, content, kind, status, name), status)

    no("id,w\n1,2\n", "'w' is not in the schema")
    no("v\na\n", "key column 'id'")
    no("id,id\n1,1\n", "twice")
    no("", "nothing in the file")
    no("id,v\n", "no part named file", name="other")
    no("id,v\n1,2\n", "upserted or deleted", status=404, kind="merged")
    no(b"x" * (33 << 20), "larger than", status=413)
    parquet = push.new(fileType="PARQUET")
    told = refused(push.chunk(parquet, "id,v\n1,2\n", status=400), 400)
    assert told == "The file is not a Parquet file. The job takes files of the type PARQUET."
    answer = push.raw("POST", push.jobs(f"/{job['id']}/chunks/upserted"), b"id\n1\n",
                      **{"authorization": f"Bearer {KEY}", "content-type": "text/csv"})  # fmt: skip
    assert (answer.status, b"multipart/form-data" in answer.data) == (400, True)
    cut = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nid,v\n1,'
    answer = push.raw("POST", push.jobs(f"/{job['id']}/chunks/upserted"), cut,
                      **{"authorization": f"Bearer {KEY}", "content-type": "multipart/form-data; boundary=b"})  # fmt: skip
    assert (answer.status, b"multipart body" in answer.data) == (400, True)
    # A client that goes away in the middle.
    host = push.server.client.url.removeprefix("http://").split(":")
    with socket.create_connection((host[0], int(host[1]))) as con:
        head = (f"POST {push.jobs('/' + job['id'] + '/chunks/upserted')} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Authorization: Bearer {KEY}\r\nContent-Type: multipart/form-data; boundary=b\r\n"
                f"Content-Length: 1000000\r\n\r\n")  # fmt: skip
        con.sendall(head.encode() + cut)
        time.sleep(0.2)
    assert push("GET", push.jobs(f"/{job['id']}/chunks")) == []
    folder = push.server.data_dir / "uploads" / job["id"]
    until(lambda: not list(folder.iterdir()))
    assert push("POST", push.jobs(f"/{job['id']}"), status=400)["detail"].startswith(
        "The job has no chunks"
    )
    replace = push.new("REPLACE")
    assert "REPLACE" in refused(push.chunk(replace, "id\n1\n", "deleted", 400), 400)
    push.chunk(replace, "id,v\n1,2\n")
    assert "same columns" in refused(push.chunk(replace, "id\n1\n", status=400), 400)
    keyless = push.new()
    assert "keys" in refused(push.chunk(keyless, "id\n1\n", "deleted", 400), 400)


def test_a_full_disk_refuses_a_chunk_and_keeps_nothing_of_it(push):
    job, pid = push.new(), push.server.process.pid
    content = "id\n" + "".join(f"{n}\n" for n in range(2_000_000))
    none = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(
        pid, resource.RLIMIT_FSIZE, (8 << 20, none[1])
    )  # what a full disk looks like to it
    try:
        assert "cannot be kept" in refused(push.chunk(job, content, status=503), 503)
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, none)
    assert push("GET", push.jobs(f"/{job['id']}/chunks")) == []
    assert list((push.server.data_dir / "uploads" / job["id"]).iterdir()) == []
    push.chunk(job, content)


def test_chunks_that_come_at_once_are_all_kept(push):
    job = push.new(keys=["id"])
    threads = [threading.Thread(target=push.chunk, args=(job, f"id,v\n{n},x\n")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    push.start(job)
    assert push.over(job)["status"] == "DONE"
    assert {row["id"] for row in push.rows(job["targetName"])} == {str(n) for n in range(12)}


def test_only_a_new_job_is_started_and_takes_chunks(push):
    job = push.new("REPLACE")
    push.chunk(job, "id\n1\n")
    push.start(job)
    assert "started" in refused(push("POST", push.jobs(f"/{job['id']}"), status=409), 409)
    assert "started" in refused(push.chunk(job, "id\n1\n", status=409), 409)
    assert push.over(job)["status"] == "DONE"
    assert job["id"] in {one["id"] for one in push("GET", push.jobs())}
    until(lambda: not (push.server.data_dir / "uploads" / job["id"]).exists())  # swept
    assert push("DELETE", push.jobs(f"/{job['id']}")) is None
    refused(push("GET", push.jobs(f"/{job['id']}"), status=404), 404)
    assert [row["id"] for row in push.rows(job["targetName"])] == ["1"]  # what landed stays
    new = push.new()
    push.chunk(new, "id\n1\n")
    push("DELETE", push.jobs(f"/{new['id']}"))
    assert not (push.server.data_dir / "uploads" / new["id"]).exists()
    for path in ("/x", f"/{new['id']}", f"/{new['id']}/chunks"):
        refused(push("GET", push.jobs(path), status=404), 404)
    other = f"{push.root}/{new['id']}/jobs"
    refused(push("GET", other, status=404), 404)


def test_nobody_starts_the_task_of_a_table(push):
    job = push.new("REPLACE")
    push.load(job, "id\n1\n")
    call = push.shop.call
    [task] = [
        one
        for one in call("GET", "/v1/tasks?limit=1000")["items"]
        if one["table"] == job["targetName"]
    ]
    answer = push.raw("POST", f"/v1/tasks/{task['id']}/runs", authorization=f"Bearer {KEY}")
    assert (answer.status, b"Upload files" in answer.data) == (400, True)
    answer = push.raw("DELETE", f"/v1/pools/{push.pool}", authorization=f"Bearer {KEY}")
    assert answer.status == 409
    call("DELETE", f"/v1/tasks/{task['id']}")  # the next upload makes another
    push.load(push.new("REPLACE", targetName=job["targetName"]), "id\n2\n")
    assert [row["id"] for row in push.rows(job["targetName"])] == ["2"]


# Tokens and permissions.


def oauth(push, secret=KEY, basic=True, **form):
    given = {"grant_type": "client_credentials", "scope": "integration.data-pools"} | form
    headers = urllib3.make_headers(basic_auth=f"client:{secret}") if basic else {}
    if not basic:
        given |= {"client_id": "client", "client_secret": secret}
    return push.http.request(
        "POST", push.server.client.url + "/oauth2/token", fields=given, headers=headers, encode_multipart=False
    )  # fmt: skip


def test_oauth_clients(push):
    for basic in (True, False):
        answer = oauth(push, basic=basic)
        found = answer.json()
        assert (answer.status, found["token_type"], found["expires_in"]) == (200, "Bearer", 899)
        pools = push.raw(
            "GET", "/integration/api/pools", authorization=f"Bearer {found['access_token']}"
        )
        assert pools.status == 200
        assert (
            push.raw("GET", "/v1/pools", authorization=f"bearer {found['access_token']}").status
            == 200
        )
    only = oauth(push, scope="integration.data-pools:data_push").json()["access_token"]
    assert push.raw("GET", push.jobs(), authorization=f"Bearer {only}").status == 200
    for path in ("/integration/api/pools", "/v1/runs", "/api/import_status.json"):
        answer = push.raw("GET", path, authorization=f"Bearer {only}", token=only)
        assert answer.status == 403, path
    for answer, status, error in (
        (oauth(push, secret="wrong"), 401, "invalid_client"),
        (oauth(push, scope="everything"), 400, "invalid_scope"),
        (oauth(push, grant_type="password"), 400, "unsupported_grant_type"),
        (
            push.raw("POST", "/oauth2/token", b"grant_type=client_credentials"),
            401,
            "invalid_client",
        ),
    ):
        assert (answer.status, answer.json()["error"]) == (status, error)


def test_who_may_view_and_manage_a_pool(push):
    call = push.shop.call
    looker, doer, other = (call("POST", "/v1/keys", {"name": name, "role": "operator"})
                           for name in ("looker", "doer", "other"))  # fmt: skip
    pool = call("POST", "/v1/pools", {"name": "closed", "permissions": {
        looker["id"]: "view", doer["id"]: "manage"}})["id"]  # fmt: skip
    task, _ = push.shop.task()
    job = call("POST", "/v1/jobs", {"pool": pool, "name": "j", "steps": [{"task": task}]})["id"]

    def status(key, method, path, body=None):
        data = None if body is None else json.dumps(body)
        return push.raw(method, path, data, authorization=f"Bearer {key['key']}").status

    seen, run = (
        f"/integration/api/pools/{pool}/jobs/{job}",
        f"/integration/api/v2/data-pools/{pool}/data-jobs/{job}/execute?mode=FULL",
    )
    table = {
        looker["name"]: (looker, 200, 403), doer["name"]: (doer, 200, 200), other["name"]: (other, 403, 403),
    }  # fmt: skip
    for key, views, manages in table.values():
        assert status(key, "GET", seen) == views
        assert status(key, "GET", f"/v1/jobs/{job}") == views
        assert status(key, "POST", run) == manages
        assert status(key, "PATCH", f"/v1/pools/{pool}", {"name": "closed"}) == manages
        body = {"targetName": "t", "type": "DELTA", "fileType": "CSV"}
        assert status(key, "POST", f"{push.root}/{pool}/jobs", body) == manages
        listed = push.raw(
            "GET", "/integration/api/pools", authorization=f"Bearer {key['key']}"
        ).json()
        assert (pool in {one["id"] for one in listed}) == (views == 200)
        shown = push.raw(
            "GET", "/v1/executions?limit=1000", authorization=f"Bearer {key['key']}"
        ).json()["items"]
        assert views == 200 or job not in {one["job"] for one in shown}
    refused_ = push.raw("POST", run, authorization=f"Bearer {looker['key']}").json()
    assert refused_["errorCode"] == "ADMIN_ACCESS_ERROR"
    # Only an admin says who may.
    assert status(doer, "PATCH", f"/v1/pools/{pool}", {"permissions": None}) == 403
    call("PATCH", f"/v1/pools/{pool}", {"permissions": None})
    assert status(other, "GET", seen) == 200
    bad = push.raw("PATCH", f"/v1/pools/{pool}", json.dumps({"permissions": {"nobody": "view"}}),
                   authorization=f"Bearer {KEY}")  # fmt: skip
    assert (bad.status, b"permissions.nobody" in bad.data) == (400, True)
    deeds = call("GET", "/v1/audit?limit=1000")["items"]
    assert {"pool.added", "pool.changed", "key.added", "execution.started"} <= {
        one["deed"] for one in deeds
    }
    started = next(
        one for one in deeds if one["deed"] == "execution.started" and one["key"] == "doer"
    )
    assert "data-jobs" in started["via"]
    assert "127.0.0.1" in started["via"]


def test_every_answer_tells_the_rate_and_too_many_are_refused(tmp_path):
    with serving(tmp_path / "data", HEADRACE_CELONIS_RATE="5/60") as server:
        celonis = Celonis(server)
        found = [celonis.raw("GET", "/api/cloud", authorization=f"Bearer {KEY}") for _ in range(6)]
        assert [answer.status for answer in found] == [200] * 5 + [429]
        assert [answer.headers["x-ratelimit-remaining"] for answer in found] == list("432100")
        assert {answer.headers["x-ratelimit-limit"] for answer in found} == {"5"}
        assert 0 < int(found[-1].headers["x-ratelimit-reset"]) <= 60
        assert found[-1].json()["errorCode"] == "LIMIT_RATE_EXCEEDED"
