"""The servers over one store, and what is known of the store as a whole."""

from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.ids import ServerId
from headrace.domain.server import Role, Server
from headrace.store import tables
from headrace.store.database import Tx

server: Final = tables.server
fact: Final = tables.fact
ALIVE_MS: Final = 30_000  # a server that was not seen for so long is not there


def join(tx: Tx, new: Server) -> None:
    """Keep a server that has started; the same one may have been there before."""
    tx.remove(server, id=new.id)
    tx.add(
        server, id=new.id, name=new.name, url=new.url, roles=",".join(sorted(new.roles)),
        version=new.version, shared=new.shared, data_dir=new.data_dir,
        started_at=tx.now, seen_at=tx.now,
    )  # fmt: skip


def seen(tx: Tx, id_: ServerId, url: str) -> None:
    """Note that a server lives, and where it is reached."""
    tx.change(server, {"id": id_}, seen_at=tx.now, url=url)


def gone(tx: Tx, id_: ServerId) -> None:
    """Note that a server has stopped: it counts as alive no more."""
    tx.change(server, {"id": id_}, seen_at=0)


def listed(tx: Tx) -> list[Server]:
    """Return all servers, by name."""
    query = sa.select(server).order_by(server.c.name, server.c.id)
    return [_made(row, tx.now - ALIVE_MS) for row in tx.all(query)]


def find(tx: Tx, id_: str) -> Server | None:
    found = tx.get(server, id=id_)
    return None if found is None else _made(found, tx.now - ALIVE_MS)


def known(tx: Tx, name: str) -> bytes | None:
    """Return a fact about the store."""
    found = tx.get(fact.c.value, name=name)
    return None if found is None else bytes(found.value)


def note(tx: Tx, name: str, value: bytes) -> None:
    """Keep a fact about the store."""
    tx.remove(fact, name=name)
    tx.add(fact, name=name, value=value)


def _made(row: Any, since: int) -> Server:  # Any: a row of SQLAlchemy's
    return Server(
        id=ServerId(row.id), name=row.name, url=row.url,
        roles=frozenset(map(Role, row.roles.split(","))), version=row.version, shared=row.shared,
        data_dir=row.data_dir,
        started_at=row.started_at, seen_at=row.seen_at, alive=row.seen_at > since,
    )  # fmt: skip
