"""Aliases, as a dialect reads and writes them."""

from collections.abc import Sequence

from headrace.domain.alias import Kind
from headrace.domain.principal import Principal
from headrace.store import aliases
from headrace.store.database import Database


class Aliases:
    """Names of things in every tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, things: Sequence[str]) -> dict[str, str]:
        """Return the aliases of things, by their ids."""
        with self._database.read() as tx:
            return aliases.of(tx, things)

    def find(self, caller: Principal, alias: str, *kinds: Kind) -> str | None:
        """Return the id of the thing of one of `kinds` that an alias names."""
        with self._database.read() as tx:
            found = (aliases.find(tx, caller.tenant.id, kind, alias) for kind in kinds)
            return next(filter(None, found), None)
