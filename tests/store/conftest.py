"""The same store on both databases."""

import copy

import pytest

from headrace.domain.principal import Principal, Role
from headrace.domain.resources import Destination, Source
from headrace.domain.run import Trigger
from headrace.security.vault import Vault
from headrace.service.access import Access
from headrace.service.catalog import Catalog
from headrace.service.queue import Queue
from headrace.service.runs import Runs
from headrace.settings import Settings
from headrace.store.database import Database
from headrace.store.migrate import migrate


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """An empty store, brought up to date."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'control.db'}"
    else:
        url = request.getfixturevalue("fresh_database")
    opened = Database(url)
    migrate(opened)
    yield opened
    opened.close()


class World:
    """A store with one tenant, and as many tasks as wanted."""

    def __init__(self, database, folder):
        self.database = database
        self.vault = Vault(bytes(32))
        self.access = Access(database, self.vault)
        self.tenant, self.key = self.access.first_start("")
        self.catalog = Catalog(database, self.vault)
        (folder / "files").mkdir(exist_ok=True)
        self.folder = folder
        self.woken = 0
        self.caller = Principal(tenant=self.tenant, role=Role.ADMIN, key="k", key_id="k")
        self.runs = Runs(database, self.catalog, Settings(data_dir=folder), self._wake)

    def another(self, name):
        """Return the same world for another tenant."""
        other = copy.copy(self)
        other.tenant = self.access.add_tenant(name, f"{name}-key-0123456789")
        other.caller = Principal(tenant=other.tenant, role=Role.ADMIN, key="k", key_id="k")
        return other

    def _wake(self):
        self.woken += 1

    def limit(self, name, most=None, per_minute=None):
        self.runs.limit(self.caller, name, most=most, per_minute=per_minute)

    def queue(self, holder="one", lease_ms=60_000):
        return Queue(self.database, holder, lease_ms, chance=lambda: 0.0)

    def task(self, file="a", source=None):
        source = source or self.source()
        end = self.catalog.add_end(
            Destination,
            self.tenant.id, type_="duckdb", name="d",
            given={"path": str(self.folder / "files" / f"{file}.duckdb")},
        )  # fmt: skip
        return self.catalog.add_task(
            self.tenant.id, source=source.id, destination=end.id, action="replace"
        )

    def source(self):
        return self.catalog.add_end(
            Source, self.tenant.id, type_="csv", name="s", given={"url": "file:///x.csv"}
        )

    def start(self, task, key=None):
        return self.runs.start(self.tenant.id, task.id, trigger=Trigger.API, key=key)

    def state(self, run):
        return self.runs.get(self.tenant.id, run.id).state


@pytest.fixture
def world(database, tmp_path):
    return World(database, tmp_path)
