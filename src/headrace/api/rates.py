"""Rate limits: so many requests of one caller in a window of time, and what is told of them."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from litestar.types import Message, Scope

from headrace.api.auth import AnyRequest
from headrace.domain.errors import TooMany
from headrace.settings import Rate, Settings

CALLERS_MAX: Final = 10_000  # then those whose window is over are forgotten


@dataclass(frozen=True, slots=True)
class Quota:
    """What a caller has left of its window, and the whole seconds until the next one."""

    limit: int
    remaining: int
    reset_s: int


@dataclass(slots=True)
class Rates:
    """Counts requests by caller in fixed windows. Safe for many threads."""

    rate: Rate
    clock: Callable[[], float] = time.monotonic
    _windows: dict[str, tuple[float, int]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, caller: str) -> Quota | None:
        """Count a request; return what is left, None where there is no limit.

        Raises TooMany, with the whole seconds to wait.
        """
        limit = self.rate.requests
        if not limit:
            return None
        now = self.clock()
        with self._lock:
            begun, count = self._windows.get(caller, (now, 0))
            if now - begun >= self.rate.seconds:
                begun, count = now, 0
            self._windows[caller] = (begun, count + 1)
            if len(self._windows) > CALLERS_MAX:
                self._windows = {
                    one: window
                    for one, window in self._windows.items()
                    if now - window[0] < self.rate.seconds
                }
        wait = max(int(begun + self.rate.seconds - now) + 1, 1)
        quota = Quota(limit, max(limit - count - 1, 0), wait)
        if count >= limit:
            raise TooMany(
                f"More than {limit} requests in {self.rate.seconds} s.",
                hint=f"Try again in {wait} s.", retry_after=wait, quota=quota,
            )  # fmt: skip
        return quota


def rates_of(settings: Settings) -> Mapping[str, Rates]:
    """Return the counters of the limits that a server has."""
    return {
        "algolia": Rates(settings.algolia_rate),
        "algolia looks": Rates(settings.algolia_looks_rate),
        "amperity": Rates(settings.amperity_rate), "celonis": Rates(settings.celonis_rate),
        "lucidum": Rates(settings.lucidum_rate),
    }  # fmt: skip


def limited(request: AnyRequest, name: str, caller: str = "") -> None:
    """Count a request of a caller, else of its address. Raises TooMany."""
    rates: Mapping[str, Rates] = request.app.state.rates
    try:
        quota = rates[name].take(caller or (request.client.host if request.client else ""))
    except TooMany as error:
        request.state.quota = error.facts["quota"]
        raise
    request.state.quota = quota


async def tell_quota(message: Message, scope: Scope) -> None:
    """Add the headers that tell what is left to a Celonis answer that was counted."""
    if message["type"] != "http.response.start" or not scope["path"].startswith(CELONIS):
        return
    quota = scope.get("state", {}).get("quota")
    if isinstance(quota, Quota):
        for name, value in (
            ("limit", quota.limit), ("remaining", quota.remaining), ("reset", quota.reset_s),
        ):  # fmt: skip
            message["headers"] = [
                *message["headers"], (f"x-ratelimit-{name}".encode(), str(value).encode()),
            ]  # fmt: skip


CELONIS: Final = ("/integration/", "/data-ingestion/", "/api/cloud", "/api/team")
