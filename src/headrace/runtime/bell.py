"""The bell: servers over one PostgreSQL wake each other (LISTEN, NOTIFY).

It only saves time: whoever misses a ring finds the work at the next look.
"""

import threading
from collections.abc import Callable
from typing import Final

import psycopg
import sqlalchemy as sa

from headrace.observe.log import logger
from headrace.store.database import Database

CHANNEL: Final = "headrace"
AGAIN_S: Final = 2.0  # after a connection was lost
LISTEN_S: Final = 0.5  # between two looks at whether to stop
GAP_S: Final = 0.01  # between two rings: a storm of changes is one


class Bell:
    """Rings the other servers, and hears them. `heard` is called on a thread of its own."""

    def __init__(self, database: Database, holder: str, heard: Callable[[], None]) -> None:
        self._url = database.url.set(drivername="postgresql").render_as_string(hide_password=False)
        self._database = database
        self._holder = holder
        self._heard = heard
        self._rung = threading.Event()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"headrace-{name}", daemon=True)
            for name, target in (("listener", self._listen), ("ringer", self._ring))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def ring(self) -> None:
        """Wake the others soon; never waits."""
        self._rung.set()

    def stop(self) -> None:
        self._stop.set()
        self._rung.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=5)

    def _ring(self) -> None:
        while not self._stop.wait(GAP_S):
            self._rung.wait()
            self._rung.clear()
            if self._stop.is_set():
                return
            try:
                with self._database.begin() as tx:
                    notify = sa.select(sa.func.pg_notify(CHANNEL, self._holder))
                    tx.con.execute(notify)
            except Exception as error:  # polling finds the work as well
                logger().warning("the other servers were not woken", error=str(error))

    def _listen(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self._url, autocommit=True, connect_timeout=10) as con:
                    con.execute(f"listen {CHANNEL}")
                    self._heard()  # something may have come before
                    while not self._stop.is_set():
                        for ring in con.notifies(timeout=LISTEN_S):
                            if ring.payload != self._holder:
                                self._heard()
            except psycopg.Error as error:
                logger().warning("not listening to the other servers", error=str(error))
                self._stop.wait(AGAIN_S)
