"""Bad input through a real server: a clear error, the old data untouched, never a traceback."""

import gzip
import json
import threading
import time
import zipfile

import pytest
import urllib3

from headrace.domain.errors import CallerError, HeadraceError, NotFound, OwnerError
from tests.ports import free_port
from tests.serving import KEY, send, serving, website

ROWS = b"id,name\n1,a\n2,b\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server") / "data") as running:
        yield running


@pytest.fixture(scope="module")
def site():
    def answer(request):
        path = request.path
        if path == "/ok.csv":
            send(request, ROWS)
        elif path == "/html":
            send(
                request,
                b"<!DOCTYPE html><html><body>log in</body></html>",
                Content_Type="text/html",
            )
        elif path == "/500":
            send(request, b"no", 500)
        elif path == "/redirect-inside":
            send(request, b"", 302, Location="http://169.254.169.254/latest/meta-data")
        elif path == "/loop":
            send(request, b"", 302, Location="/loop")
        elif path == "/cut":
            request.send_response(200)
            request.send_header("Content-Length", "1000")
            request.end_headers()
            request.wfile.write(ROWS)
            request.close_connection = True
        elif path == "/packed.csv.gz":
            send(request, gzip.compress(ROWS))
        elif path == "/empty":
            send(request, b"")
        else:
            send(request, b"nothing here", 404)

    with website(answer) as url:
        yield url


COUNT = iter(range(10_000))


def load(server, url, *, type_="csv", action="replace", end=None, table="t", **members):
    """Load once; return the finished run and the destination's id."""
    client = server.client
    path = server.data_dir / "files" / f"o{next(COUNT)}.duckdb"
    end = (
        end or client.add("destinations", type="duckdb", name="d", input={"path": str(path)})["id"]
    )
    more = members.pop("input", {})
    source = client.add("sources", type=type_, name="s", input={"url": url} | more)
    task = client.add(
        "tasks", source=source["id"], destination=end, action=action, table=table, **members
    )
    return client.wait(client.start(task["id"])["id"], 60), end


def file(server, name, content):
    path = server.data_dir / "files" / name
    path.write_bytes(content)
    return f"file://{path}"


BAD_FILES = {
    "empty": (b"", "nothing in the file"),
    "twin header": (b"a,A\n1,2\n", "header names the column both 'a' and 'A'"),
    "same header": (b"a,a\n1,2\n", "header names the column 'a' twice"),
    "all bad": (b"id,name\n" + b"x,y,z\n" * 10, "10 of 10 rows were rejected"),
    "binary": (bytes(range(256)) * 40, ""),
    "reserved": (b"__headrace_file,b\n1,2\n", "cannot be a column's name"),
    "html": (b"<html>no</html>", "is a web page"),
    "bad gzip": (b"\x1f\x8b\x08nonsense" * 9, "damaged archive"),
    "bad zip": (b"PK\x03\x04nonsense" * 9, "zip file"),
    "bad zstd": (b"\x28\xb5\x2f\xfdnonsense" * 9, "damaged archive"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_fails_clearly_and_leaves_the_old_table(server, name):
    content, said = BAD_FILES[name]
    good = file(server, f"good{next(COUNT)}.csv", ROWS)
    first, end = load(server, good)
    assert first["state"] == "succeeded"
    run, _ = load(server, file(server, f"bad{next(COUNT)}", content), end=end)
    assert run["state"] == "failed", run
    assert said in run["error"]["message"]
    assert run["error"]["code"] != "internal"
    assert [row["name"] for row in server.client.rows(end, "t")] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/404", "answered 404"), ("/html", "is a web page"), ("/loop", "redirects more than"),
        ("/redirect-inside", "never fetched from"), ("/empty", "nothing in the file"),
    ],
)  # fmt: skip
def test_a_bad_answer_fails_the_run_with_its_reason(server, site, path, said):
    run, _ = load(server, site + path)
    assert run["state"] == "failed"
    assert said in run["error"]["message"]


def test_a_packed_body_is_unpacked(server, site):
    run, _ = load(server, site + "/packed.csv.gz")
    assert run["books"]["inserted"] == 2


@pytest.mark.parametrize("path", ["/500", "/cut"])
def test_a_server_in_trouble_is_tried_again(server, site, path):
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": site + path})
    end = client.add(
        "destinations", type="duckdb", name="d",
        input={"path": str(server.data_dir / "files" / f"o{next(COUNT)}.duckdb")},
    )  # fmt: skip
    task = client.add("tasks", source=source["id"], destination=end["id"], action="append")
    run = client.start(task["id"])["id"]
    until = time.monotonic() + 60
    while time.monotonic() < until:
        told = [event for event in client.events(run) if event["status"] == "retried"]
        if told:
            break
        time.sleep(0.1)
    assert told
    try:
        client.call("POST", f"/v1/runs/{run}/cancel", {})
    except HeadraceError:
        pass
    client.wait(run, 60)


