"""Tenants and keys."""

import sqlalchemy as sa

from headrace.domain.ids import TenantId, new_id
from headrace.domain.principal import Principal, Role, Tenant
from headrace.store.database import Tx
from headrace.store.tables import api_key, tenant


def ensure_tenant(tx: Tx, name: str) -> Tenant:
    """Return the tenant of that name, made if it is not there."""
    if found := tx.first(sa.select(tenant.c.id).where(tenant.c.name == name)):
        return Tenant(id=TenantId(found.id), name=name)
    made = Tenant(id=TenantId(new_id()), name=name)
    tx.run(sa.insert(tenant).values(id=made.id, name=name, created_at=tx.now))
    return made


def add_key(tx: Tx, owner: Tenant, name: str, hash_: bytes, role: Role) -> None:
    """Keep a key's hash; one that is there already stays."""
    if not tx.first(sa.select(api_key.c.id).where(api_key.c.hash == hash_)):
        tx.run(
            sa.insert(api_key).values(
                id=new_id(), tenant=owner.id, name=name, hash=hash_, role=role, created_at=tx.now
            )
        )


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


def principal(tx: Tx, hash_: bytes) -> Principal | None:
    """Return who holds the key with that hash."""
    found = tx.first(
        sa.select(api_key.c.name, api_key.c.role, tenant.c.id, tenant.c.name.label("tenant_name"))
        .join(tenant, tenant.c.id == api_key.c.tenant)
        .where(api_key.c.hash == hash_, api_key.c.revoked_at.is_(None))
    )
    if found is None:
        return None
    owner = Tenant(id=TenantId(found.id), name=found.tenant_name)
    return Principal(tenant=owner, role=Role(found.role), key=found.name)
