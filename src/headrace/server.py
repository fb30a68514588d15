"""One server process: API and dispatcher, over one store and one data dir."""

import contextlib
import fcntl
import gc
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final
from urllib.parse import quote

import msgspec
import uvicorn

from headrace.api.app import make_app
from headrace.client import Client
from headrace.connectors import registry
from headrace.connectors.families import objects
from headrace.contract.destination import Page
from headrace.domain.errors import Conflict, Invalid, Misconfigured, Unavailable
from headrace.domain.ids import TenantId, new_id
from headrace.domain.principal import Principal
from headrace.domain.server import Role
from headrace.engine.javascript import tried
from headrace.observe import log
from headrace.runtime.bell import Bell
from headrace.runtime.chore import Chore
from headrace.runtime.dispatcher import Dispatcher
from headrace.runtime.mailer import Mailer
from headrace.runtime.pool import Pool
from headrace.security import tls
from headrace.security.vault import Vault, master_key, write_private
from headrace.service.access import Access
from headrace.service.aliases import Aliases
from headrace.service.auditing import Audit
from headrace.service.catalog import Catalog
from headrace.service.hooks import Hooks
from headrace.service.indexes import Indexes
from headrace.service.jobs import Jobs
from headrace.service.pools import Pools
from headrace.service.queue import Queue
from headrace.service.retention import Retention
from headrace.service.runs import Runs
from headrace.service.servers import Servers
from headrace.service.services import Services
from headrace.service.triggers import Triggers
from headrace.service.uploads import FOLDER as UPLOADS
from headrace.service.uploads import Uploads
from headrace.settings import CHILD_BYTES, RUN_BYTES_MIN, SERVER_BYTES, Settings
from headrace.store.database import Database
from headrace.store.migrate import migrate

SAMPLE_ROWS: Final = 10
WATCH_S: Final = 0.5  # between two looks at which triggers' sources are to be looked at
MAIL_S: Final = 2.0
SEEN_S: Final = 5.0  # between two signs of life to the other servers
CLEAN_S: Final = 600.0
CLEAN_FIRST_S: Final = 30.0  # after the start: there is more urgent work
ASKED_S: Final = 60  # seconds that a token is good for which another server is asked with


