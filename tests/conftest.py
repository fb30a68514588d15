"""Fixtures that several rooms share: a real PostgreSQL, databases of one's own in it."""

from urllib.parse import unquote, urlsplit

import psycopg
import pymysql
import pytest

from headrace.domain.ids import new_id
from tests.mariadb import mariadb
from tests.postgres import postgres


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
