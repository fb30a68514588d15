"""Object stores as sources: the same for each, against servers that speak the real protocols."""

import base64
import contextlib
import gzip
import hashlib
import json
import os
import random
import socket
import threading
import time
import urllib.error
import urllib.request

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from headrace.assembly import work
from headrace.connectors.families import objects
from headrace.contract.tools import Known
from headrace.domain.errors import Cancelled, Denied, Misconfigured, Refused, Unavailable, Unchanged
from headrace.domain.run import Range
from headrace.domain.shape import Shape
from headrace.engine.plan import Stopped
from tests.algolia_fake import until
from tests.e2e.test_triggers import Shop
from tests.engine import Memory, order
from tests.object_stores import STORES
from tests.proxy import proxied
from tests.serving import send, serving, website

pytestmark = pytest.mark.xdist_group("objects")


@pytest.fixture(scope="module")
def running():
    """Stores that have been started, by scheme."""
    with contextlib.ExitStack() as stack:
        found = {}

        def get(scheme):
            if scheme not in found:
                found[scheme] = stack.enter_context(STORES[scheme]())
            return found[scheme]

        yield get


@pytest.fixture(params=["s3", "az", "gs"])
def rig(request, running):
    found = running(request.param)
    yield found
    found.empty()


@pytest.fixture
def s3_rig(running):
    found = running("s3")
    yield found
    found.empty()


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch):
    for name in list(os.environ):
        if name.startswith(objects.CLOUDS):
            monkeypatch.delenv(name)


def loaded(folder, source, *, kind="csv", journal=None, **more):
    destination = ("duckdb", {"path": str(folder / "o.duckdb")})
    return work(order(folder, (kind, source), destination, **more), journal or Memory())


def rows(folder, sql="select * from t order by all"):
    with duckdb.connect(str(folder / "o.duckdb"), read_only=True) as con:
        return con.execute(sql).fetchall()


def names(receipt):
    return [file.name for file in receipt.files]


def test_globs_name_what_they_name_on_a_disk(rig, tmp_path):
    keys = ["in/a.csv", "in/b.csv", "in/sub/c.csv", "in/sub/deep/d.csv", "in/x.txt", "inside.csv", "z/a.csv"]  # fmt: skip
    for number, key in enumerate(keys):
        rig.put(key, f"id,k\n{number},{key}\n".encode())
        path = tmp_path / "disk" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"id,k\n{number},{key}\n")
    for pattern in ("in/*.csv", "in/**/*.csv", "**/a.csv", "in/", "in/sub/?.csv", "*.csv", "i*/[ab].csv", "in/b.csv"):  # fmt: skip
        there = loaded(tmp_path, rig.source(pattern))
        found = rows(tmp_path)
        here = loaded(tmp_path, {"url": f"{tmp_path}/disk/{pattern}"})
        assert found == rows(tmp_path)
        assert [name.removeprefix(rig.url("")) for name in names(there)] == [
            name.removeprefix(f"{tmp_path}/disk/") for name in names(here)
        ]
        assert there.tables[0].books.read == len(there.files)


def test_names_that_need_quoting_are_read_as_they_are(rig, tmp_path):
    keys = ["o/a b.csv", "o/ä€.csv", "o/x%20y.csv", "o/a+b&c=d.csv", "o/[z].csv"]
    if rig.scheme == "s3":
        keys += ["o/q?m.csv"]  # the other two servers here cut it off
    for key in keys:
        rig.put(key, f"k\n{key}\n".encode())
    loaded(tmp_path, rig.source("o/*.csv"))
    assert rows(tmp_path) == sorted((key,) for key in keys)
    for key in keys:
        receipt = loaded(tmp_path, rig.source(key))
        assert names(receipt) == [rig.url(key)]
        assert rows(tmp_path) == [(key,)]


