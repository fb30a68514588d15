"""Mails on their way: kept with what they tell of, until they are sent."""

from dataclasses import dataclass
from typing import Final

import sqlalchemy as sa

from headrace.domain.clock import Millis
from headrace.domain.ids import new_id
from headrace.store import tables
from headrace.store.database import Tx

mail: Final = tables.mail


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """One mail. `tries`: how often it was tried, this time included."""

    id: str
    subject: str
    body: str
    at: Millis
    tries: int


def add(tx: Tx, subject: str, body: str) -> None:
    """Keep a mail, in the transaction of what it tells of."""
    tx.add(mail, id=new_id(), subject=subject, body=body, at=tx.now, not_before=tx.now, tries=0)


def due(tx: Tx, limit: int, again_ms: int) -> list[Mail]:
    """Take mails that are due; they are due again after `again_ms` unless they are dropped."""
    found = tx.all(
        sa.select(mail)
        .where(mail.c.not_before <= tx.now)
        .order_by(mail.c.not_before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = []
    for row in found:
        same = {"id": row.id, "tries": row.tries}
        if tx.change(mail, same, not_before=tx.now + again_ms, tries=row.tries + 1):
            taken.append(
                Mail(
                    id=row.id, subject=row.subject, body=row.body, at=Millis(row.at),
                    tries=row.tries + 1,
                )
            )  # fmt: skip
    return taken


def put_off(tx: Tx, id_: str, wait_ms: int) -> None:
    """Try a mail again later."""
    tx.change(mail, {"id": id_}, not_before=tx.now + wait_ms)


def drop(tx: Tx, id_: str) -> None:
    """Forget a mail that is sent, or given up."""
    tx.remove(mail, id=id_)
