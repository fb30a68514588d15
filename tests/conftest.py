"""What all rooms share: a real PostgreSQL, databases of one's own in it, who runs which tests."""

from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest
from _pytest.nodeid import NodeId

from headrace.domain.ids import new_id
from tests.mariadb import mariadb
from tests.postgres import postgres


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items):
    """Have one worker run all tests that share a fixture of their module: it is made once."""
    for item in items:
        made = item._fixtureinfo.name2fixturedefs.values()
        shares = any(one.scope == "module" for some in made for one in some)
        if shares and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    yield
    for item in items:  # pytest-xdist writes a group where pytest does not look for it since 9.2
        if grouped := item.__dict__.get("_nodeid"):
            item._id = NodeId.parse(grouped)


@pytest.fixture(scope="session")
def postgres_url():
    """The URL of a running PostgreSQL; fails loudly when none can be started."""
    with postgres() as url:
        yield url


@pytest.fixture
def fresh_database(postgres_url):
    """A new, empty database; gone afterwards."""
    name = f"t{new_id().replace('-', '')}"
    with psycopg.connect(postgres_url, autocommit=True) as con:
        con.execute(f"create database {name}")
    yield postgres_url.rpartition("/")[0] + f"/{name}"
    with psycopg.connect(postgres_url, autocommit=True) as con:
        con.execute(f"drop database if exists {name} with (force)")


@pytest.fixture(scope="session")
def mariadb_url():
    """The URL of a running MariaDB: for tests of the group "databases", so that one is enough."""
    with mariadb() as url:
        yield url


@pytest.fixture
def fresh_mysql(mariadb_url):
    """The URL of an empty database of MariaDB."""
    parts = urlsplit(mariadb_url)
    with pymysql.connect(
        host="127.0.0.1", port=parts.port, user=parts.username,
        password=unquote(parts.password).encode(), autocommit=True,
    ) as con, con.cursor() as cursor:  # fmt: skip
        cursor.execute("set foreign_key_checks = 0")
        cursor.execute("drop database test")
        cursor.execute("create database test character set utf8mb4")
    return mariadb_url


@pytest.fixture
def fresh(request):
    """Return the URL of an empty database of a kind; nothing where it needs no server."""
    names = {"mysql": "fresh_mysql"} | dict.fromkeys(("postgresql", "sqlalchemy"), "fresh_database")
    return lambda kind: request.getfixturevalue(names[kind]) if kind in names else ""
