"""Fixtures that several rooms share: a real PostgreSQL, databases of one's own in it."""

import psycopg
import pytest

from headrace.domain.ids import new_id
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
