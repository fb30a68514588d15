"""Loads by SQLAlchemy, killed at every step: the next attempt ends with every row once."""

import os
import signal
import subprocess
import sys
import threading

import msgspec
import pytest
import sqlalchemy as sa

from headrace.assembly import work
from headrace.contract.destination import TIDY_EVERY
from headrace.domain.errors import LostClaim, Refused
from headrace.engine.plan import Stopped
from headrace.service.orders import Order
from tests.engine import MYSQL, Memory, Rig, order

KINDS = ["sqlite", "sqlalchemy", MYSQL]
STEPS = ("fence_raised", "half_staged", "staged", "before_commit", "in_commit", "committed")
# The whole of it in a process of its own: the order, as a server gives it.
CHILD = """
import sys, msgspec
from headrace.assembly import work
from headrace.service.orders import Order
from tests.engine import Memory
work(msgspec.json.decode(sys.stdin.buffer.read(), type=Order), Memory())
"""
ACTIONS = ("replace", "append", "save")
LEFT = {
    "replace": {2: "new2", 3: "new3"}, "save": {1: "old1", 2: "new2", 3: "new3"},
    "append": {1: "old1", 2: "new2", 3: "new3"},
}  # fmt: skip


@pytest.fixture(params=KINDS)
def rig(request, tmp_path, fresh):
    made = Rig(request.param, tmp_path, fresh(request.param))
    made.kind = request.param
    return made


def steps(action: str, kind: str) -> list[tuple[int, str]]:
    """Return every step in the long form; else a third, so that each meets each kind."""
    every = list(enumerate(STEPS))
    if os.environ.get("HEADRACE_FAULTS") == "all":
        return every
    turn = ACTIONS.index(action) + len(kind)
    return [one for one in every if (one[0] + turn) % len(ACTIONS) == 0]


def killed(order_: Order, point: str) -> bool:
    """Do an order in a process that is killed at a step; tell whether it got there."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=msgspec.json.encode(order_), check=False,
        env=os.environ | {"HEADRACE_FAULT": f"child.{point}"}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode != 0


@pytest.mark.faults
@pytest.mark.parametrize("action", ACTIONS)
def test_a_kill_at_any_step_neither_loses_nor_doubles_a_row(rig, action):
    before = "id,name\n1,old1\n" if action == "append" else "id,name\n1,old1\n2,old2\n"
    (rig.folder / "b.csv").write_text("id,name\n2,new2\n3,new3\n")
    key = ("id",) if action == "save" else ()
    for number, point in steps(action, rig.kind):
        rig.load("a.csv", before, key=key)
        coming = order(
            rig.folder, ("csv", {"url": str(rig.folder / "b.csv")}), rig.end, action=action,
            key=key, fence=100 + number * 10,
        )  # fmt: skip
        assert killed(coming, point), f"{point} was never reached"
        rig.fence = 100 + number * 10 + 5
        receipt = work(msgspec.structs.replace(coming, attempt=2, fence=rig.fence), Memory())
        assert receipt.quarrel() is None
        assert {row["id"]: row["name"] for row in rig.rows()} == LEFT[action], point
        assert len(rig.rows()) == len(LEFT[action]), point
        assert receipt.books.read == 2
        assert not left_over(rig), point


def asked(rig, query: str) -> list[str]:
    """Ask the database itself."""
    name, settings = rig.end
    urls = {
        "sqlite": f"sqlite:///{settings.get('path')}",
        "mysql": settings.get("url", "").replace("mysql://", "mysql+pymysql://"),
        "sqlalchemy": settings.get("url"),
    }
    args = {"password": "p@ss/wörd".encode()} if name == "mysql" else {}
    engine = sa.create_engine(urls[name], poolclass=sa.NullPool, connect_args=args)
    with engine.begin() as con:
        found = con.execute(sa.text(query)) if query else None
        if found is None:
            return sa.inspect(con).get_table_names()
        return list(found.scalars()) if found.returns_rows else []


def left_over(rig) -> list[str]:
    """Return the stages that are still there."""
    return [name for name in asked(rig, "") if name.startswith(("_headrace_s", "_headrace_k"))]


def test_a_stale_fence_is_refused(rig):
    rig.fence = 4
    rig.load("a.csv", "id\n1\n")
    rig.fence = 2
    with pytest.raises(LostClaim):
        rig.load("a.csv", "id\n2\n")
    assert rig.rows() == [{"id": 1}]


@pytest.mark.parametrize("action", ["replace", "append"])
def test_a_zombie_that_has_staged_already_cannot_publish(rig, action):
    if rig.kind == "sqlite":
        pytest.skip("one load at a time has the file")
    rig.load("a.csv", "id\n1\n")
    staged, go_on = threading.Event(), threading.Event()

    class Zombie(Memory):
        def told(self, phase, **more):
            super().told(phase, **more)
            if phase == "committing":
                staged.set()
                go_on.wait(20)

    outcome = []

    def load(fence, journal):
        source = "csv", {"url": str(rig.folder / "a.csv")}
        return work(order(rig.folder, source, rig.end, action=action, fence=fence), journal)

    def be_a_zombie():
        try:
            load(10, Zombie())
        except (LostClaim, Stopped) as error:
            outcome.append(error)

    thread = threading.Thread(target=be_a_zombie)
    thread.start()
    assert staged.wait(20)
    load(11, Memory())
    go_on.set()
    thread.join()
    assert isinstance(outcome[0], LostClaim), outcome
    assert len(rig.rows()) == (1 if action == "replace" else 2)


@pytest.mark.parametrize("action", ["append", "replace"])
def test_a_constraint_of_the_table_is_told_and_stays(rig, action):
    rig.load("a.csv", "id,n\n1,5\n")
    asked(rig, "create unique index only_one on t (id)")
    with pytest.raises(Stopped) as stopped:
        rig.load("a.csv", "id,n\n2,5\n2,6\n", action)
    assert isinstance(stopped.value.error, Refused)
    assert "constraint" in stopped.value.error.message
    assert rig.rows() == [{"id": 1, "n": 5}]
    rig.load("a.csv", "id,n\n3,7\n", "replace")
    assert rig.rows() == [{"id": 3, "n": 7}]
    with pytest.raises(Stopped):
        rig.load("a.csv", "id,n\n3,5\n", "append")


def test_old_notes_go(rig):
    for _fence in (1, 2):
        rig.load("a.csv", "id\n1\n")
    asked(rig, "update _headrace_commits set committed_at = '2020-01-01 00:00:00' where fence = 1")
    rig.fence = TIDY_EVERY - 1
    rig.load("a.csv", "id\n1\n")  # the one that tidies
    assert asked(rig, "select fence from _headrace_commits order by fence") == [2, TIDY_EVERY]


def test_names_and_values_of_any_kind(rig):
    text = 'id,"a ""b""",100%,order\n1,"x\'; drop table t; --",%s %(a)s,\\\n2,"","ü😀\nline",null\n'
    rig.load("a.csv", text, key=("id",))
    rig.load("a.csv", text, "save", key=("id",))
    found = {row["id"]: row for row in rig.rows()}
    assert found[1] == {"id": 1, 'a "b"': "x'; drop table t; --", "100%": "%s %(a)s", "order": "\\"}
    assert found[2] == {"id": 2, 'a "b"': "", "100%": "ü😀\nline", "order": "null"}
