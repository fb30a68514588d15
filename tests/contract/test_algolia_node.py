"""The official JavaScript clients, where npm and its registry can be reached."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.serving import KEY, serving

PACKAGES = ("@algolia/ingestion@1.64.0", "algoliasearch@5.64.0")
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
