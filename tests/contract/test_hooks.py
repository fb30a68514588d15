"""Hooks: signed calls start a task or a job; each message once, whoever sends it again."""

import threading
import time

import pytest
import urllib3

from headrace.domain.errors import CallerError
from headrace.security import webhooks
from tests.e2e.test_jobs import Shop
from tests.serving import KEY, serving


class Sender:
    def __init__(self, server):
        self.server, self.shop = server, Shop(server)
        self.http = urllib3.PoolManager(retries=False, maxsize=50)
        self.n = 0

    def hook(self, **given):
        made = self.shop.call("POST", "/v1/hooks", {"name": "shop"} | given)
        assert made["secret"].startswith("whsec_")
        return made

    def headers(self, hook, body=b"{}", message=None, seconds=None, secret=None):
        self.n += 1
        message = message or f"msg_{self.n}"
        seconds = int(time.time()) if seconds is None else seconds
        signature = webhooks.sign(secret or hook["secret"], message, seconds, body)
        return {
            "webhook-id": message,
            "webhook-timestamp": str(seconds),
            "webhook-signature": signature,
        }

    def send(self, hook, headers, body=b"{}", status=202):
        answer = self.http.request(
            "POST", self.server.client.url + hook["path"], body=body, headers=headers
        )
        assert answer.status == status, answer.data
        return answer.json()


@pytest.fixture(scope="module")
def sender(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("hooks") / "data") as server:
        yield Sender(server)


def test_the_signature_is_that_of_the_specification():
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    signed = webhooks.sign(
        secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_call_starts_a_task_and_the_same_message_again_does_not(sender):
    task, _ = sender.shop.task()
    hook = sender.hook(task=task)
    headers = sender.headers(hook)
    first = sender.send(hook, headers)["execution"]
    assert sender.shop.wait(first)["state"] == "succeeded"
    assert sender.shop.call("GET", f"/v1/executions/{first}")["trigger"] == "hook"
    assert sender.send(hook, headers)["execution"] == first  # sent again, as senders do
    assert sender.shop.call("GET", f"/v1/runs?task={task}")["total"] == 1
    again = sender.send(hook, sender.headers(hook))["execution"]
    assert again != first
    sender.shop.wait(again)
    deeds = [
        one for one in sender.shop.call("GET", "/v1/audit")["items"] if one["deed"] == "hook.called"
    ]
    assert (deeds[0]["thing"], deeds[0]["key"]) == (again, "shop")


def test_fifty_of_one_message_at_once_are_one_run(sender):
    task, _ = sender.shop.task()
    hook = sender.hook(task=task)
    headers, found = sender.headers(hook), []
    threads = [threading.Thread(target=lambda: found.append(sender.send(hook, headers)["execution"]))
               for _ in range(50)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 50
    assert len(set(found)) == 1
    sender.shop.wait(found[0])
    assert sender.shop.call("GET", f"/v1/runs?task={task}")["total"] == 1


def test_calls_that_come_while_one_is_at_work_are_one_more(sender):
    slow = "id,n\n" + "".join(f"{n},{n}\n" for n in range(200_000))
    task, _ = sender.shop.task(slow)
    job = sender.shop.job(sender.shop.task(slow)[0])
    for hook, listed in ((sender.hook(task=task), f"/v1/runs?task={task}"),
                         (sender.hook(job=job, mode="full"), f"/v1/executions?job={job}")):  # fmt: skip
        first = sender.send(hook, sender.headers(hook))["execution"]
        time.sleep(1)  # it is at work
        for _ in range(5):
            sender.send(hook, sender.headers(hook))
        sender.shop.wait(first)
        until = time.monotonic() + 30
        while True:
            items = sender.shop.call("GET", listed)["items"]
            if len(items) == 2 and all(one["finishedAt"] for one in items):
                break
            assert time.monotonic() < until, items
            time.sleep(0.1)
        time.sleep(1)
        assert len(sender.shop.call("GET", listed)["items"]) == 2


def test_what_is_not_signed_starts_nothing(sender):
    task, _ = sender.shop.task()
    hook, other = sender.hook(task=task), sender.hook(task=task)
    good = sender.headers(hook)
    now = int(time.time())
    for headers, told in (
        ({}, "not signed"), ({"authorization": f"Bearer {KEY}"}, "not signed"),
        (sender.headers(hook, secret=other["secret"]), "another secret"),
        (sender.headers(hook, body=b"other"), "another secret"),
        (sender.headers(hook, seconds=now - 301), "300 s ago"), (sender.headers(hook, seconds=now + 400), "300 s ago"),
        (good | {"webhook-timestamp": "yesterday"}, "seconds since 1970"),
        (good | {"webhook-id": "another"}, "another secret"), (good | {"webhook-id": "x" * 300}, "at most 255"),
        (good | {"webhook-signature": "v1,"}, "another secret"), (good | {"webhook-signature": "v1,\xff"}, "another secret"),
    ):  # fmt: skip
        assert told in sender.send(hook, headers, status=401)["title"]
    assert sender.shop.call("GET", f"/v1/runs?task={task}")["total"] == 0
    # Of several signatures (a secret that changes) one is enough.
    sender.send(hook, good | {"webhook-signature": f"v1a,xx {good['webhook-signature']}"})
    for path in ("/v1/hooks/x/call", "/v1/hooks/01a00000-0000-7000-8000-000000000000/call"):
        sender.send({"path": path}, good, status=404)
    sender.shop.call("DELETE", f"/v1/hooks/{hook['id']}")
    sender.send(hook, sender.headers(hook), status=404)


def test_hooks_are_listed_without_their_secrets_and_refused_for_what_is_not_there(sender):
    task, _ = sender.shop.task()
    made = sender.hook(task=task)
    listed = sender.shop.call("GET", "/v1/hooks")["items"]
    assert made["id"] in {one["id"] for one in listed}
    assert all("secret" not in one for one in listed)
    for given, field in (({}, "task"), ({"task": task, "job": task}, "task"), ({"task": "x"}, "task"),
                         ({"job": task}, "job"), ({"name": " ", "task": task}, "name"),
                         ({"task": task, "mode": "half"}, "mode")):  # fmt: skip
        with pytest.raises(CallerError) as caught:
            sender.shop.call("POST", "/v1/hooks", {"name": "n"} | given)
        assert field in caught.value.field
    sender.shop.call("PATCH", f"/v1/tasks/{task}", {"enabled": False})
    assert "disabled" in sender.send(made, sender.headers(made), status=400)["title"]
    sender.shop.call("DELETE", f"/v1/tasks/{task}")
    assert "gone" in sender.send(made, sender.headers(made), status=404)["title"]