def test_an_object_of_many_parts_comes_whole(rig, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PART_BYTES", 100_000)
    lines = [f"{number},{random.Random(number).random()}" for number in range(60_000)]
    body = ("id,x\n" + "\n".join(lines) + "\n").encode()
    rig.put("big/plain.csv", body)
    rig.put("big/packed.csv.gz", gzip.compress(body, 1))
    for key in ("big/plain.csv", "big/packed.csv.gz"):
        receipt = loaded(tmp_path, rig.source(key, mapping={"x": "string"}))
        assert receipt.tables[0].books.inserted == 60_000
        told = hashlib.sha256()
        for one in rows(tmp_path, "select id, x from t order by id"):
            told.update(f"{one[0]},{one[1]}\n".encode())
        assert told.digest() == hashlib.sha256(("\n".join(lines) + "\n").encode()).digest()


def test_of_a_parquet_object_only_the_columns_come_that_are_asked_for(rig, tmp_path):
    count, noise = 40_000, random.Random(1)
    texts = [noise.randbytes(40).hex() for _ in range(count)]
    table = pa.table(
        {
            "id": list(range(count)), "text": texts, "n": [str(number) for number in range(count)],
            "nested": [{"a": number, "b": text} for number, text in enumerate(texts)],
        }
    )  # fmt: skip
    path = tmp_path / "p.parquet"
    pq.write_table(table, path, row_group_size=9_000, compression="zstd")
    body = path.read_bytes()
    rig.put("cols/p.parquet", body)
    source = rig.source("cols/*.parquet", mapping={"n": "integer"})

    def load(**more):
        return loaded(tmp_path, source, kind="parquet", **more)

    few = load(shape=Shape(select=("id", "n"), compute={"twice": "id * 2"}))
    assert rows(tmp_path, "select count(*), sum(id), sum(n), sum(twice) from t") == [
        (count, sum(range(count)), sum(range(count)), 2 * sum(range(count))),
    ]  # fmt: skip
    assert few.files[0].bytes < len(body) / 4
    assert few.files[0].sha256 == ""  # nobody has seen all of it
    assert few.books.read == few.books.inserted == count
    nested = load(shape=Shape(select=("nested",)))
    assert nested.files[0].bytes > few.files[0].bytes
    assert rows(tmp_path, "select count(distinct nested->>'b') from t") == [(count,)]
    whole = load(shape=Shape(select=("id", "text", "n", "nested")))
    assert whole.files[0].bytes == len(body)
    assert whole.files[0].sha256 == hashlib.sha256(body).hexdigest()
    assert rows(tmp_path, "select text from t order by id") == [(text,) for text in texts]
    # A row that does not fit is kept with what has come of it.
    texts[7] = "seven"
    pq.write_table(table.set_column(2, "n", [texts]), path, row_group_size=9_000)
    rig.put("cols/p.parquet", path.read_bytes())
    with pytest.raises(Stopped) as stopped:
        load(shape=Shape(select=("id", "n")))
    assert stopped.value.error.code == "too_many_errors"


def test_parquet_and_json_come_from_there_too(rig, tmp_path):
    pq.write_table(pa.table({"id": [1, 2], "s": ["a", None]}), tmp_path / "p.parquet")
    rig.put("p/p.parquet", (tmp_path / "p.parquet").read_bytes())
    rig.put("p/j.jsonl", b'{"id":1}\n{"id":"x"}\n')
    loaded(tmp_path, rig.source("p/*.parquet"), kind="parquet")
    assert rows(tmp_path) == [(1, "a"), (2, None)]
    receipt = loaded(
        tmp_path, rig.source("p/j.jsonl", mapping={"id": "integer"}), kind="json", failure_threshold=50
    )  # fmt: skip
    assert receipt.tables[0].books.rejected == 1
    assert receipt.files[0].name == rig.url("p/j.jsonl")


def test_delta_reads_only_objects_that_have_changed(rig, tmp_path):
    rig.put("d/a.csv", b"id\n1\n")
    rig.put("d/b.csv", b"id\n2\n")
    first = loaded(tmp_path, rig.source("d/*.csv"), action="append")
    known = Known(versions={file.name: file.version for file in first.files})
    assert all(known.versions.values())
    with pytest.raises(Unchanged):
        loaded(tmp_path, rig.source("d/*.csv"), action="append", known=known)
    rig.put("d/c.csv", b"id\n3\n")
    rig.put("d/a.csv", b"id\n9\n")
    again = loaded(tmp_path, rig.source("d/*.csv"), action="append", known=known)
    assert names(again) == [rig.url("d/a.csv"), rig.url("d/c.csv")]
    assert rows(tmp_path) == [(1,), (2,), (3,), (9,)]


def test_a_range_is_when_objects_were_changed(rig, tmp_path):
    rig.put("r/a.csv", b"id\n1\n")
    future = Range(since="2100-01-01T00:00:00Z")
    with pytest.raises(Unchanged):
        loaded(tmp_path, rig.source("r/*.csv"), range=future)
    past = Range(since="2000-01-01T00:00:00Z", until="2100-01-01T00:00:00Z")
    assert loaded(tmp_path, rig.source("r/*.csv"), range=past).tables[0].books.read == 1


def test_what_is_not_there_is_told(rig, tmp_path):
    for key in ("no.csv", "no/*.csv", "no/"):
        with pytest.raises(Stopped) as caught:
            loaded(tmp_path, rig.source(key))
        assert isinstance(caught.value.error, Refused)
        assert f"No file matches {rig.url(key)}" in str(caught.value.error)
    elsewhere = rig.source("x.csv") | {"url": f"{rig.scheme}://nobucket/x.csv"}
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, elsewhere)
    if rig.scheme != "gs":  # that server answers for an unknown bucket as for an empty one
        assert "has no bucket 'nobucket'" in str(caught.value.error)
    with pytest.raises(Misconfigured, match="names no bucket"):
        told = rig.source("x.csv") | {"url": f"{rig.scheme}:///x.csv"}
        try:
            loaded(tmp_path, told)
        except Stopped as stopped:
            raise stopped.error from None


