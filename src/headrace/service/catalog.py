"""Authentications, sources, destinations, transformations and tasks, by the rules.

What a person fills in is checked against the connector's form before it is kept. Secret members
are sealed; what is kept in the open shows None in their place.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from headrace.connectors import registry
from headrace.contract.spec import Config, filled_in
from headrace.domain import alias
from headrace.domain.errors import Conflict, Invalid, NotFound
from headrace.domain.ids import (
    AuthenticationId,
    DestinationId,
    ServerId,
    SourceId,
    TaskId,
    TenantId,
    TransformationId,
    is_id,
    new_id,
)
from headrace.domain.position import GIVEN, Edge, Position
from headrace.domain.principal import Principal
from headrace.domain.resources import Authentication, Destination, Source, Transformation
from headrace.domain.schedule import DEFAULT, Timing
from headrace.domain.shape import PLAIN, Shape
from headrace.domain.task import OF_TASKS, Action, Task, TriggerType
from headrace.engine.steps import code_of
from headrace.security.vault import Vault
from headrace.service.orders import Code, is_local, judge_deletes, judge_task, secret_members
from headrace.service.schedule import check_timing, next_moment
from headrace.service.shapes import check_shape
from headrace.store import aliases, audit, breakers, positions, resources, runs, tables
from headrace.store.database import Database, Tx
from headrace.store.paging import Order, Window

T = TypeVar("T", Authentication, Source, Destination, Transformation, Task)
E = TypeVar("E", Source, Destination)
NAME_MAX: Final = 400
PRIORITY_MAX: Final = 100
ALL_MAX: Final = 100_000
UPLOADED: Final = "uploaded"  # the type of a source whose files a client brings
POSITIONED: Final = frozenset({"source", "destination", "table", "action", "key", "shape"})
AUTHENTICATION_FORMS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    # type: members that may be shown, members that are secret
    "googleServiceAccount": (("clientEmail",), ("privateKey",)),
    "basic": (("username",), ("password",)),
    "apiKey": ((), ("key",)),
    "oauth": (("url", "client_id", "scope"), ("client_secret", "code")),
    "algolia": (("appID",), ("apiKey",)),
    "algoliaInsights": (("appID",), ("apiKey",)),
}
LOGINS: Final = {  # a source's members that an authentication fills in, by its type
    "basic": {"username": "username", "password": "password"},
    "googleServiceAccount": {"clientEmail": "username", "privateKey": "password"},
}
SERVICES: Final = {  # a destination's
    "algolia": {"appID": "appID", "apiKey": "apiKey"},
    "algoliaInsights": {"appID": "appID", "apiKey": "apiKey"},
}
OPTIONAL: Final = frozenset({"client_id", "client_secret", "code", "scope"})
NOUNS: Final = {
    Authentication: "authentication", Source: "source", Destination: "destination",
    Transformation: "transformation", Task: "task",
}  # fmt: skip


class Catalog:
    """The things of every tenant."""

    def __init__(
        self, database: Database, vault: Vault, here: ServerId | None = None,
        shared: Path | None = None,
    ) -> None:  # fmt: skip
        """`here`: this server, on whose disk lies what is made with a local path.

        `shared`: a folder that all servers see.
        """
        self._shared = shared
        self._database = database
        self._vault = vault
        self._here = here
        self.caller: Principal | None = None

    def by(self, caller: Principal) -> "Catalog":
        """Return the same for somebody whose deeds go into the audit log."""
        mine = copy.copy(self)
        mine.caller = caller
        return mine

    def _audit(self, tx: Tx, deed: str, thing: str) -> None:
        if self.caller is not None:
            audit.add(tx, self.caller, deed, thing)

    # Of every kind.

    def get(self, kind: type[T], tenant: TenantId, id_: str) -> T:
        """Return a thing. Raises NotFound, for another tenant's too."""
        with self._database.read() as tx:
            return self._get(tx, kind, tenant, id_)

    def get_typed(self, kind: type[E], tenant: TenantId, id_: str, types: Sequence[str]) -> E:
        """Return a source or destination of one of `types`; others are not there for the caller."""
        found = self.get(kind, tenant, id_)
        if found.type not in types:
            raise NotFound(f"cannot find {NOUNS[kind]} {id_[:80]}")
        return found

    def _get(self, tx: Tx, kind: type[T], tenant: TenantId, id_: str) -> T:
        found = resources.find(tx, kind, tenant, id_) if is_id(id_) else None
        if found is None:
            raise NotFound(f"cannot find {NOUNS[kind]} {id_[:80]}")
        return found

    def listed(
        self, kind: type[T], tenant: TenantId, where: Mapping[str, Sequence[Any]], order: Order,
        window: Window,
    ) -> tuple[list[T], int]:  # fmt: skip
        """Return one page of things and how many there are."""
        with self._database.read() as tx:
            return resources.listed(tx, kind, tenant, where, order, window)

    def all_of(self, kind: type[T], tenant: TenantId) -> list[T]:
        """Return all things of a kind, oldest first."""
        window = Window(ALL_MAX)
        return self.listed(kind, tenant, {}, Order("created_at", descending=False), window)[0]

    def some(self, kind: type[T], tenant: TenantId, ids: Sequence[str]) -> list[T]:
        """Return those of the things named that are there."""
        with self._database.read() as tx:
            return resources.some(tx, kind, tenant, ids)

    def remove(self, kind: type[T], tenant: TenantId, id_: str) -> None:
        """Remove a thing. Raises Conflict while something uses it."""
        with self._database.begin() as tx:
            thing = self._get(tx, kind, tenant, id_)
            if user := resources.user_of(tx, kind, thing.id):
                raise Conflict(
                    f"The {NOUNS[kind]} is used by {user[0]} {user[1]}.",
                    hint=f"Remove that {user[0]} first.",
                )
            if isinstance(thing, Task):
                if runs.has_work(tx, thing.id):
                    raise Conflict("The task has a run.", hint="Cancel it, or wait for its end.")
                runs.forget_task(tx, thing.id)
            resources.remove(tx, kind, thing.id)
            self._audit(tx, f"{NOUNS[kind]}.removed", thing.id)
            if isinstance(thing, Task):
                source = resources.find(tx, Source, tenant, thing.source)
                if source is not None and source.type == UPLOADED:  # it was made with its task
                    resources.remove(tx, Source, source.id)

    # Authentications.

    def add_authentication(
        self, tenant: TenantId, *, type_: str, name: str, platform: str | None, given: object
    ) -> Authentication:
        """Seal and keep credentials. Raises Invalid, naming the member."""
        shown, secret = _split_authentication(type_, _members(given), partial=False)
        with self._database.begin() as tx:
            thing = Authentication(
                id=AuthenticationId(new_id()), tenant=tenant, type=type_, name=_named(name),
                platform=platform, input=shown, created_at=tx.now, updated_at=tx.now,
            )  # fmt: skip
            resources.add(tx, thing, self._vault.seal(secret, thing.id))
            self._audit(tx, "authentication.added", thing.id)
        return thing

    def change_authentication(
        self, tenant: TenantId, id_: str, *, name: str | None, given: object,
        platform: str | None = None,
    ) -> Authentication:  # fmt: skip
        """Change a name, or members of the input: those that are not given stay as they are."""
        with self._database.begin() as tx:
            old = self._get(tx, Authentication, tenant, id_)
            sealed = None
            shown: Mapping[str, Any] = old.input
            if given is not None:
                more, secret = _split_authentication(old.type, _members(given), partial=True)
                kept = self._vault.open(resources.sealed(tx, Authentication, old.id) or b"", old.id)
                sealed = self._vault.seal(kept | secret, old.id)
                shown = dict(old.input) | more
            new = replace(
                old, name=old.name if name is None else _named(name), input=shown,
                platform=platform or old.platform, updated_at=tx.now,
            )  # fmt: skip
            resources.change(tx, new, sealed)
            self._audit(tx, "authentication.changed", new.id)
        return new

    # Sources and destinations.

    def add_end(
        self, kind: type[E], tenant: TenantId, *, type_: str, name: str, given: object,
        authentication: str | None = None, planned: bool = False,
        transformations: Sequence[str] = (),
    ) -> E:  # fmt: skip
        """Keep a source or destination. Raises Invalid, naming the member.

        `planned`: a type whose connector is not there yet is kept as it came (checked by the
        caller); a run of it fails and says so.
        """
        with self._database.begin() as tx:
            return self.keep_end(
                tx, kind, tenant, type_=type_, name=name, given=given,
                authentication=authentication, planned=planned, transformations=transformations,
            )  # fmt: skip

    def keep_end(
        self, tx: Tx, kind: type[E], tenant: TenantId, *, type_: str, name: str, given: object,
        authentication: str | None = None, planned: bool = False,
        transformations: Sequence[str] = (),
    ) -> E:  # fmt: skip
        """Do `add_end` in the caller's transaction."""
        form = _form(kind, type_, planned=planned)
        shown, secret = _filled(form, given)
        common: dict[str, Any] = {
            "id": new_id(), "tenant": tenant, "type": type_, "name": _named(name),
            "input": shown, "authentication": self._known(tx, tenant, authentication),
            "created_at": tx.now, "updated_at": tx.now,
        }  # fmt: skip
        if kind is Destination:
            common["transformations"] = self._transformations(tx, tenant, transformations)
        thing = kind(**common)
        thing = replace(thing, host=self._here if self._is_local(tx, thing) else None)
        resources.add(tx, thing, self._vault.seal(secret, thing.id))
        self._audit(tx, f"{NOUNS[kind]}.added", thing.id)
        return thing

    def change_end(
        self, kind: type[E], tenant: TenantId, id_: str, *, name: str | None = None,
        given: object = None, authentication: str | None = None, whole: bool = False,
        transformations: Sequence[str] | None = None,
    ) -> E:  # fmt: skip
        """Change a source or destination; `whole`: the input replaces the old one, else merges."""
        with self._database.begin() as tx:
            old = self._get(tx, kind, tenant, id_)
            shown, sealed = old.input, None
            if given is not None:
                shown, sealed = self._merged(tx, old, given, whole=whole)
            changes: dict[str, Any] = {
                "name": old.name if name is None else _named(name), "input": shown,
                "authentication": self._known(tx, tenant, authentication) or old.authentication,
                "updated_at": tx.now,
            }  # fmt: skip
            if transformations is not None:
                changes["transformations"] = self._transformations(tx, tenant, transformations)
            new = replace(old, **changes)
            local = self._is_local(tx, new)
            new = replace(new, host=(old.host or self._here) if local else None)
            resources.change(tx, new, sealed)
            self._audit(tx, f"{NOUNS[kind]}.changed", new.id)
            breakers.forget(tx, f"{NOUNS[kind]}:{new.id}")  # it may work now
            if given is not None:  # what was read from the old one says nothing of the new
                column = tables.task.c.source if kind is Source else tables.task.c.destination
                positions.reset(tx, column == new.id)
        return new

    def _is_local(self, tx: Tx, thing: Source | Destination) -> bool:
        """Tell whether a thing lies on a server's own disk."""
        if isinstance(thing, Source):
            return thing.type in registry.source_names() and is_local(thing.input, self._shared)
        type_ = self.connector_of(tx, thing)
        return type_ in registry.destination_names() and registry.destination(type_).spec.local

    def _merged(
        self, tx: Tx, old: Source | Destination, given: object, *, whole: bool
    ) -> tuple[Mapping[str, Any], bytes]:
        form = _form(type(old), old.type, planned=True)
        kept = self._vault.open(resources.sealed(tx, type(old), old.id) or b"", old.id)
        everything = (kept if whole else dict(old.input) | kept) | _members(given)
        everything = {key: value for key, value in everything.items() if value is not None}
        shown, secret = _filled(form, everything)
        return shown, self._vault.seal(secret, old.id)

    def _known(
        self, tx: Tx, tenant: TenantId, id_: str | None, field: str = "authenticationID"
    ) -> AuthenticationId | None:
        if id_ is None:
            return None
        if not is_id(id_) or resources.find(tx, Authentication, tenant, id_) is None:
            raise Invalid(f"cannot find authentication {id_[:80]}", field=field)
        return AuthenticationId(id_)

    @staticmethod
    def members_of(thing: Source | Destination) -> list[dict[str, Any]]:
        """Return the members of a thing's form: name, whether required or secret, value."""
        form = _form(type(thing), thing.type, planned=True)
        if form is None:
            return [{"name": name, "value": value} for name, value in thing.input.items()]
        secret = secret_members(form)
        return [
            {
                "name": field.encode_name, "required": field.required,
                "secret": field.encode_name in secret,
                "value": thing.input.get(field.encode_name),
            }
            for field in msgspec.structs.fields(form)
        ]  # fmt: skip

    # Transformations.

    def add_transformation(
        self, tenant: TenantId, *, type_: str, name: str, description: str | None,
        given: Mapping[str, Any], authentications: Sequence[str],
    ) -> Transformation:  # fmt: skip
        """Keep a transformation, whose input the caller has checked."""
        with self._database.begin() as tx:
            thing = Transformation(
                id=TransformationId(new_id()), tenant=tenant, type=type_, name=_named(name),
                description=description, input=given,
                authentications=self._secrets(tx, tenant, authentications), created_at=tx.now,
                updated_at=tx.now,
            )  # fmt: skip
            resources.add(tx, thing)
            self._audit(tx, "transformation.added", thing.id)
        return thing

    def replace_transformation(
        self, tenant: TenantId, id_: str, *, type_: str, name: str, description: str | None,
        given: Mapping[str, Any], authentications: Sequence[str],
    ) -> Transformation:  # fmt: skip
        """Put a transformation in the place of another, under the same id."""
        with self._database.begin() as tx:
            old = self._get(tx, Transformation, tenant, id_)
            new = replace(
                old, type=type_, name=_named(name), description=description, input=given,
                authentications=self._secrets(tx, tenant, authentications), updated_at=tx.now,
            )  # fmt: skip
            resources.change(tx, new)
            self._audit(tx, "transformation.changed", new.id)
        return new

    def _secrets(
        self, tx: Tx, tenant: TenantId, ids: Sequence[str]
    ) -> tuple[AuthenticationId, ...]:
        found = []
        for id_ in ids:
            known = self._known(tx, tenant, id_, "authenticationIDs")
            found += [known] if known else []
        return tuple(found)

    def _transformations(
        self, tx: Tx, tenant: TenantId, ids: Sequence[str]
    ) -> tuple[TransformationId, ...]:
        for id_ in ids:
            if not is_id(id_) or resources.find(tx, Transformation, tenant, id_) is None:
                raise Invalid(f"cannot find transformation {id_[:80]}", field="transformationIDs")
        return tuple(map(TransformationId, ids))

    # Tasks.

    def add_task(
        self, tenant: TenantId, *, source: str, destination: str, action: str, name: str = "",
        trigger: TriggerType = TriggerType.ON_DEMAND, enabled: bool = True,
        failure_threshold: int = 0, table: str | None = None, key: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None, cron: str | None = None, timing: Timing = DEFAULT,
        priority: int = 0, shape: Shape = PLAIN, deletes: bool = False,
    ) -> Task:  # fmt: skip
        """Keep a task; with `cron` its trigger is a schedule.

        Raises Invalid for unknown ends, Misconfigured for what they cannot do.
        """
        with self._database.begin() as tx:
            return self.keep_task(
                tx, tenant, source=source, destination=destination, action=action, name=name,
                trigger=trigger, enabled=enabled, failure_threshold=failure_threshold,
                table=table, key=key, extra=extra, cron=cron, timing=timing, priority=priority,
                shape=shape, deletes=deletes,
            )  # fmt: skip

    def keep_task(
        self, tx: Tx, tenant: TenantId, *, source: str, destination: str, action: str,
        name: str = "", trigger: TriggerType = TriggerType.ON_DEMAND, enabled: bool = True,
        failure_threshold: int = 0, table: str | None = None, key: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None, cron: str | None = None, timing: Timing = DEFAULT,
        priority: int = 0, shape: Shape = PLAIN, deletes: bool = False,
    ) -> Task:  # fmt: skip
        """Do `add_task` in the caller's transaction."""
        check_timing(timing)
        id_ = TaskId(new_id())
        thing = Task(
            id=id_, tenant=tenant, name=name, source=SourceId(source),
            destination=DestinationId(destination), action=_action(action),
            trigger=TriggerType.SCHEDULE if cron else trigger, cron=cron, timing=timing,
            next_run=next_moment(cron, tx.now, timing, id_) if cron else None,
            enabled=enabled, failure_threshold=_percent(failure_threshold),
            table=_table(table), key=tuple(key), extra=extra or {},
            priority=_priority(priority), shape=shape, deletes=deletes, created_at=tx.now,
            updated_at=tx.now,
        )  # fmt: skip
        self._judge(tx, thing)
        resources.add(tx, thing)
        aliases.give(tx, tenant, alias.Kind.TASK, thing.id)
        self._audit(tx, "task.added", thing.id)
        return thing

    def change_task(self, tenant: TenantId, id_: str, **changes: Any) -> Task:
        """Change members of a task, by their names in `domain.task`.

        `columns` (a Shape) and `policy` change either part of its shape.
        """
        with self._database.begin() as tx:
            old = self._get(tx, Task, tenant, id_)
            checked: dict[str, Callable[[Any], Any]] = {
                "action": _action, "failure_threshold": _percent, "priority": _priority,
                "table": _table,
            }  # fmt: skip
            for member in checked.keys() & changes.keys():
                changes[member] = checked[member](changes[member])
            if {"columns", "policy"} & set(changes):
                policy = changes.pop("policy", old.shape.policy)
                changes["shape"] = replace(changes.pop("columns", old.shape), policy=policy)
            given = changes.get("extra") or {}
            if "extra" in changes:
                changes["extra"] = dict(old.extra) | changes["extra"]
            if {"cron", "timing"} & set(changes):
                timing = check_timing(changes.get("timing", old.timing))
                cron = changes.get("cron", old.cron)
                due = next_moment(cron, tx.now, timing, old.id) if cron else None
                changes["next_run"] = due
                if cron or old.trigger is TriggerType.SCHEDULE:
                    changes["trigger"] = TriggerType.SCHEDULE if cron else TriggerType.ON_DEMAND
            if changes.get("enabled"):
                changes["blocked"] = None
                resources.forgive(tx, old.id)
            new = replace(old, updated_at=tx.now, **changes)
            self._judge(tx, new)
            resources.change(tx, new)
            self._audit(tx, "task.changed", new.id)
            if POSITIONED & set(changes) or "cursor" in given:
                positions.reset(tx, tables.task.c.id == new.id)
        return new

    def position(self, tenant: TenantId, id_: str) -> Position | None:
        """Return how far a task has read; None: its next run reads everything."""
        with self._database.read() as tx:
            return positions.find(tx, self._get(tx, Task, tenant, id_).id)

    def set_position(self, tenant: TenantId, id_: str, new: Position | None) -> None:
        """Say how far a task has read. A cursor's value itself counts as not read yet."""
        with self._database.begin() as tx:
            positions.put(tx, self._get(tx, Task, tenant, id_).id, new)
            self._audit(tx, "task.positioned", id_)

    def cursor_at(self, tenant: TenantId, id_: str, column: str, value: str) -> Position:
        """Return the position of a task whose cursor stands at a value. Raises Invalid."""
        with self._database.read() as tx:
            task = self._get(tx, Task, tenant, id_)
            source = resources.find(tx, Source, tenant, task.source)
        given = source.input if source else {}
        if given.get("cursor") != column:
            raise Invalid(
                f"The source's cursor is {given.get('cursor')!r}, not {column!r}.",
                hint="Name it in the source's input.cursor.", field="cursor.column",
            )  # fmt: skip
        return Position({GIVEN: Edge(column, value).text()})

    def _judge(self, tx: Tx, task: Task) -> None:
        check_shape(task.shape)
        source = resources.find(tx, Source, task.tenant, task.source)
        if source is None:
            raise Invalid(f"cannot find source {task.source[:80]}", field="sourceID")
        destination = resources.find(tx, Destination, task.tenant, task.destination)
        if destination is None:
            raise Invalid(f"cannot find destination {task.destination[:80]}", field="destinationID")
        if source.host and destination.host and source.host != destination.host:
            raise Invalid(
                "The source's files and the destination lie on the disks of different servers.",
                hint="Make both on one server, or use a destination that all of them reach.",
                field="destinationID",
            )
        own = "objectID" if source.type == "push" else source.input.get("uniqueIDColumn")
        there = source.type in ("push", *registry.source_names())
        if there and destination.type in registry.destination_names():
            judge_task(destination.type, task.action, task.key or ((own,) if own else ()))
            if task.deletes:
                judge_deletes(source.type, destination.type, task.action)

    # For orders, and nothing else: what is sealed.

    def secrets_of(self, thing: Transformation) -> dict[str, Any]:
        """Return the secrets that a transformation's code may read, by name."""
        with self._database.read() as tx:
            return self.opened_secrets(tx, thing)

    def codes_of(self, tx: Tx, end: Destination) -> tuple[Code, ...]:
        """Return what a destination's records pass through. Raises Misconfigured."""
        found = []
        for id_ in end.transformations:
            thing = resources.find(tx, Transformation, end.tenant, id_)
            assert thing is not None  # one that is used cannot be removed
            steps = thing.type == "noCode"
            code = code_of(thing.input["steps"]) if steps else str(thing.input["code"])
            secrets = self.opened_secrets(tx, thing)
            found.append(Code(code=code, secrets=secrets))
        return tuple(found)

    def opened_secrets(self, tx: Tx, thing: Transformation) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for id_ in thing.authentications:
            owner = resources.find(tx, Authentication, thing.tenant, id_)
            if owner is not None and owner.type == "secrets":
                sealed = resources.sealed(tx, Authentication, owner.id) or b""
                found |= self._vault.open(sealed, owner.id)
        return found

    def opened_input(
        self, tenant: TenantId, given: Mapping[str, Any], authentication: str | None
    ) -> dict[str, Any]:
        """Return a source's input that is not kept, with what its authentication adds."""
        with self._database.read() as tx:
            known = self._known(tx, tenant, authentication)
            return dict(given) | self._credentials(tx, tenant, known, LOGINS)

    def connector_of(self, tx: Tx, thing: Destination) -> str:
        """Return the connector that a destination needs: an index may be another service's."""
        if thing.type != "search" or thing.authentication is None:
            return thing.type
        owner = resources.find(tx, Authentication, thing.tenant, thing.authentication)
        return "algolia" if owner is not None and owner.type == "algolia" else thing.type

    def opened(self, tx: Tx, thing: Source | Destination) -> dict[str, Any]:
        """Return a thing's whole input, secrets too: for an order, and nothing else."""
        given = {key: value for key, value in thing.input.items() if value is not None}
        given |= self._vault.open(resources.sealed(tx, type(thing), thing.id) or b"", thing.id)
        kinds = LOGINS if isinstance(thing, Source) else SERVICES
        return given | self._credentials(tx, thing.tenant, thing.authentication, kinds)

    def _credentials(
        self, tx: Tx, tenant: TenantId, id_: AuthenticationId | None,
        kinds: Mapping[str, Mapping[str, str]],
    ) -> dict[str, Any]:  # fmt: skip
        """Return an authentication's members under a connector's names, if it is of those kinds."""
        owner = resources.find(tx, Authentication, tenant, id_) if id_ else None
        if owner is None or owner.type not in kinds:
            return {}
        sealed = resources.sealed(tx, Authentication, owner.id) or b""
        members = dict(owner.input) | self._vault.open(sealed, owner.id)
        return {ours: members[theirs] for theirs, ours in kinds[owner.type].items()}