class Server:
    """Everything of one server process, built and introduced."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        _make_folders(settings.data_dir)
        _make_common(settings.common)
        self._locks = [_lock(settings.data_dir / "server.lock", "from", settings.data_dir)]
        vault = Vault(master_key(settings.master_key, settings.data_dir))
        self.database = Database(settings.database_url)
        if self.database.is_sqlite:
            # The lock proves that nobody else lives: no need to wait for leases.
            path = Path(self.database.url.database or "")
            self._locks.append(_lock(path.with_name(f"{path.name}.lock"), "over", path))
        migrate(self.database)
        self.servers = Servers(self.database, vault, settings)
        self.servers.join()
        self.access = Access(self.database, vault)
        self.tenant, self.new_key = self.access.first_start(settings.admin_key)
        if self.new_key:
            path = settings.data_dir / "admin.key"
            path.unlink(missing_ok=True)
            write_private(path, self.new_key.encode() + b"\n")
        self.queue = Queue(
            self.database, f"{socket.gethostname()}/{os.getpid()}/{new_id()[-8:]}"[:80],
            round(settings.lease_s * 1000), quarantine=settings.common / "quarantine",
            by_mail=bool(settings.smtp),
            here=None if self.database.is_sqlite else self.servers.here,
        )  # fmt: skip
        if self.database.is_sqlite:
            self.queue.take_over()
        self.bell: Bell | None = None
        if not self.database.is_sqlite:
            self.bell = Bell(self.database, self.queue.holder, self._heard)
        catalog = Catalog(self.database, vault, self.servers.here, settings.shared)
        if settings.memory_bytes < SERVER_BYTES + CHILD_BYTES + RUN_BYTES_MIN:
            raise Invalid("HEADRACE_MEMORY must be at least 384MB.", field="HEADRACE_MEMORY")
        self.pool = Pool(settings.runs_at_once, settings.data_dir)
        self.runs = Runs(self.database, catalog, settings, self._wake, self.servers.here)
        self.jobs = Jobs(self.database, self.runs, self._wake)
        self.uploads = Uploads(self.database, catalog, self.runs, settings, self._columns)
        self.triggers = Triggers(
            self.database, self.runs, self.jobs, self.queue.here,
            own_only=Role.TICKER not in settings.roles,  # nobody else sees this one's disk
        )  # fmt: skip
        self.dispatcher = Dispatcher(
            self.queue, self.runs, self.jobs, self.triggers, self.uploads, self.pool, settings,
            self._ring,
        )  # fmt: skip
        retention = Retention(
            self.database, self.runs, self.uploads, settings.keep_days, settings.audit_days
        )
        self.chores = [
            Chore("cleaner", retention.clean, first_s=CLEAN_FIRST_S, every_s=CLEAN_S),
            Chore("servers", lambda _: self.servers.beat(), every_s=SEEN_S),
        ]
        if settings.smtp:
            self.chores.append(
                Chore("mailer", Mailer(self.database, settings).send, every_s=MAIL_S)
            )
        if Role.TICKER in settings.roles or self.queue.here is not None:
            self.chores.append(Chore("watcher", self.triggers.look, every_s=WATCH_S))
        self.services = Services(
            settings=settings, access=self.access, catalog=catalog, runs=self.runs, jobs=self.jobs,
            pools=Pools(self.database), uploads=self.uploads, aliases=Aliases(self.database),
            hooks=Hooks(self.database, vault, self.runs, self.jobs),
            triggers=self.triggers,
            audit=Audit(self.database), servers=self.servers, indexes=Indexes(settings.data_dir),
            read_table=self._read_table, ask_owner=self._ask_owner,
            sample=self._sample, try_source=self._try_source, streams=self._streams,
            try_transformation=tried,
            ready=self._not_ready,
        )  # fmt: skip
        self.app = make_app(self.services)

    def _wake(self) -> None:
        self.dispatcher.wake()
        self._ring()

    def _heard(self) -> None:
        self.dispatcher.wake()

    def _ring(self) -> None:
        if self.bell is not None:
            self.bell.ring()

    def start(self) -> None:
        """Take work."""
        # The lock on the folder proves that no worker of an earlier process has it.
        shutil.rmtree(self.settings.data_dir / "spool" / "work", ignore_errors=True)
        self.runs.sweep()
        self.uploads.sweep(starting=True)
        if self.bell is not None:
            self.bell.start()
        self.dispatcher.start()
        for chore in self.chores:
            chore.start()
        gc.freeze()  # what is here stays; a full collection over it stops every call for 0.1 s

    def stop(self) -> None:
        """Give back what is under way, and let go of everything."""
        self.dispatcher.stop()
        for chore in self.chores:
            chore.stop()
        if self.bell is not None:
            self.bell.stop()
        with contextlib.suppress(Unavailable):
            self.servers.leave()
        self.database.close()
        for lock in self._locks:
            lock.close()

    def _read_table(
        self, caller: Principal, destination: str, table: str, limit: int, cursor: str | None
    ) -> Page:
        host = self.runs.host_of(caller.tenant.id, destination)
        if host is not None and self.servers.is_elsewhere(host):
            owner = self.servers.owner(host)
            after = f"&cursor={quote(cursor, safe='')}" if cursor else ""
            with Client(owner.url, key=self.access.token_of(caller, ASKED_S)) as peer:
                found = peer.call(
                    "GET",
                    f"/v1/tables/{destination}/{quote(table, safe='')}/rows?limit={limit}{after}",
                )
            return Page(columns=found["columns"], rows=found["rows"], next=found["next"])
        order, exclusive = self.runs.reading_order(caller.tenant.id, destination)
        page = self.pool.read(order, exclusive, table, limit, cursor)
        return Page(columns=page.columns, rows=page.rows, next=page.next)

    def _ask_owner(
        self, caller: Principal, index: str, path: str, body: Mapping[str, Any] | None
    ) -> Any:
        host = self.servers.host_of_index(caller.tenant.id, index)
        if host is None:
            return None
        key = self.access.token_of(caller, ASKED_S)
        headers = {"x-algolia-application-id": caller.tenant.name, "x-algolia-api-key": key}
        method = "GET" if body is None else "POST"
        with Client(self.servers.owner(host).url, key=key) as peer:
            return peer.call(method, path, None if body is None else dict(body), headers)

    def _sample(
        self, tenant: TenantId, type_: str, given: Mapping[str, Any], authentication: str | None
    ) -> list[dict[str, Any]]:
        registry.source(type_)  # refuses what has no connector before a worker is asked
        order = self.runs.sampling_order(tenant, type_, given, authentication)
        return list(self.pool.read(order, None, "", SAMPLE_ROWS, None).rows)

    def _try_source(self, tenant: TenantId, source: str) -> list[dict[str, Any]]:
        order = self.runs.trying_order(tenant, source)
        registry.source(order.source_type)  # as above
        return list(self.pool.read(order, None, "", SAMPLE_ROWS, None).rows)

    def _streams(self, tenant: TenantId, source: str) -> list[dict[str, Any]]:
        order = self.runs.trying_order(tenant, source)
        registry.source(order.source_type)  # as above
        return list(self.pool.read(order, None, "", 0, None, streams=True).rows)

    def _columns(self, tenant: TenantId, type_: str, given: Mapping[str, Any]) -> Sequence[str]:
        """Return the columns of a file that has been uploaded."""
        order = self.runs.sampling_order(tenant, type_, given, None)
        roots = (*(order.files_roots or ()), str(self.uploads.folder))
        order = msgspec.structs.replace(order, files_roots=roots)
        return self.pool.read(order, None, "", 1, None).columns

    def _not_ready(self) -> str | None:
        return None if self.dispatcher.healthy.is_set() else "the dispatcher is not running yet"


def _make_folders(data_dir: Path) -> None:
    for name in ("", "files", "indexes", "lake", "spool"):
        _make(data_dir / name, "--data-dir")


def _make_common(folder: Path) -> None:
    for name in ("files", "quarantine", UPLOADS):
        _make(folder / name, "HEADRACE_SHARED")


def _make(folder: Path, field: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise Misconfigured(
            f"The folder {folder} cannot be made: {error.strerror}.", field=field
        ) from error


def _lock(path: Path, how: str, what: Path) -> IO[str]:
    """Hold a file against other processes. `how` and `what` are for the error."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise Conflict(
            f"Another headrace serves {how} {what}.",
            hint="Stop it, or give this one a --data-dir of its own. Several servers over one store"
            " need PostgreSQL: --database postgresql+psycopg://…",
            field="--data-dir",
        ) from None
    return file


