"""The servers over one store: who is there, and what lies on whose disk."""

import contextlib
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headrace import __version__
from headrace.domain.errors import Misconfigured, Unavailable
from headrace.domain.ids import ServerId, TenantId, is_id, new_id
from headrace.domain.principal import Principal, Role
from headrace.domain.server import Server
from headrace.security.vault import Vault
from headrace.service.access import need
from headrace.settings import Settings
from headrace.store import resources, servers
from headrace.store.database import Database

LOCK: Final = 0x68656166  # PostgreSQL's advisory lock of those that join
MARK: Final = "headrace.id"  # the file that tells one shared folder from another
CANARY: Final = "canary"


class Servers:
    """This server among the others. `here` is its id: that of its data folder."""

    def __init__(self, database: Database, vault: Vault, settings: Settings) -> None:
        self._database = database
        self._vault = vault
        self._settings = settings
        self.here = ServerId(_mark(settings.data_dir / "server.id"))
        self.url = settings.advertise or f"http://{settings.host}:{settings.port}"

    def join(self) -> None:
        """Take a place among the servers.

        Raises Misconfigured for another master key than the store's, or where several servers
        would not see the same quarantine and uploads.
        """
        shared = self._settings.shared
        mark = _mark(shared / MARK) if shared is not None else None
        with self._database.begin() as tx:
            tx.lock(LOCK)
            self._check_key(servers.known(tx, CANARY))
            others = [one for one in servers.listed(tx) if one.alive and one.id != self.here]
            for other in others:
                if mark is None or other.shared != mark:
                    raise Misconfigured(
                        f"The server {other.name} works over this store, and does not share this"
                        " one's folder of rejected rows and uploads.",
                        hint="Give each server the same folder in HEADRACE_SHARED, or stop it"
                        f" and wait {servers.ALIVE_MS // 1000} s.",
                        field="HEADRACE_SHARED",
                    )
            if servers.known(tx, CANARY) is None:
                servers.note(tx, CANARY, self._vault.seal({"headrace": 1}, CANARY))
            servers.join(
                tx,
                Server(
                    id=self.here, name=socket.gethostname()[:200], url=self.url,
                    roles=self._settings.roles, version=__version__, shared=mark,
                    data_dir=str(self._settings.data_dir.absolute()),
                    started_at=tx.now, seen_at=tx.now, alive=True,
                ),
            )  # fmt: skip

    def _check_key(self, canary: bytes | None) -> None:
        if canary is not None:
            try:
                self._vault.open(canary, CANARY)
            except Misconfigured:
                raise Misconfigured(
                    "This store was sealed with another master key.",
                    hint="Give this server the HEADRACE_MASTER_KEY (or the file master.key) of"
                    " those that worked over it before.",
                    field="HEADRACE_MASTER_KEY",
                ) from None

    def listens_at(self, url: str) -> None:
        """Tell the others where this server is reached, now that it is known."""
        self.url = url
        if not self._database.is_sqlite:
            with contextlib.suppress(Unavailable):  # the next beat tells it
                self.beat()

    def beat(self) -> None:
        """Say that this server lives."""
        with self._database.begin() as tx:
            servers.seen(tx, self.here, self.url)

    def leave(self) -> None:
        """Say that this server stops."""
        with self._database.begin() as tx:
            servers.gone(tx, self.here)

    def listed(self, caller: Principal) -> Sequence[Server]:
        """Return all servers. For admins."""
        need(caller, Role.ADMIN)
        with self._database.read() as tx:
            return servers.listed(tx)

    def is_elsewhere(self, host: str | None) -> bool:
        """Tell whether something lies on another server's disk."""
        return host is not None and host != self.here and not self._database.is_sqlite

    def host_of_index(self, tenant: TenantId, index: str) -> str | None:
        """Return the server that has an embedded index, if it is another one."""
        if self._database.is_sqlite:
            return None
        with self._database.read() as tx:
            hosts = resources.hosts_of_index(tx, tenant, index)
        return next(iter(hosts)) if hosts and self.here not in hosts else None

    def owner(self, host: str) -> Server:
        """Return the server on whose disk something lies. Raises Unavailable if it is not there."""
        with self._database.read() as tx:
            found = servers.find(tx, host)
        if found is None or not found.alive:
            name = found.name if found else host
            raise Unavailable(
                f"It lies on the disk of the server {name}, which is not running.",
                hint="Start that server again, with its data folder.",
            )
        return found


def _mark(path: Path) -> str:
    """Return the id that a file keeps; made on the first look."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x") as file:
            file.write(new_id())
    except FileExistsError:
        pass
    except OSError as error:
        raise Misconfigured(
            f"{path.parent} cannot be written to: {error.strerror}.", field="HEADRACE_SHARED"
        ) from None
    found = path.read_text().strip()
    if not is_id(found):
        raise Misconfigured(f"{path} holds no id.", hint="Remove it if nobody else uses it.")
    return found
