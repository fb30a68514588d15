"""The same store on both databases."""

import pytest

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