@pytest.mark.parametrize("given", [{"password": "d3Jvbmc="}, {"username": "", "password": ""}])
def test_wrong_and_missing_credentials_are_told(running, tmp_path, given):
    for scheme in ("s3", "az"):
        rig = running(scheme)
        rig.put("c/a.csv", b"id\n1\n")
        source = {name: value for name, value in (rig.source("c/*.csv") | given).items() if value}
        if scheme == "az" and not given["password"].strip("="):
            source["username"] = rig.settings["username"]  # whose account it is
        with pytest.raises(Stopped) as caught:
            loaded(tmp_path, source)
        assert "does not let us into" in str(caught.value.error), str(caught.value.error)
        assert "wrong" not in str(caught.value.error)
        rig.empty()


def test_the_environment_has_credentials_for_a_person_and_none_for_a_server(
    s3_rig, tmp_path, monkeypatch
):
    s3_rig.put("e/a.csv", b"id\n1\n")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_rig.settings["username"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_rig.settings["password"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_rig.settings["endpoint"])
    loaded(tmp_path, {"url": s3_rig.url("e/a.csv")})
    objects.forget_credentials()
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, s3_rig.source("e/a.csv") | {"username": "", "password": ""})
    assert "does not let us into" in str(caught.value.error)


def test_a_server_hands_its_own_credentials_to_nobody(s3_rig, tmp_path):
    s3_rig.put("e/a.csv", b"id\n1\n")
    env = {
        "AWS_ACCESS_KEY_ID": s3_rig.settings["username"],
        "AWS_SECRET_ACCESS_KEY": s3_rig.settings["password"],
    }
    with serving(tmp_path / "data", **env) as server:
        shop = Shop(server)
        own = {name: s3_rig.source("e/a.csv")[name] for name in ("url", "endpoint")}
        source = server.client.add("sources", type="csv", name="s", input=own)["id"]
        run = server.client.wait(server.client.start(shop.task(source))["id"])
        assert run["state"] == "failed"
        assert "does not let us into" in run["error"]["message"]
        # An authentication has them, sealed, and they are shown nowhere.
        login = server.client.add("authentications", type="basic", name="lake", input={
            name: s3_rig.settings[name] for name in ("username", "password")
        })  # fmt: skip
        assert login["input"]["password"] is None
        source = server.client.add(
            "sources", type="csv", name="s", input=own, authenticationID=login["id"]
        )["id"]
        run = server.client.wait(server.client.start(shop.task(source))["id"])
        assert run["state"] == "succeeded"
        assert s3_rig.settings["password"] not in str(
            server.client.call("GET", f"/v1/sources/{source}")
        )
        assert s3_rig.settings["password"] not in server.log.read_text()


