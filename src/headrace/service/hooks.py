"""Hooks: signed calls from outside that start a task or a job, each message once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.domain.errors import Invalid, NotFound, Unauthenticated
from headrace.domain.ids import HookId, KeyId, is_id, new_id
from headrace.domain.principal import Principal, Role, Tenant
from headrace.domain.run import Mode, Trigger
from headrace.security import webhooks
from headrace.security.vault import Vault
from headrace.service.jobs import Jobs, judge_one_of
from headrace.service.runs import Runs
from headrace.store import audit, hooks
from headrace.store.database import Database
from headrace.store.hooks import Hook

NAME_MAX: Final = 200
MESSAGE_MAX: Final = 255  # characters of a message's id
_NO_KEY: Final = KeyId("")  # who calls a hook has none


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A call as it came: the three headers of its signature, and its body."""

    message: str
    seconds: str
    signatures: str
    body: bytes
    via: str


class Hooks:
    """Hooks of every tenant."""

    def __init__(
        self, database: Database, vault: Vault, runs: Runs, jobs_: Jobs,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._database = database
        self._vault = vault
        self._runs = runs
        self._jobs = jobs_
        self._clock = clock

    def add(
        self, caller: Principal, *, name: str, task: str | None, job: str | None, mode: Mode | None
    ) -> tuple[Hook, str]:
        """Make a hook; return it and its secret, to be shown once. Raises Invalid, NotFound."""
        if not name.strip() or len(name) > NAME_MAX:
            raise Invalid(f"name must have 1 to {NAME_MAX} characters.", field="name")
        judge_one_of(task, job)
        secret = webhooks.new_secret()
        tenant = caller.tenant.id
        with self._database.begin() as tx:
            self._jobs.judge_either(tx, caller, task, job)
            made = Hook(
                id=HookId(new_id()), tenant=tenant, name=name, task=task, job=job, mode=mode,
                created_at=tx.now,
            )  # fmt: skip
            hooks.add(tx, made, self._vault.seal({"secret": secret}, made.id))
            audit.add(tx, caller, "hook.added", made.id)
        return made, secret

    def listed(self, caller: Principal) -> Sequence[Hook]:
        """Return a tenant's hooks, oldest first."""
        with self._database.read() as tx:
            return hooks.listed(tx, caller.tenant.id)

    def remove(self, caller: Principal, id_: str) -> None:
        """Remove a hook: its calls are refused from now on."""
        with self._database.begin() as tx:
            if not is_id(id_) or not hooks.remove(tx, caller.tenant.id, id_):
                raise NotFound(f"cannot find hook {id_[:80]}")
            audit.add(tx, caller, "hook.removed", id_)

    def call(self, id_: str, given: Signed) -> str:
        """Start what a hook is for; return the execution's id.

        A message that comes again starts nothing: the answer is the same. While a run or execution
        is under way another waits for its end; more messages do not add to that.
        Raises Unauthenticated for what is not signed as it must be.
        """
        if len(given.message) > MESSAGE_MAX or "\\0" in given.message:
            raise Unauthenticated(f"webhook-id must have at most {MESSAGE_MAX} characters.")
        with self._database.read() as tx:
            found = hooks.find(tx, id_) if is_id(id_) else None
        if found is None:
            raise NotFound(f"cannot find hook {id_[:80]}")
        hook, sealed = found
        secret = self._vault.open(sealed, hook.id)["secret"]
        webhooks.check(
            secret, given.message, given.seconds, given.signatures, given.body, self._clock()
        )
        with self._database.begin() as tx:
            tx.lock_claims()  # the same message twice at once is one
            if (before := hooks.earlier(tx, hook.id, given.message)) is not None:
                return before
            started = self._jobs.start_either(
                tx, hook.tenant, task=hook.task, job=hook.job, mode=hook.mode,
                trigger=Trigger.HOOK,
            )  # fmt: skip
            hooks.took(tx, hook.id, given.message, started)
            caller = Principal(
                tenant=Tenant(id=hook.tenant, name=""), role=Role.OPERATOR, key=hook.name,
                key_id=_NO_KEY, via=given.via,
            )  # fmt: skip
            audit.add(tx, caller, "hook.called", started)
        self._runs.wake()
        return started
