"""Calls of Algolia's services through its own client: hosts, retries, errors in our words."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import requests
from algoliasearch.http.base_config import BaseConfig
from algoliasearch.http.exceptions import AlgoliaUnreachableHostException, RequestException
from algoliasearch.http.hosts import Host, HostsCollection
from algoliasearch.search.client import SearchClientSync
from algoliasearch.search.config import SearchConfig

from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Misconfigured, Refused, Unavailable
from headrace.domain.secret import Secret

WAITS_S: Final = (0.2, 1.0, 3.0)  # between the tries of a call; the client tries several hosts each
PUBLISHED_S: Final = 1_800.0  # until a task of the service must be done
POLL_S: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SETTLED_S: Final = 10.0  # until a count that is looked up must be right
_APPLICATION: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_RIGHTS: Final = "Look at the authentication's application, key, and the rights of the key."


def checked(app_id: str | None, api_key: Secret | None, type_: str) -> tuple[str, str]:
    """Return the credentials. Raises Misconfigured where they are missing or cannot be right."""
    if app_id is None or api_key is None:
        raise Misconfigured(
            f"The destination needs an authentication of type {type_}.", field="authenticationID"
        )
    if not _APPLICATION.fullmatch(app_id):  # it becomes a part of a host's name
        raise Misconfigured("appID must be letters and digits.", field="input.appID")
    return app_id, api_key.reveal()


class Service:
    """One service of Algolia. `named` is its name among the operator's hosts."""

    def __init__(self, config: BaseConfig, named: str, tools: Tools) -> None:
        self._config = config
        self._host = tools.hosts.get(named, "")
        self._tools = tools
        config.proxies = None
        self.reset()

    def reset(self) -> None:
        """Try again the hosts that did not answer: the client gives up on them for minutes."""
        if not self._host:
            self._config.hosts = None
            self._config.set_default_hosts()  # type: ignore[attr-defined]  # of each client's own
            return
        parts = urlsplit(self._host)
        place = f"{parts.netloc}{parts.path}".rstrip("/")
        self._config.hosts = HostsCollection([Host(place, scheme=parts.scheme)])

    def call(self, do: Callable[[], Any]) -> Any:
        """Make a call (`…_with_http_info`) and return its decoded answer.

        Raises Unavailable when it was tried often enough, Refused when Algolia says no.
        """
        for wait_s in (*WAITS_S, None):
            try:
                return msgspec.json.decode(do().raw_data or "{}")
            except (AlgoliaUnreachableHostException, requests.RequestException) as error:
                if wait_s is None:
                    raise Unavailable(
                        "Algolia does not answer.", hint="It will be tried again."
                    ) from error
                self.reset()
            except RequestException as error:
                if error.status_code != 429 or wait_s is None:
                    raise told(error) from error
            except msgspec.DecodeError as error:
                raise Refused("Algolia answered something that is not JSON.") from error
            time.sleep(wait_s)
        raise AssertionError


def told(error: RequestException) -> HeadraceError:
    """Say in our words why Algolia refused."""
    message = str(error.message or error)[:500].rstrip(".")
    if error.status_code == 429:
        return Unavailable(f"Algolia has too much to do: {message}.")
    refused = Refused(
        f"Algolia refused ({error.status_code}): {message}.",
        hint=_RIGHTS if error.status_code in (401, 403) else "",
        field="authenticationID" if error.status_code in (401, 403) else "",
    )
    refused.facts["status"] = error.status_code
    return refused