def test_no_connection_goes_around_the_guard(s3_rig, tmp_path):
    """What listens on the network must not be led inside, by an endpoint or by a redirect."""
    s3_rig.put("g/a.csv", b"id\n1\n")
    for open_inside, endpoint in (
        (False, s3_rig.settings["endpoint"]),
        (True, "http://169.254.169.254"),
    ):
        with pytest.raises(Stopped) as caught:
            loaded(tmp_path, s3_rig.source("g/a.csv", endpoint=endpoint), open_inside=open_inside)
        assert isinstance(caught.value.error, Denied)
    with socket.create_server(("127.0.0.1", 0)) as bait:
        answer = (
            b"HTTP/1.1 307 Away\r\nLocation: http://169.254.169.254/x\r\nContent-Length: 0\r\n\r\n"
        )

        def lead_astray():
            while True:
                try:
                    guest, _ = bait.accept()
                except OSError:
                    return
                with guest:
                    while guest.recv(65536):
                        guest.sendall(answer)

        threading.Thread(target=lead_astray, daemon=True).start()
        endpoint = f"http://127.0.0.1:{bait.getsockname()[1]}"
        with pytest.raises(Stopped) as caught:
            loaded(tmp_path, s3_rig.source("g/a.csv", endpoint=endpoint))
        assert isinstance(caught.value.error, Denied)
        bait.shutdown(socket.SHUT_RDWR)


def test_an_object_that_changes_while_it_is_read_is_no_mixture(s3_rig, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PART_BYTES", 1000)
    s3_rig.put("m/a.csv", b"id\n" + b"1\n" * 5000)
    part = objects.Objects._part
    changed = threading.Event()

    def late(self, wanted, target, start, end):
        if start == 5000:
            s3_rig.put("m/a.csv", b"id\n" + b"2\n" * 5000)
            changed.set()
        elif start > 5000:
            changed.wait(10)
        return part(self, wanted, target, start, end)

    monkeypatch.setattr(objects.Objects, "_part", late)
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, s3_rig.source("m/a.csv"))
    assert isinstance(caught.value.error, Unavailable)
    assert "changed while it was read" in str(caught.value.error)


def test_a_store_that_cuts_or_stalls_is_asked_again(s3_rig, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "PART_BYTES", 200_000)
    monkeypatch.setattr(objects, "STALL_S", 3)
    s3_rig.put("f/a.csv", b"id\n" + b"1234567\n" * 200_000)
    with proxied(s3_rig.settings["endpoint"] + "/") as (proxy, url):
        source = s3_rig.source("f/a.csv", endpoint=url.rstrip("/"))

        part = objects.Objects._part

        def troubled(self, wanted, target, start, end):
            if start in (400_000, 800_000):
                proxy.cut()
            elif start == 1_200_000:
                proxy.stalls.set()
                threading.Timer(4, proxy.stalls.clear).start()  # longer than STALL_S
            return part(self, wanted, target, start, end)

        monkeypatch.setattr(objects.Objects, "_part", troubled)
        begun = time.monotonic()
        receipt = loaded(tmp_path, source)
        assert proxy.cuts > 0
        assert time.monotonic() - begun > 3
        assert receipt.tables[0].books.inserted == 200_000


def test_a_store_that_is_down_is_the_outside_s_fault(tmp_path):
    with pytest.raises(Stopped) as caught:
        loaded(
            tmp_path,
            {
                "url": "s3://lake/a.csv",
                "endpoint": "http://127.0.0.1:1",
                "username": "u",
                "password": "p",
            },
        )
    assert isinstance(caught.value.error, Unavailable)
    assert "127.0.0.1:1 refused the connection" in str(caught.value.error)


def test_a_cancel_ends_a_read_of_many_objects(s3_rig, tmp_path, monkeypatch):
    for number in range(60):
        s3_rig.put(f"k/{number:03}.csv", b"id\n1\n")
    journal = Memory()
    part = objects.Objects._part

    def slow(self, *given):
        time.sleep(0.1)
        if journal.phases:
            journal.cancel.set()
        return part(self, *given)

    monkeypatch.setattr(objects.Objects, "_part", slow)
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        loaded(tmp_path, s3_rig.source("k/*.csv"), journal=journal)
    assert time.monotonic() - begun < 5
    until(lambda: not [t for t in threading.enumerate() if t.name == "headrace-gate"])


