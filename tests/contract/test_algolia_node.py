"""The official clients in JavaScript (Algolia's, Celonis's), where npm can be reached."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving import KEY, serving

PACKAGES = (
    "@algolia/ingestion@1.64.0", "algoliasearch@5.64.0", "@celonis/content-cli@1.15.0",
)  # fmt: skip
SCRIPT = Path(__file__).with_name("algolia_client.mjs")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm is not here")
    folder = tmp_path_factory.mktemp("node")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if done.returncode:
        pytest.skip(f"npm cannot install the clients: {done.stderr[-300:]}")
    (folder / SCRIPT.name).write_text(SCRIPT.read_text())
    return folder


def test_the_javascript_clients_work_unchanged(node, tmp_path):
    with serving(tmp_path / "data") as server:
        csv = server.data_dir / "files" / "js.csv"
        csv.write_text("sku,n\na,1\nb,2\n")
        port = server.client.url.rpartition(":")[2]
        done = subprocess.run(
            ["node", SCRIPT.name, port, KEY, f"file://{csv}"], cwd=node, capture_output=True,
            text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3_000:]
    told = json.loads(done.stdout)
    assert told["authentication"]["input"] == {"username": "u", "password": None}
    assert (told["run"]["outcome"], told["run"]["reasonCode"]) == ("success", "ok")
    assert told["watched"]["message"]
    assert told["chunks"] == 2
    assert told["tasks"] == 2
    assert told["missing"]["status"] == 404
    assert told["refused"]["status"] == 403
    assert told["last"] == {"objectID": "last", "n": -1}
    assert told["hits"] == 2 + 300 + 1200 + 1


def test_the_content_cli_of_celonis_lists_every_pool(node, tmp_path):
    """It goes on from page to page: a hundred at once."""
    with serving(tmp_path / "data") as server:
        made = [
            server.client.call("POST", "/v1/pools", {"name": f"pool {n}"})["id"] for n in range(130)
        ]
        done = subprocess.run(
            [node / "node_modules" / ".bin" / "content-cli", "list", "data-pools"], cwd=node,
            env=os.environ | {"TEAM_URL": server.client.url, "API_TOKEN": KEY},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert all(
            f"Pool Id: {id_} - Pool Name: pool {n}" in done.stdout for n, id_ in enumerate(made)
        )
        done = subprocess.run(
            [node / "node_modules" / ".bin" / "content-cli", "list", "data-pools"], cwd=node,
            env=os.environ | {"TEAM_URL": server.client.url, "API_TOKEN": "wrong"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert "Pool Id" not in done.stdout
