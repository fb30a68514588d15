"""Retention: what is older than is wished for is really removed, a little at a time."""

from collections.abc import Callable
from typing import Final

from headrace.domain.clock import Millis
from headrace.domain.ids import RunId
from headrace.observe.log import logger
from headrace.service.runs import Runs
from headrace.service.uploads import Uploads
from headrace.store import audit, hooks, retention, triggers
from headrace.store.database import Database

DAY_MS: Final = 86_400_000
AT_ONCE: Final = 100  # runs looked up at once
EVENTS_AT_ONCE: Final = 5_000  # removed in one transaction: others must get in between


class Retention:
    """Forgets what ended more than `days` ago, deeds after `audit_days`; 0 days: nothing."""

    def __init__(
        self, database: Database, started: Runs, uploads: Uploads, days: float,
        audit_days: float = 0,
    ) -> None:  # fmt: skip
        self._audit_days = audit_days
        self._database = database
        self._runs = started
        self._uploads = uploads
        self._days = days

    def clean(self, stopped: Callable[[], bool] = lambda: False) -> int:
        """Remove what is old; return how many runs. Safe beside other servers, and to be killed."""
        removed = self._clean(stopped) if self._days else 0
        with self._database.begin() as tx:
            hooks.forget_calls(tx, Millis(tx.now - DAY_MS))  # no call is taken that long after
            triggers.forget(tx, Millis(tx.now - DAY_MS))
            if self._audit_days:
                audit.forget(tx, Millis(tx.now - round(self._audit_days * DAY_MS)))
        self._runs.sweep()
        self._uploads.sweep()
        if removed:
            logger().info("old runs removed", runs=removed)
        return removed

    def _clean(self, stopped: Callable[[], bool]) -> int:
        removed = 0
        while not stopped():
            with self._database.read() as tx:
                before = Millis(tx.now - round(self._days * DAY_MS))
                found = retention.old_runs(tx, before, AT_ONCE)
            for run, events in found:
                if events > EVENTS_AT_ONCE:
                    self._drop_events(run, stopped)
                with self._database.begin() as tx:
                    retention.forget_run(tx, run)
                removed += 1
            if not found:
                break
        for forget in (retention.forget_executions, retention.forget_uploads):
            gone = AT_ONCE
            while gone == AT_ONCE and not stopped():
                with self._database.begin() as tx:
                    before = Millis(tx.now - round(self._days * DAY_MS))
                    gone = forget(tx, before, AT_ONCE)
        return removed

    def _drop_events(self, run: RunId, stopped: Callable[[], bool]) -> None:
        gone = EVENTS_AT_ONCE
        while gone and not stopped():
            with self._database.begin() as tx:
                gone = retention.drop_events(tx, run, EVENTS_AT_ONCE)
