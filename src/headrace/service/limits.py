"""Whether a queued run may start, and what it waits for: limits, pauses, what others hold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace.domain.clock import Millis
from headrace.store import breakers, limits, runs, servers
from headrace.store.breakers import OPEN_MAX_MS, Breaker
from headrace.store.database import Tx
from headrace.store.limits import Limit

MINUTE_MS: Final = 60_000
DEFAULTS: Final[Mapping[str, int]] = {"source": 8, "destination": 8, "tenant": 100}
PAUSED: Final = {"task": "its task", "tenant": "everything", "server": "the server"}


@dataclass(slots=True, kw_only=True)
class Room:
    """What is taken of every limit; a run that is claimed takes its part."""

    now: Millis
    counts: dict[str, int]
    held: set[str]
    limits: dict[str, Limit]
    paused: set[str]
    breakers: dict[str, Breaker]

    def obstacle(self, one: runs.Waiting) -> str | None:
        """Return what a run waits for; None if it may start."""
        if one.format > runs.FORMAT:
            return "a newer server"
        if self.counts.get(f"task:{one.task}"):
            return "an earlier run of this task"
        if one.exclusive in self.held:
            return f"the run that holds {(one.exclusive or '').partition(':')[2]}"
        for name in limits.names(one):
            kind = name.partition(":")[0]
            whose = "the server" if kind == "server" else f"its {kind}"
            if name in self.paused:
                return f"the end of the pause of {PAUSED[kind]}"
            if reason := self._down(name, kind):
                return reason
            most = self._runs(name)
            if most is not None and self.counts.get(name, 0) >= most:
                return f"the limit of {most} runs at a time of {whose}"
            if self._is_too_soon(name):
                limit = self.limits[name]
                return f"the limit of {limit.per_minute} runs a minute of {whose}"
        return None

    def take(self, tx: Tx, one: runs.Waiting) -> None:
        """Count a run that starts."""
        for name in limits.names(one):
            self.counts[name] = self.counts.get(name, 0) + 1
            limit = self.limits.get(name)
            if limit is not None and limit.per_minute:
                next_at = Millis(self.now + MINUTE_MS // limit.per_minute)
                self.limits[name] = replace(limit, next_at=next_at)
                limits.started(tx, name, next_at)
        if one.exclusive:
            self.held.add(one.exclusive)

    def closed(self) -> dict[str, list[str]]:
        """Return what nothing of can start now: ids by kind, exclusive names by `exclusive`."""
        found: dict[str, list[str]] = {"exclusive": list(self.held), "server": []}
        if self._runs("pool") == 0:
            found["any pool"] = ["*"]
        for name in {*self.counts, *self.limits, *self.breakers, "server"}:
            kind, _, id_ = name.partition(":")
            if (id_ or kind == "server") and self._is_closed(kind, name):
                found.setdefault(kind, []).append(id_)
        return found

    def _is_closed(self, kind: str, name: str) -> bool:
        most, count = self._runs(name), self.counts.get(name, 0)
        full = most is not None and count >= most
        busy = kind == "task" and count > 0
        return full or busy or self._is_too_soon(name) or self._down(name, kind) is not None

    def _down(self, name: str, kind: str) -> str | None:
        """Tell of what is down: it is left alone for a while, then one run tries it."""
        found = self.breakers.get(name)
        if found is None or not found.is_open:
            return None
        if 0 < found.open_until - self.now <= OPEN_MAX_MS:  # beyond: the clock was set back
            seconds = (found.open_until - self.now + 999) // 1000
            return f"its {kind}, which is down ({found.reason}): it is tried again in {seconds} s"
        if self.counts.get(name):
            return f"its {kind}, which was down: another run tries it"
        return None

    def shut(self) -> bool:
        """Tell whether nothing at all can start: the server is paused, or a limit of all is 0."""
        # Not `pool`: a run may be of none.
        every = ("task", "source", "destination", "tenant", "server")
        return "server" in self.paused or any(self._runs(kind) == 0 for kind in every)

    def served(self, tenant: str) -> int:
        """Return how many runs of a tenant are under way."""
        return self.counts.get(f"tenant:{tenant}", 0)

    def _runs(self, name: str) -> int | None:
        kind = name.partition(":")[0]
        for given in (self.limits.get(name), self.limits.get(kind)):
            if given is not None and given.runs is not None:
                return given.runs
        return DEFAULTS.get(kind)

    def _is_too_soon(self, name: str) -> bool:
        # Further ahead than that it cannot have been set: the clock was.
        return name in self.limits and 0 < self.limits[name].next_at - self.now <= MINUTE_MS


def room(tx: Tx) -> Room:
    """Return what is taken now."""
    counts, held = limits.under_way(tx)
    return Room(
        now=tx.now, counts=counts, held=held, limits=limits.all_limits(tx),
        paused=limits.pauses(tx), breakers=breakers.known(tx),
    )  # fmt: skip


def reasons(tx: Tx, waiting: Sequence[runs.Waiting]) -> dict[str, str]:
    """Return by id what each of these queued runs waits for."""
    if not waiting:
        return {}
    taken = room(tx)
    return {one.id: taken.obstacle(one) or _worker(tx, one.host) for one in waiting}


def _worker(tx: Tx, host: str | None) -> str:
    owner = servers.find(tx, host) if host else None
    if owner is None or owner.alive:
        return "a free worker"
    return f"the server {owner.name}, on whose disk its files lie"