def test_a_dead_port_is_unavailable_not_a_crash(server):
    client = server.client
    source = client.add(
        "sources", type="csv", name="s", input={"url": f"http://127.0.0.1:{free_port()}/x"}
    )
    end = client.add(
        "destinations", type="duckdb", name="d",
        input={"path": str(server.data_dir / "files" / f"o{next(COUNT)}.duckdb")},
    )  # fmt: skip
    task = client.add("tasks", source=source["id"], destination=end["id"], action="append")
    run = client.start(task["id"])["id"]
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if "refused the connection" in (client.run(run)["waitingFor"] or ""):
            break
        time.sleep(0.05)
    else:
        raise AssertionError(client.run(run))
    client.call("POST", f"/v1/runs/{run}/cancel", {})


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/self/environ", "../../../etc/passwd"])
def test_files_outside_the_roots_are_refused(server, path):
    run, _ = load(server, f"file://{path}" if path.startswith("/") else path)
    assert run["state"] == "failed"
    assert "outside the folders" in run["error"]["message"]


def test_a_link_out_of_the_roots_is_refused(server):
    (server.data_dir / "files" / "link.csv").symlink_to("/etc/passwd")
    run, _ = load(server, f"file://{server.data_dir}/files/link.csv")
    assert "outside the folders" in run["error"]["message"]


def test_a_destination_outside_the_roots_is_refused_when_it_is_started(server):
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": "file:///x"})
    end = client.add("destinations", type="duckdb", name="d", input={"path": "/tmp/evil.duckdb"})
    task = client.add("tasks", source=source["id"], destination=end["id"], action="append")
    with pytest.raises(CallerError, match="outside the folders"):
        client.start(task["id"])


def test_hostile_column_names_are_only_names(server):
    names = ['a"b', "c'd", "; drop table t; --", "select", "ünï", "x" * 300, "a.b", "$1", "{}"]
    header = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    body = f"{header}\n{','.join(str(n) for n in range(len(names)))}\n".encode()
    run, end = load(server, file(server, "hostile.csv", body))
    assert run["state"] == "succeeded", run
    [row] = server.client.rows(end, "t")
    assert row == {name: n for n, name in enumerate(names)}


def test_a_hostile_table_name_is_only_a_name(server):
    table = 't"; drop table x; --'
    run, end = load(server, file(server, "x.csv", ROWS), table=table)
    assert run["state"] == "succeeded"
    import urllib.parse

    page = server.client.call("GET", f"/v1/tables/{end}/{urllib.parse.quote(table, safe='')}/rows")
    assert len(page["rows"]) == 2


def test_an_archive_bomb_stops(server):
    path = server.data_dir / "files" / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("zeros.csv", "w") as member:
            for _ in range(200):
                member.write(b"\0" * (1 << 20))
    run, _ = load(server, f"file://{path}")
    assert run["state"] == "failed"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"type": "csv", "name": "s", "input": {}}, "input"),
        ({"type": "csv", "name": "s", "input": {"url": "x", "nope": 1}}, "input"),
        ({"type": "csv", "name": "s", "input": {"url": 5}}, "input.url"),
        ({"type": "csv", "name": "", "input": {"url": "x"}}, "name"),
        ({"type": "nope", "name": "s", "input": {}}, "type"),
        ({"type": "csv", "name": "s", "input": {"url": "x", "mapping": {"a": "int"}}}, "input"),
        ({"type": "csv", "name": "s", "input": {"url": "x", "delimiter": "||"}}, "input.delimiter"),
        ({"type": "csv", "input": {"url": "x"}}, "name"),
        ({"type": "csv", "name": "s", "input": {"url": "x"}, "extra": 1}, "extra"),
    ],
)
def test_a_bad_source_is_refused_by_the_field(server, members, field):
    with pytest.raises(CallerError) as caught:
        server.client.add("sources", **members)
    assert caught.value.field == field


def test_actions_that_a_destination_cannot_do_are_refused_by_name(server):
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": "x"})["id"]
    lake = client.add(
        "destinations", type="parquet", name="d", input={"path": str(server.data_dir / "files/l")}
    )["id"]
    with pytest.raises(OwnerError, match="cannot do 'save'"):
        client.add("tasks", source=source, destination=lake, action="save", key=["id"])
    index = client.add("destinations", type="search", name="i", input={"indexName": "i"})["id"]
    with pytest.raises(OwnerError, match="needs a key"):
        client.add("tasks", source=source, destination=index, action="save")


def test_unknown_things_are_not_found(server):
    for path in ("/v1/runs/x", "/v1/tasks/x", "/v1/sources/x", "/v1/destinations/x"):
        with pytest.raises(NotFound):
            server.client.call("GET", path)
    with pytest.raises(NotFound):
        server.client.call("GET", "/v1/tables/x/t/rows")