class Index:
    """The calls of the service that a load needs."""

    def __init__(self, name: str, app_id: str, api_key: str, tools: Tools) -> None:
        config = SearchConfig(app_id, api_key)
        self.name = name
        self._key = api_key
        self._service = Service(config, "algolia", tools)
        self._client = SearchClientSync.create_with_config(config)
        self._tools = tools

    def rights(self) -> Sequence[str]:
        """Return what the key may do."""
        found = self._service.call(lambda: self._client.get_api_key_with_http_info(self._key))
        return list(found.get("acl", ()))

    def batch(self, name: str, verb: str, documents: Sequence[dict[str, Any]]) -> int:
        """Send one batch; return the number of its task. Raises unless every record is named."""
        given = {"requests": [{"action": verb, "body": document} for document in documents]}
        said = self._service.call(lambda: self._client.batch_with_http_info(name, given))
        if len(said.get("objectIDs", ())) != len(documents):
            raise Refused(
                f"Algolia confirmed {len(said.get('objectIDs', ())):,} of {len(documents):,}"
                " records of a batch."
            )
        return int(said["taskID"])

    def known(self, ids: Sequence[str]) -> set[str] | None:
        """Return those of the objects named that are there; None if the key may not look."""
        given = {
            "requests": [
                {"indexName": self.name, "objectID": id_, "attributesToRetrieve": ["objectID"]}
                for id_ in ids
            ]
        }
        try:
            said = self._service.call(lambda: self._client.get_objects_with_http_info(given))
        except Refused as error:
            if error.facts.get("status") == 404:  # no such index yet
                return set()
            if error.facts.get("status") == 403:
                return None
            raise
        return {row["objectID"] for row in said["results"] if row is not None}

    def entries(self, name: str) -> int | None:
        """Return how many records an index has; None if the key may not look."""
        params = {"query": "", "hitsPerPage": 0, "analytics": False, "distinct": False}
        try:
            said = self._service.call(
                lambda: self._client.search_single_index_with_http_info(name, params)
            )
        except Refused as error:
            if error.facts.get("status") == 404:
                return 0
            if error.facts.get("status") == 403:
                return None
            raise
        return int(said["nbHits"])

    def settled(self, name: str, expected: int) -> int | None:
        """Return how many records an index has, when the count is right or time is up."""
        until = time.monotonic() + SETTLED_S
        while (found := self.entries(name)) not in (None, expected) and time.monotonic() < until:
            time.sleep(0.5)
        return found

    def copy_settings(self, target: str) -> None:
        """Give another index the settings, rules and synonyms of this one, if it is there."""
        scope = ["settings", "rules", "synonyms"]
        given = {"operation": "copy", "destination": target, "scope": scope}
        try:
            self._operate(self.name, given, target)
        except Refused as error:
            if error.facts.get("status") != 404:
                raise

    def move_here(self, name: str) -> None:
        """Put another index in this one's place."""
        self._operate(name, {"operation": "move", "destination": self.name}, name)

    def _operate(self, name: str, given: dict[str, Any], waiting: str) -> None:
        said = self._service.call(lambda: self._client.operation_index_with_http_info(name, given))
        self.wait(waiting, [int(said["taskID"])])

    def delete(self, name: str) -> None:
        """Delete an index; one that is not there is deleted."""
        try:
            said = self._service.call(lambda: self._client.delete_index_with_http_info(name))
        except Refused as error:
            if error.facts.get("status") != 404:
                raise
        else:
            self.wait(name, [int(said["taskID"])])

    def wait(self, name: str, tasks: Sequence[int]) -> None:
        """Wait until tasks are published. Raises Unavailable after half an hour."""
        for place, task in enumerate(tasks):
            until = time.monotonic() + PUBLISHED_S
            polls = iter(POLL_S)
            while True:
                if self._published(name, task):
                    break
                if time.monotonic() > until:
                    raise Unavailable(f"Algolia has not published its task {task} in time.")
                self._tools.told(
                    "Algolia publishes", done=place, total=len(tasks), phase="committing"
                )
                time.sleep(next(polls, POLL_S[-1]))

    def _published(self, name: str, task: int) -> bool:
        said = self._service.call(lambda: self._client.get_task_with_http_info(name, task))
        return bool(said.get("status") == "published")

    def browse(self, limit: int, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """Return a page of records, and where the next begins."""
        given: dict[str, Any] = {"cursor": cursor} if cursor else {"hitsPerPage": min(limit, 1_000)}
        said = self._service.call(lambda: self._client.browse_with_http_info(self.name, given))
        return list(said["hits"]), said.get("cursor")
