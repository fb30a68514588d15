"""Tenants and keys."""

from typing import Any, Final

import sqlalchemy as sa

from headrace.domain.ids import KeyId, TenantId, new_id
from headrace.domain.principal import Key, Principal, Role, Tenant
from headrace.store.database import Tx
from headrace.store.tables import api_key, tenant

_PRINCIPAL: Final = (
    sa.select(
        api_key.c.id.label("key_id"), api_key.c.name, api_key.c.role, tenant.c.id,
        tenant.c.name.label("tenant_name"),
    )
    .join(tenant, tenant.c.id == api_key.c.tenant)
    .where(api_key.c.revoked_at.is_(None))
)  # fmt: skip
_BY_ID: Final = _PRINCIPAL.where(api_key.c.id == sa.bindparam("of"))
_BY_HASH: Final = _PRINCIPAL.where(api_key.c.hash == sa.bindparam("of"))


def ensure_tenant(tx: Tx, name: str) -> Tenant:
    """Return the tenant of that name, made if it is not there."""
    if found := tx.get(tenant.c.id, name=name):
        return Tenant(id=TenantId(found.id), name=name)
    made = Tenant(id=TenantId(new_id()), name=name)
    tx.add(tenant, id=made.id, name=name, created_at=tx.now)
    return made


def name_of(tx: Tx, id_: TenantId) -> str:
    """Return a tenant's name."""
    found = tx.get(tenant.c.name, id=id_)
    assert found is not None  # tenants are not removed
    return str(found.name)


def add_key(tx: Tx, owner: TenantId, name: str, hash_: bytes, role: Role) -> Key | None:
    """Keep a key's hash; None: it is there already, and stays."""
    if tx.get(api_key.c.id, hash=hash_):
        return None
    made = Key(id=KeyId(new_id()), name=name, role=role, created_at=tx.now, revoked_at=None)
    tx.add(api_key, id=made.id, tenant=owner, name=name, hash=hash_, role=role, created_at=tx.now)
    return made


def revoke_others(tx: Tx, owner: Tenant, name: str, hash_: bytes) -> None:
    """Revoke the keys of that name with another hash."""
    tx.run(
        sa.update(api_key)
        .where(
            api_key.c.tenant == owner.id,
            api_key.c.name == name,
            api_key.c.hash != hash_,
            api_key.c.revoked_at.is_(None),
        )
        .values(revoked_at=tx.now)
    )


def has_key(tx: Tx, owner: Tenant, name: str) -> bool:
    """Tell whether the tenant has a living key of that name."""
    return bool(
        tx.first(
            sa.select(api_key.c.id).where(
                api_key.c.tenant == owner.id,
                api_key.c.name == name,
                api_key.c.revoked_at.is_(None),
            )
        )
    )


def principal(tx: Tx, *, hash_: bytes = b"", key_id: str = "") -> Principal | None:
    """Return who holds the key with that hash or id, unless it is revoked."""
    found = tx.first(_BY_ID, of=key_id) if key_id else tx.first(_BY_HASH, of=hash_)
    if found is None:
        return None
    owner = Tenant(id=TenantId(found.id), name=found.tenant_name)
    return Principal(
        tenant=owner, role=Role(found.role), key=found.name, key_id=KeyId(found.key_id)
    )


def listed(tx: Tx, owner: TenantId) -> list[Key]:
    """Return a tenant's keys, oldest first."""
    query = sa.select(api_key).where(api_key.c.tenant == owner)
    return [_made(row) for row in tx.all(query.order_by(api_key.c.created_at, api_key.c.id))]


def find(tx: Tx, owner: TenantId, id_: str) -> Key | None:
    found = tx.get(api_key, tenant=owner, id=id_)
    return None if found is None else _made(found)


def revoke(tx: Tx, id_: KeyId) -> None:
    tx.run(
        sa.update(api_key)
        .where(api_key.c.id == id_, api_key.c.revoked_at.is_(None))
        .values(revoked_at=tx.now)
    )


def _made(row: Any) -> Key:  # Any: a row of SQLAlchemy's
    return Key(
        id=KeyId(row.id), name=row.name, role=Role(row.role), created_at=row.created_at,
        revoked_at=row.revoked_at,
    )  # fmt: skip