class _Uvicorn(uvicorn.Server):
    """Uvicorn that tells when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[int], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1]
            self._listening(port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True


def _certificate(settings: Settings) -> tuple[Path, Path] | None:
    """Return certificate and key to serve with, or None for plain HTTP."""
    if settings.tls_self_signed:
        return tls.self_signed(settings.data_dir, settings.host)
    if settings.tls_cert and settings.tls_key:
        return tls.checked(settings.tls_cert, settings.tls_key)
    return None


def serve(settings: Settings, listening: Callable[[Server, int], None]) -> None:
    """Serve until SIGTERM or SIGINT. `listening(server, port)` is called once it takes calls."""
    log.set_up(settings.log_level)
    objects.forget_credentials()
    server = Server(settings)
    pair = _certificate(settings)
    config = uvicorn.Config(
        server.app, host=settings.host, port=settings.port, log_level="warning",
        access_log=False,  # query strings may hold credentials
        server_header=False, timeout_graceful_shutdown=5, lifespan="off",
        ssl_certfile=pair and pair[0], ssl_keyfile=pair and pair[1],
    )  # fmt: skip
    threading.Thread(target=server.start, daemon=True, name="headrace-start").start()

    def listens(port: int) -> None:
        if not settings.advertise:
            every = settings.host in ("0.0.0.0", "::")  # noqa: S104  # listened on, not said
            name = socket.gethostname() if every else settings.host
            server.servers.listens_at(f"{'https' if pair else 'http'}://{name}:{port}")
        listening(server, port)

    try:
        _Uvicorn(config, listens).run()
    finally:
        server.stop()