def _form(kind: type, type_: str, *, planned: bool) -> type[Config] | None:
    """Return a connector's form; None for one that is only planned."""
    names = registry.source_names() if kind is Source else registry.destination_names()
    if planned and type_ not in names:
        return None
    make = registry.source if kind is Source else registry.destination
    return make(type_).spec.config


def _filled(form: type[Config] | None, given: object) -> tuple[dict[str, Any], dict[str, Any]]:
    """Check an input against a form; return its open and its secret members."""
    if form is None:
        return _members(given), {}
    filled_in(form, given)
    return _split(given, secret_members(form))


def _members(given: object) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise Invalid("input must be an object.", field="input")
    return dict(given)


def _split(given: object, secret: frozenset[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    members = _members(given)
    shown = {key: None if key in secret else value for key, value in members.items()}
    return shown, {key: value for key, value in members.items() if key in secret and value}


def _split_authentication(
    type_: str, given: dict[str, Any], *, partial: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    if type_ == "secrets":
        _texts(given)
        return dict.fromkeys(given), given
    if type_ not in AUTHENTICATION_FORMS:
        known = ", ".join([*AUTHENTICATION_FORMS, "secrets"])
        raise Invalid(f"type must be one of {known}.", field="type")
    shown, secret = AUTHENTICATION_FORMS[type_]
    for name in given:
        if name not in (*shown, *secret):
            raise Invalid(
                f"input has no member {name!r} for an authentication of type {type_}.",
                hint=f"It has: {', '.join((*shown, *secret))}.",
                field=f"input.{name}",
            )
    _texts(given)
    missing = [n for n in (*shown, *secret) if n not in given and n not in OPTIONAL]
    if missing and not partial:
        raise Invalid(f"input.{missing[0]} is required.", field=f"input.{missing[0]}")
    open_ = {name: value for name, value in given.items() if name in shown}
    sealed = {name: value for name, value in given.items() if name in secret}
    return open_ | ({} if partial else dict.fromkeys(secret)), sealed


def _texts(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if not isinstance(value, str):
            raise Invalid(f"input.{name} must be a string.", field=f"input.{name}")


def _named(name: str) -> str:
    if not name.strip() or len(name) > NAME_MAX:
        raise Invalid(f"name must have 1 to {NAME_MAX} characters.", field="name")
    return name


def _action(action: str) -> Action:
    if action not in OF_TASKS:
        able = ", ".join(one for one in Action if one in OF_TASKS)
        raise Invalid(f"action must be one of {able}.", field="action")
    return Action(action)


def _percent(value: int) -> int:
    if not 0 <= value <= 100:  # percent
        raise Invalid("failureThreshold must be a number from 0 to 100.", field="failureThreshold")
    return value


def _priority(value: int) -> int:
    if not -PRIORITY_MAX <= value <= PRIORITY_MAX:
        raise Invalid(
            f"priority must be a number from {-PRIORITY_MAX} to {PRIORITY_MAX}.", field="priority"
        )
    return value


def _table(table: str | None) -> str | None:
    if table is not None and (not table.strip() or len(table) > NAME_MAX or "\0" in table):
        raise Invalid(f"table must have 1 to {NAME_MAX} characters.", field="table")
    return table
