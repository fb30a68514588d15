"""The cleaner: has old things removed, every ten minutes."""

import threading
from typing import Final

from headrace.domain.errors import Unavailable
from headrace.observe.log import logger
from headrace.service.retention import Retention

FIRST_S: Final = 30.0  # after the start: there is more urgent work
EVERY_S: Final = 600.0


class Cleaner:
    """A thread of its own: long removals hold up nobody."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="headrace-cleaner", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _loop(self) -> None:
        wait_s = FIRST_S
        while not self._stop.wait(wait_s):
            wait_s = EVERY_S
            try:
                if removed := self._retention.clean(self._stop.is_set):
                    logger().info("old runs removed", runs=removed)
            except Unavailable:
                continue  # the dispatcher tells of it
            except Exception:
                logger().exception("cleaner")
