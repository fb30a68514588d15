"""A secret goes into a connector's settings and nowhere else: every outlet is searched for it."""

import base64
import json
import subprocess
import sys

import urllib3

from tests.serving import KEY, send, serving, website

CANARY = "canary-4f1c9e-secret"
IN_URL = "canary-77aa31-token"


def test_a_secret_is_found_in_no_outlet(tmp_path):
    seen = []

    def answer(request):
        seen.append(request.headers.get("Authorization"))
        if request.path.startswith("/fail"):
            send(request, b"no", 404)
        else:
            send(request, b"id,name\n1,a\nx,b,c\n")

    outlets = []
    with website(answer) as site, serving(tmp_path / "data") as server:
        client = server.client
        pool = urllib3.PoolManager()
        headers = {
            "x-algolia-api-key": KEY, "x-algolia-application-id": "default",
            "Authorization": f"Bearer {KEY}",
        }  # fmt: skip

        def call(method, path, body=None):
            answer = pool.request(method, client.url + path, json=body, headers=headers)
            outlets.append(answer.data)
            return json.loads(answer.data)

        owner = call(
            "POST", "/1/authentications",
            {"type": "basic", "name": "b", "input": {"username": "u", "password": CANARY}},
        )["authenticationID"]  # fmt: skip
        call("GET", f"/1/authentications/{owner}")
        call("GET", "/1/authentications")
        call("PATCH", f"/1/authentications/{owner}", {"input": {"password": CANARY + "2"}})
        call("PATCH", f"/1/authentications/{owner}", {"input": {"nope": CANARY}})
        call("PATCH", f"/1/authentications/{owner}", {"input": {"password": CANARY}})
        end = call(
            "POST", "/v1/destinations",
            {"type": "duckdb", "name": "d", "input": {"path": str(tmp_path / "data/files/o.duckdb")}},
        )["id"]  # fmt: skip
        dead = call(
            "POST", "/v1/destinations",
            {"type": "postgresql", "name": "p",
             "input": {"url": f"postgresql://me:{CANARY}@127.0.0.1:1/x"}},
        )["id"]  # fmt: skip
        call("GET", f"/v1/destinations/{dead}")
        for path, where in (("/x.csv", end), ("/fail.csv", end), ("/x.csv", dead)):
            source = call(
                "POST", "/v1/sources",
                {"type": "csv", "name": "s", "input": {"url": site + path},
                 "authenticationID": owner},
            )["id"]  # fmt: skip
            task = call(
                "POST", "/v1/tasks",
                {"source": source, "destination": where, "action": "append", "failureThreshold": 60},
            )["id"]  # fmt: skip
            run = call("POST", f"/v1/tasks/{task}/runs", {})["id"]
            if where == dead:
                import time

                time.sleep(2)
                call("POST", f"/v1/runs/{run}/cancel", {})
            client.wait(run, 60)
            for view in ("", "/events", "/receipt", "/rejects", "/files", "/stream"):
                outlets.append(
                    pool.request("GET", f"{client.url}/v1/runs/{run}{view}", headers=headers).data
                )
            outlets.append(
                pool.request("GET", f"{client.url}/1/runs/{run}/events", headers=headers).data
            )
        pool.request(
            "GET",
            f"{client.url}/1/runs?x-algolia-api-key={IN_URL}&x-algolia-application-id=default",
        )
        outlets.append(
            subprocess.run(
                [sys.executable, "-m", "headrace", "ingest", "nope.csv",
                 f"postgresql://me:{CANARY}@127.0.0.1:1/x"],
                capture_output=True, cwd=tmp_path, check=False,
            ).stderr
        )  # fmt: skip
        pool.clear()
    expected = base64.b64encode(f"u:{CANARY}".encode()).decode()
    assert f"Basic {expected}" in seen  # the connector did get it
    outlets.append(server.log.read_bytes())
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            outlets.append(path.read_bytes())
    assert len(outlets) > 40
    for outlet in outlets:
        assert CANARY.encode() not in outlet
        assert IN_URL.encode() not in outlet
        assert expected.encode() not in outlet
