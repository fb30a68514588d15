"""The audit log, as it is looked at."""

from headrace.domain.principal import Principal, Role
from headrace.service.access import need
from headrace.store import audit
from headrace.store.database import Database
from headrace.store.paging import Window


class Audit:
    """Who did what, in every tenant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def listed(self, caller: Principal, window: Window) -> tuple[list[audit.Entry], int]:
        """Return one page of deeds, newest first, and how many there are. For admins."""
        need(caller, Role.ADMIN)
        with self._database.read() as tx:
            return audit.listed(tx, caller.tenant.id, window)
