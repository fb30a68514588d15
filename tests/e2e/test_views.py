"""One execution, five dialects: they agree, and docs/five-views.md shows what they say."""

import importlib.util
import math
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def views():
    spec = importlib.util.spec_from_file_location("views", ROOT / "docs" / "views.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def found(views):
    return views.collected()


def seconds(text):
    return math.floor(datetime.fromisoformat(text).timestamp())


def test_they_agree(found):
    says = {name: call.answer for name, call in found.items()}
    [table] = says["Amperity"]["tables"]
    assert {call.status for call in found.values()} == {200}
    assert (says["Algolia"]["outcome"], says["Celonis"]["status"], table["state"], says["IBM"]["last_status"],
            says["Lucidum"]["state"]) == ("success", "SUCCESS", "succeeded", "successful", "success")  # fmt: skip
    # Three kept, one broken, one doubled: the same counts wherever counts are told.
    assert {name: table[name] for name in ("read", "errors", "rejected", "inserted", "updated")} == {
        "read": 5, "errors": 1, "rejected": 1, "inserted": 3, "updated": 0}  # fmt: skip
    assert says["Algolia"]["progress"] == {"expectedNbOfEvents": 5, "receivedNbOfEvents": 5}
    assert says["Algolia"]["reason"] == "5 read, 3 inserted, 0 updated, 2 rejected."
    # The same moments, as exactly as each tells them.
    assert seconds(says["Algolia"]["startedAt"]) == seconds(table["started_at"]) == seconds(
        says["Lucidum"]["start_date"])  # fmt: skip
    assert seconds(says["IBM"]["last_import_time"]) == seconds(says["Lucidum"]["end_date"])
    assert says["IBM"]["last_success_time"] == says["IBM"]["last_import_time"]


def test_the_page_shows_what_they_say(views, found):
    assert views.masked(views.page(found)) == views.masked(views.PAGE.read_text()), (
        "run `make docs`"
    )