def test_no_key_and_a_wrong_key_are_refused_everywhere(server):
    pool = urllib3.PoolManager()
    for path, status in (("/v1/runs", 401), ("/1/runs", 403), ("/v1/sources", 401)):
        for headers in ({}, {"Authorization": "Bearer nope", "x-algolia-api-key": "nope"}):
            answer = pool.request("GET", server.client.url + path, headers=headers)
            assert answer.status == status, path
            assert b"nope" not in answer.data
    pool.clear()


def test_a_foreign_host_header_is_refused_on_loopback(server):
    pool = urllib3.PoolManager()
    for host, status in (("evil.example", 403), ("evil.example:80", 403), ("localhost:1", 200)):
        headers = {"Authorization": f"Bearer {KEY}", "Host": host}
        answer = pool.request("GET", server.client.url + "/v1/runs", headers=headers)
        assert answer.status == status
    pool.clear()


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b'"x"', b"{" * 100_000, b"null"])
@pytest.mark.parametrize("path", ["/v1/sources", "/1/sources", "/2/tasks", "/1/authentications"])
def test_a_body_that_is_no_object_is_the_callers_fault(server, path, body):
    pool = urllib3.PoolManager()
    headers = {
        "Authorization": f"Bearer {KEY}", "x-algolia-api-key": KEY,
        "x-algolia-application-id": "default",
    }  # fmt: skip
    answer = pool.request("POST", server.client.url + path, body=body, headers=headers)
    assert answer.status == 400
    assert b"Traceback" not in answer.data
    pool.clear()


def test_a_body_over_the_limit_is_too_large(server):
    pool = urllib3.PoolManager()
    body = json.dumps({"name": "x" * (9 << 20)}).encode()
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = pool.request("POST", server.client.url + "/v1/sources", body=body, headers=headers)
    assert answer.status == 413
    packed = gzip.compress(body)
    answer = pool.request(
        "POST", server.client.url + "/v1/sources", body=packed,
        headers=headers | {"Content-Encoding": "gzip"},
    )  # fmt: skip
    assert answer.status == 413
    pool.clear()


def test_two_tasks_for_one_duckdb_file_wait_for_each_other_and_both_succeed(server):
    client = server.client
    path = server.data_dir / "files" / "shared.duckdb"
    end = client.add("destinations", type="duckdb", name="d", input={"path": str(path)})["id"]
    runs = []
    for table in ("one", "two", "three"):
        source = client.add(
            "sources", type="csv", name="s", input={"url": file(server, f"{table}.csv", ROWS)}
        )
        task = client.add(
            "tasks", source=source["id"], destination=end, action="replace", table=table
        )
        runs.append(client.start(task["id"])["id"])
    assert [client.wait(run, 60)["state"] for run in runs] == ["succeeded"] * 3
    assert len(list(client.rows(end, "two"))) == 2


def test_a_duckdb_file_that_somebody_else_holds_is_waited_for_visibly(server):
    import subprocess
    import sys

    path = server.data_dir / "files" / "held.duckdb"
    holder = subprocess.Popen(
        [sys.executable, "-c",
         f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print(1, flush=True);"
         " sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    holder.stdout.readline()
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": file(server, "h.csv", ROWS)})
    end = client.add("destinations", type="duckdb", name="d", input={"path": str(path)})
    task = client.add("tasks", source=source["id"], destination=end["id"], action="replace")
    run = client.start(task["id"])["id"]
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if f"held by PID {holder.pid}" in (client.run(run)["waitingFor"] or ""):
            break
        time.sleep(0.05)
    else:
        raise AssertionError(client.run(run))
    holder.communicate()
    assert client.wait(run, 60)["state"] == "succeeded"


def test_a_stream_tells_a_run_from_start_to_end(server):
    client = server.client
    run, _ = load(server, file(server, "stream.csv", ROWS))
    pool = urllib3.PoolManager()
    answer = pool.request(
        "GET", f"{client.url}/v1/runs/{run['id']}/stream",
        headers={"Authorization": f"Bearer {KEY}"}, timeout=20,
    )  # fmt: skip
    text = answer.data.decode()
    assert "event: end" in text
    assert '"state":"succeeded"' in text
    pool.clear()


def test_many_starts_at_once_are_all_answered(server):
    client = server.client
    source = client.add("sources", type="csv", name="s", input={"url": file(server, "m.csv", ROWS)})
    end = client.add("destinations", type="search", name="i", input={"indexName": "many"})
    task = client.add("tasks", source=source["id"], destination=end["id"], action="replace")
    answers = []

    def start():
        try:
            answers.append(client.start(task["id"], key="same")["id"])
        except HeadraceError as error:
            answers.append(error)

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 1
