"""Failures are told by mail, through a real SMTP server on loopback."""

import time
from email import message_from_bytes

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from headrace.domain.errors import Invalid
from headrace.settings import from_env
from tests.faults.test_pushes import Pusher
from tests.ports import free_port
from tests.serving import serving

WHO = {
    "HEADRACE_MAIL_FROM": "headrace@example.test",
    "HEADRACE_MAIL_TO": "a@example.test, b@example.test",
}


class Inbox:
    def __init__(self):
        self.mails = []
        self.refuse = 0

    async def handle_DATA(self, server, session, envelope):  # noqa: N802  # aiosmtpd's name
        if self.refuse:
            self.refuse -= 1
            return "451 come back later"
        mail = message_from_bytes(envelope.content)
        self.mails.append((envelope.rcpt_tos, mail["Subject"], mail.get_payload()))
        return "250 OK"

    def wait(self, count, seconds=20):
        until = time.monotonic() + seconds
        while len(self.mails) < count and time.monotonic() < until:
            time.sleep(0.05)
        assert len(self.mails) >= count
        return self.mails


def logged_in(server, session, envelope, mechanism, data):
    good = (data.login, data.password) == (b"us", b"pass word")
    return AuthResult(success=good)


pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")


@pytest.fixture
def smtp():
    inbox = Inbox()
    controller = Controller(
        inbox, hostname="127.0.0.1", port=free_port(), authenticator=logged_in, auth_required=True,
        auth_require_tls=False,
    )  # fmt: skip
    controller.start()
    inbox.port = controller.port
    yield inbox
    controller.stop()


def task(pusher, **more):
    source = pusher.call("POST", "/1/sources", {
        "type": "csv", "name": "s", "input": {"url": "file:///nowhere/secret.csv"}})["sourceID"]  # fmt: skip
    end = pusher.call("POST", "/1/destinations", {
        "type": "search", "name": "d", "input": {"indexName": "m"}})["destinationID"]  # fmt: skip
    return pusher.call("POST", "/2/tasks", {
        "sourceID": source, "destinationID": end, "action": "replace"} | more)["taskID"]  # fmt: skip


def fail(pusher, id_):
    run = pusher.call("POST", f"/2/tasks/{id_}/run")["runID"]
    until = time.monotonic() + 20
    while pusher.call("GET", f"/1/runs/{run}")["status"] != "finished":
        assert time.monotonic() < until
        time.sleep(0.05)
    return run


def test_a_block_and_wished_failures_are_told_by_mail(smtp, tmp_path):
    smtp.refuse = 0
    url = f"smtp://us:pass%20word@127.0.0.1:{smtp.port}"
    with serving(tmp_path / "data", HEADRACE_SMTP=url, **WHO) as server:
        pusher = Pusher(server)
        silent = {"notifications": {"email": {"enabled": False}}}
        twice = {"policies": {"criticalThreshold": 2}}
        quiet = task(pusher, **twice, **silent)
        fail(pusher, quiet), fail(pusher, quiet)
        assert pusher.call("GET", f"/2/tasks/{quiet}")["enabled"] is False
        usual = task(pusher, **twice)
        fail(pusher, usual)
        run = fail(pusher, usual)
        (to, subject, body), = smtp.wait(1)  # fmt: skip
        assert to == ["a@example.test", "b@example.test"]
        assert usual in subject
        assert "is blocked" in subject
        assert run in body
        assert "After 2 critical failures" in body
        eager = task(pusher, notifications={"email": {"enabled": True}})
        fail(pusher, eager)
        assert f"{eager} failed" in smtp.wait(2)[1][1]
        time.sleep(3)  # nothing more, and nothing twice
        assert len(smtp.mails) == 2


def test_a_mail_that_cannot_be_sent_is_tried_again(smtp, tmp_path, monkeypatch):
    url = f"smtp://us:pass%20word@127.0.0.1:{smtp.port}"
    smtp.refuse = 1
    with serving(tmp_path / "data", HEADRACE_SMTP=url, **WHO) as server:
        pusher = Pusher(server)
        eager = task(pusher, notifications={"email": {"enabled": True}})
        fail(pusher, eager)
        until = time.monotonic() + 10
        while "mail not sent" not in server.log.read_text():  # and it is known to be put off
            assert time.monotonic() < until
            time.sleep(0.05)
        server.kill()  # while the mail waits
        server.start(HEADRACE_SMTP=url, **WHO)
        assert eager in smtp.wait(1, 40)[0][1]


@pytest.mark.parametrize(("env", "field"), [
    ({"HEADRACE_SMTP": "mail.example"}, "HEADRACE_SMTP"),
    ({"HEADRACE_SMTP": "smtp://h:x"}, "HEADRACE_SMTP"),
    ({"HEADRACE_SMTP": "smtp://h"}, "HEADRACE_SMTP"),
    ({"HEADRACE_MAIL_TO": "nobody"}, "HEADRACE_MAIL_TO"),
    ({"HEADRACE_MAIL_FROM": "a@b\r\nBcc: c@d"}, "HEADRACE_MAIL_FROM"),
])  # fmt: skip
def test_mail_settings_that_are_wrong_are_named(env, field):
    with pytest.raises(Invalid) as caught:
        from_env(env)
    assert caught.value.field == field
