"""A chore: something that is done again and again on a thread of its own, and holds up nobody."""

import threading
from collections.abc import Callable

from headrace.domain.errors import Unavailable
from headrace.observe.log import logger


class Chore:
    """Does `work` every `every_s` seconds, for the first time after `first_s`, until it is stopped.

    Whatever goes wrong is logged, and tried again. `work` is handed what tells whether to stop.
    """

    def __init__(
        self, name: str, work: Callable[[Callable[[], bool]], object], *, every_s: float,
        first_s: float | None = None,
    ) -> None:  # fmt: skip
        self._name = name
        self._work = work
        self._every_s = every_s
        self._first_s = every_s if first_s is None else first_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"headrace-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _loop(self) -> None:
        wait_s = self._first_s
        while not self._stop.wait(wait_s):
            wait_s = self._every_s
            try:
                self._work(self._stop.is_set)
            except Unavailable:
                continue  # the dispatcher tells of it
            except Exception:
                logger().exception(self._name)
