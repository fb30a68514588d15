"""Rate limits: so many requests of one address in a window of time."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from headrace.domain.errors import TooMany
from headrace.settings import Rate

ADDRESSES_MAX: Final = 10_000  # then those whose window is over are forgotten


@dataclass(slots=True)
class Rates:
    """Counts requests by address in fixed windows. Safe for many threads."""

    rate: Rate
    clock: Callable[[], float] = time.monotonic
    _windows: dict[str, tuple[float, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, address: str) -> None:
        """Count a request. Raises TooMany, with the whole seconds to wait."""
        if not self.rate.requests:
            return
        now = self.clock()
        with self._lock:
            begun, count = self._windows.get(address, (now, 0))
            if now - begun >= self.rate.seconds:
                begun, count = now, 0
            self._windows[address] = (begun, count + 1)
            if len(self._windows) > ADDRESSES_MAX:
                self._windows = {
                    one: window
                    for one, window in self._windows.items()
                    if now - window[0] < self.rate.seconds
                }
        if count >= self.rate.requests:
            wait = max(int(begun + self.rate.seconds - now) + 1, 1)
            raise TooMany(
                f"More than {self.rate.requests} requests in {self.rate.seconds} s.",
                hint=f"Try again in {wait} s.",
                retry_after=wait,
            )
