"""A strict fake of Algolia's search and insights services, for the paths that headrace uses.

It is a fake: it holds what their documentation says (paths, bodies, limits, the order of tasks), and
answers everything else with an error and a note in `wrong`, which every test looks at.
"""

import contextlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

APP, KEY = "FAKEAPP", "fake-algolia-key"
RIGHTS = ("addObject", "deleteObject", "deleteIndex", "editSettings", "search", "browse")
RECORD_BYTES_MAX = 100_000
VERBS = {"addObject", "updateObject", "partialUpdateObject", "partialUpdateObjectNoCreate",
         "deleteObject"}  # fmt: skip


class Fake:
    """Indexes, tasks and events. `trouble(method, path)` may give a status to answer instead."""

    def __init__(self):
        self.indexes = {}
        self.settings = {}
        self.events = []
        self.calls = []
        self.wrong = []
        self.rights = set(RIGHTS)
        self.trouble = lambda method, path: None
        self.slow_tasks = 0  # how often a task is told to be unpublished
        self._polled = {}
        self._task = 0
        self._lock = threading.Lock()

    def answer(self, method, path, headers, body):
        with self._lock:
            self.calls.append((method, path))
            try:
                if status := self.trouble(method, path):
                    return status, {"message": "trouble", "status": status}
                if headers.get("x-algolia-application-id") != APP or (
                    headers.get("x-algolia-api-key") != KEY
                ):
                    return 403, {"message": "Invalid Application-ID or API key", "status": 403}
                given = json.loads(body) if body else None
                return self._answer(method, path, given, body)
            except (AssertionError, KeyError, ValueError, TypeError) as error:
                self.wrong.append((method, path, repr(error)))
                return 400, {"message": f"unexpected: {error!r}", "status": 400}

    def _may(self, right):
        if right not in self.rights:
            raise PermissionError(right)

    def _answer(self, method, path, given, body):
        parts = [unquote(part) for part in path.strip("/").split("/")]
        try:
            match (method, *parts):
                case ("GET", "1", "keys", key):
                    assert key == KEY
                    return 200, {"acl": sorted(self.rights), "value": key, "createdAt": 0}
                case ("POST", "1", "indexes", "*", "objects"):
                    self._may("search")
                    assert 1 <= len(given["requests"]) <= 1_000
                    return 200, {"results": [self._find(one) for one in given["requests"]]}
                case ("POST", "1", "indexes", name, "batch"):
                    return self._batch(name, given, body)
                case ("POST", "1", "indexes", name, "query"):
                    self._may("search")
                    assert given["hitsPerPage"] == 0
                    return 200, {"nbHits": len(self._index(name)), "hits": [], "query": ""}
                case ("POST", "1", "indexes", name, "browse"):
                    self._may("browse")
                    assert set(given) <= {"cursor", "hitsPerPage"}
                    rows = list(self._index(name).values())
                    at, size = (json.loads(given["cursor"]) if "cursor" in given
                                else (0, given["hitsPerPage"]))  # fmt: skip
                    more = (
                        {"cursor": json.dumps([at + size, size])} if at + size < len(rows) else {}
                    )
                    return 200, {"hits": rows[at : at + size], "nbHits": len(rows)} | more
                case ("POST", "1", "indexes", name, "operation"):
                    return self._operation(name, given)
                case ("GET", "1", "indexes", _, "task", task):
                    assert int(task) <= self._task
                    polled = self._polled[task] = self._polled.get(task, 0) + 1
                    done = polled > self.slow_tasks
                    return 200, {"status": "published" if done else "notPublished"}
                case ("DELETE", "1", "indexes", name):
                    self._may("deleteIndex")
                    self.indexes.pop(name, None)
                    self.settings.pop(name, None)
                    return 200, {"taskID": self._next(), "deletedAt": "2026-01-01T00:00:00Z"}
                case ("POST", "1", "events"):
                    return self._take_events(given, body)
        except PermissionError as error:
            return 403, {"message": f"Method not allowed with this API key ({error})"}
        except LookupError as error:
            if error.args[0] != "no index":
                raise
            return 404, {"message": "Index does not exist", "status": 404}
        raise AssertionError("no such path")

    def _next(self):
        self._task += 1
        return self._task

    def _index(self, name):
        if name not in self.indexes:
            raise LookupError("no index")
        return self.indexes[name]

    def _find(self, wanted):
        assert set(wanted) <= {"indexName", "objectID", "attributesToRetrieve"}
        assert wanted["attributesToRetrieve"] == ["objectID"]
        found = self._index(wanted["indexName"]).get(wanted["objectID"])
        return {"objectID": found["objectID"]} if found else None

    def _batch(self, name, given, body):
        assert set(given) == {"requests"}
        assert len(body) <= 10 << 20, "more than 10 MB"
        requests = given["requests"]
        assert 1 <= len(requests) <= 1_000
        for place, one in enumerate(requests):
            assert set(one) == {"action", "body"}
            assert one["action"] in VERBS
            self._may("deleteObject" if one["action"] == "deleteObject" else "addObject")
            assert isinstance(one["body"]["objectID"], str)
            size = len(json.dumps(one["body"], separators=(",", ":"), ensure_ascii=False).encode())
            if size > RECORD_BYTES_MAX:
                return 400, {
                    "message": f"Record at the position {place} objectID={one['body']['objectID']}"
                    f" is too big size={size}/{RECORD_BYTES_MAX} bytes.", "status": 400,
                }  # fmt: skip
        index = self.indexes.setdefault(name, {})
        for one in requests:
            id_, document = one["body"]["objectID"], one["body"]
            match one["action"]:
                case "deleteObject":
                    index.pop(id_, None)
                case "partialUpdateObject":
                    index[id_] = index.get(id_, {}) | document
                case "partialUpdateObjectNoCreate" if id_ in index:
                    index[id_] = index[id_] | document
                case "addObject" | "updateObject":
                    index[id_] = document
        return 200, {"taskID": self._next(), "objectIDs": [o["body"]["objectID"] for o in requests]}

    def _operation(self, name, given):
        self._may("addObject")
        if given["operation"] == "copy":
            assert given["scope"] == ["settings", "rules", "synonyms"]
            self._index(name)
            self.indexes.setdefault(given["destination"], {})
            self.settings[given["destination"]] = self.settings.get(name)
        else:
            assert set(given) == {"operation", "destination"}
            self.indexes[given["destination"]] = self._index(name)
            self.settings[given["destination"]] = self.settings.pop(name, None)
            del self.indexes[name]
        return 200, {"taskID": self._next(), "updatedAt": "2026-01-01T00:00:00Z"}

    def _take_events(self, given, body):
        assert set(given) == {"events"}
        assert len(body) < 2_000_000
        assert 1 <= len(given["events"]) <= 1_000
        for event in given["events"]:
            if not {"eventType", "eventName", "index", "userToken"} <= set(event):
                return 422, {"message": "The event is invalid", "status": 422}
        self.events += given["events"]
        return 200, {"message": "OK", "status": 200}


@contextlib.contextmanager
def algolia_fake():
    """Serve a fake on loopback; yield it with its `url`. What it found wrong fails the test."""
    fake = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            status, said = fake.answer(self.command, urlsplit(self.path).path, self.headers, body)
            if status == "cut":
                self.connection.close()
                self.close_connection = True
                return
            text = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_DELETE = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
    assert fake.wrong == []


def until(look, seconds=60):
    """Wait for what must come, on a machine that others use too; return it."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
