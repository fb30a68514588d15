"""The control database goes away: for less and for more than a lease, and as an older copy."""

import shutil
import subprocess
import time

import psycopg
import pytest

from headrace.domain.errors import HeadraceError
from tests.algolia_fake import until
from tests.faults.test_servers import Cluster, Shop, ended, rows, slow_site
from tests.postgres import Postgres

__all__ = ["slow_site"]


@pytest.fixture
def control():
    """A PostgreSQL of its own, that may be stopped."""
    with Postgres() as made:
        yield made


@pytest.fixture
def cluster(tmp_path, control):
    (tmp_path / "files").mkdir()
    made = Cluster(tmp_path, control.url)
    yield made
    made.stop()


def test_a_database_that_is_away_for_less_than_a_lease_costs_nothing(
    cluster, control, slow_site, fresh_database
):
    one = cluster.server("one", HEADRACE_LEASE="20")
    shop = Shop(one.client, slow_site.url, fresh_database)
    run = one.client.start(shop.task("slow"))["id"]
    until(lambda: slow_site.calls)
    control.stop("immediate")
    with pytest.raises(HeadraceError, match="control store"):
        one.client.run(run)
    time.sleep(2)
    control.start()
    until(lambda: answers(one, run))
    slow_site.free.set()
    found = ended(one.client, run)
    assert (found["state"], found["attempt"]) == ("succeeded", 1)
    assert rows(fresh_database, "slow") == (2, 2)


def answers(server, run):
    try:
        return server.client.run(run)
    except HeadraceError:
        return None


def test_a_database_that_is_away_for_longer_has_the_run_done_again(
    cluster, control, slow_site, fresh_database
):
    one = cluster.server("one", HEADRACE_LEASE="1.5")
    shop = Shop(one.client, slow_site.url, fresh_database)
    run = one.client.start(shop.task("slow"))["id"]
    until(lambda: slow_site.calls)
    children = subprocess.check_output(
        ["ps", "-o", "pid=", "--ppid", str(one.process.pid)], text=True
    ).split()
    control.stop("immediate")
    time.sleep(4)  # its holder has fenced itself off: the work is gone
    left = subprocess.run(["ps", "-o", "pid=", "-p", ",".join(children)], text=True,
                          capture_output=True, check=False).stdout.split()  # fmt: skip
    slow_site.free.set()
    time.sleep(1)
    with psycopg.connect(fresh_database) as con:  # nothing was published meanwhile
        assert con.execute("select to_regclass('public.slow')").fetchone() == (None,)
    assert len(left) < len(children)
    control.start()
    until(lambda: answers(one, run))
    found = ended(one.client, run)
    assert (found["state"], found["attempt"]) == ("succeeded", 2)
    assert rows(fresh_database, "slow") == (2, 2)


@pytest.mark.faults
def test_a_fail_over_to_an_older_copy_publishes_nothing_twice(
    cluster, control, slow_site, fresh_database, tmp_path
):
    """The copy knows neither the last run's end nor its fence; the destination does."""
    slow_site.free.set()
    one = cluster.server("one")
    shop = Shop(one.client, slow_site.url, fresh_database)
    task = shop.task("slow")
    one.client.call("POST", "/v1/server/pause")
    run = one.client.start(task)["id"]
    control.stop("fast")
    shutil.copytree(control.data, tmp_path / "copy", symlinks=True)
    control.start()
    until(lambda: answers(one, run))
    one.client.call("POST", "/v1/server/resume")
    assert ended(one.client, run)["state"] == "succeeded"
    for _ in range(3):  # fences that the copy has never given
        more = one.client.start(task)["id"]
        assert ended(one.client, more)["state"] == "succeeded"
    assert rows(fresh_database, "slow") == (8, 2)
    control.stop("immediate")
    shutil.rmtree(control.data)
    shutil.copytree(tmp_path / "copy", control.data, symlinks=True)
    control.own()
    control.start()
    until(lambda: answers(one, run))
    assert one.client.run(run)["state"] == "queued"
    one.client.call("POST", "/v1/server/resume")
    found = ended(one.client, run)
    assert found["state"] == "succeeded", found  # its commit was found, not made again
    assert rows(fresh_database, "slow") == (8, 2)
    another = one.client.start(task)["id"]
    assert ended(one.client, another)["state"] == "succeeded"
    assert rows(fresh_database, "slow") == (10, 2)
