"""HTTPS by the server itself."""

import os
import ssl
import subprocess
import sys
import time

import pytest
import urllib3

from headrace.domain.errors import Invalid
from headrace.security.tls import checked, self_signed
from headrace.settings import from_env
from tests.serving import KEY


def started(folder, *options):
    command = [
        sys.executable,
        "-m",
        "headrace",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(folder / "data"),
        *options,
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"HEADRACE_ADMIN_KEY": KEY}
        )
    until = time.monotonic() + 30
    while "listens on" not in (text := (folder / "log").read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < until
        time.sleep(0.05)
    return process, text.partition("listens on ")[2].split()[0]


def test_a_certificate_of_its_own_is_made_once_and_can_be_trusted(tmp_path):
    for _ in range(2):
        process, url = started(tmp_path, "--tls-self-signed")
        try:
            assert url.startswith("https://127.0.0.1:")
            trusting = urllib3.PoolManager(
                ca_certs=str(tmp_path / "data" / "tls.crt"), retries=False
            )
            answer = trusting.request(
                "GET", f"{url}/v1/runs", headers={"authorization": f"Bearer {KEY}"}
            )
            assert answer.status == 200
            with pytest.raises(urllib3.exceptions.SSLError):
                urllib3.PoolManager(retries=False).request("GET", f"{url}/healthz")
            made = (tmp_path / "data" / "tls.crt").read_bytes()
        finally:
            process.terminate()
            process.wait(20)
        (tmp_path / "log").unlink()
    assert (tmp_path / "data" / "tls.crt").read_bytes() == made
    assert oct((tmp_path / "data" / "tls.key").stat().st_mode)[-3:] == "600"


def test_a_certificate_that_is_given_is_used_and_a_wrong_one_refused(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        self_signed(tmp_path / name, "ingest.example")
    certificate, key = checked(tmp_path / "one" / "tls.crt", tmp_path / "one" / "tls.key")
    context = ssl.create_default_context(cafile=str(certificate))
    assert context.get_ca_certs()
    process, url = started(tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key))
    process.terminate()
    process.wait(20)
    assert url.startswith("https://")
    for pair in (
        (certificate, tmp_path / "two" / "tls.key"),
        (certificate, tmp_path / "none"),
        (key, key),
    ):
        with pytest.raises(Invalid):
            checked(*pair)
    with pytest.raises(Invalid):
        from_env({}, tls_cert=certificate)
    with pytest.raises(Invalid):
        from_env({}, tls_cert=certificate, tls_key=key, tls_self_signed=True)
