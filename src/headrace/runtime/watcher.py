"""The watcher: looks at the sources that triggers wait for."""

import threading
from typing import Final

from headrace.domain.errors import Unavailable
from headrace.observe.log import logger
from headrace.service.triggers import Triggers

POLL_S: Final = 0.5


class Watcher:
    """A thread of its own: a website that does not answer holds up nobody else."""

    def __init__(self, triggers: Triggers) -> None:
        self._triggers = triggers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="headrace-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _loop(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                self._triggers.look(self._stop.is_set)
            except Unavailable:
                continue  # the dispatcher tells of it
            except Exception:
                logger().exception("watcher")