def test_too_much_for_the_spool_is_refused_before_it_is_read(s3_rig, tmp_path, monkeypatch):
    s3_rig.put("s/a.csv", b"id\n" + b"1\n" * 500_000)
    monkeypatch.setattr(objects, "ROOM_BYTES", 1 << 60)
    with pytest.raises(Stopped) as caught:
        loaded(tmp_path, s3_rig.source("s/a.csv"))
    assert "do not fit into the spool" in str(caught.value.error)


def test_thousands_of_objects_are_one_run_with_books_a_file(s3_rig, tmp_path):
    for number in range(2_500):  # more than two pages of a listing
        s3_rig.put(f"n/{number:05}.csv", f"id\n{number}\n".encode())
    receipt = loaded(tmp_path, s3_rig.source("n/*.csv"))
    assert len(receipt.files) == 2_500
    assert all(file.books.read == file.books.inserted == 1 for file in receipt.files)
    assert rows(tmp_path, "select count(*), sum(id) from t") == [(2_500, 2_499 * 2_500 // 2)]


def test_new_objects_under_a_prefix_start_a_task(s3_rig, tmp_path):
    s3_rig.put("w/old.csv", b"id\n1\n")
    with serving(tmp_path / "data") as server:
        shop = Shop(server)
        source = server.client.add("sources", type="csv", name="s", input=s3_rig.source("w/"))["id"]
        task = shop.task(source)
        assert server.client.wait(server.client.start(task)["id"])["state"] == "succeeded"
        shop.trigger(source=source, task=task, mode="delta", every=1)
        time.sleep(3)
        assert len(shop.runs(task)) == 1  # what was there before is not new
        s3_rig.put("w/2026/11/new.csv", b"id\n2\n3\n")
        s3_rig.put("elsewhere/other.csv", b"id\n9\n")
        until(lambda: len(shop.succeeded(task)) == 2)
        end = server.client.call("GET", f"/v1/tasks/{task}")["destination"]
        assert sorted(row["id"] for row in server.client.rows(end, "t")) == [1, 2, 3]
        time.sleep(3)
        assert len(shop.runs(task)) == 2  # each state of the prefix once
        assert shop.runs(task)[0]["trigger"] == "watch"


def test_a_service_account_of_google_signs_what_it_asks(running, tmp_path):
    """The server here knows no sign-in: one before it checks the signature of every request."""
    rig = running("gs")
    for number in range(3):
        rig.put(f"signed/{number}.csv", f"id\n{number}\n".encode())
    key, other = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    claims = []

    def unpadded(text):
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    def relay(request):
        try:
            token = request.headers["Authorization"].removeprefix("Bearer ")
            signed, _, signature = token.rpartition(".")
            claimed = json.loads(unpadded(signed.partition(".")[2]))
            key.public_key().verify(unpadded(signature), signed.encode(), PKCS1v15(), SHA256())
            claims.append(claimed)
        except (AttributeError, InvalidSignature):
            send(request, b"<Error/>", 401)
            return
        with contextlib.suppress(urllib.error.HTTPError):
            path = (
                "/" + request.path.removeprefix("http://").partition("/")[2]
            )  # a proxy's has it all
            asked = urllib.request.Request(rig.settings["endpoint"] + path, method=request.command)
            for name in set(request.headers) & {"Range", "range"}:
                asked.add_header(name, request.headers[name])
            with urllib.request.urlopen(asked) as found:
                body, kept = (
                    found.read(),
                    {"Content-Length", "Connection", "Date", "Transfer-Encoding"},
                )
                headers = {name: value for name, value in found.headers.items() if name not in kept}
                send(request, body, found.status, **headers)
            return
        send(request, b"<Error/>", 404)

    def load(signer, endpoint):
        pem = signer.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        source = {
            "url": rig.url("signed/*.csv"),
            "endpoint": endpoint,
            "username": "reader@project.iam",
            "password": pem,
        }
        return work(
            order(tmp_path, ("csv", source), ("duckdb", {"path": str(tmp_path / "o.duckdb")})),
            Memory(),
        )

    (tmp_path / "data").mkdir()
    with website(relay) as endpoint:
        assert load(key, endpoint).books.inserted == 3
        assert {claim["iss"] for claim in claims} == {"reader@project.iam"}
        with pytest.raises(Stopped, match="does not let us into") as stopped:
            load(other, endpoint)
        assert isinstance(stopped.value.error, Refused)
