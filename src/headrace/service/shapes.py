"""Shapes of tables: what people may ask for, looked at before it is kept."""

import hashlib
import hmac
from typing import Final

from headrace.contract.columns import check_type
from headrace.domain.errors import Invalid
from headrace.domain.shape import PLAIN, Shape

NAME_MAX: Final = 1_000


def check_shape(shape: Shape) -> None:
    """Raise Invalid, naming the member, for what no table can be made with."""
    if shape == PLAIN:
        return
    for name, type_ in shape.cast.items():
        check_type(type_, f"columns.cast.{name}")
    for name, kept in shape.mask.items():
        if not 0 <= kept <= NAME_MAX:
            raise Invalid(
                f"columns.mask.{name} must be how many last characters stay, from 0.",
                field=f"columns.mask.{name}",
            )
    _check_names(shape)
    for member, one, other in (
        ("drop", shape.select, shape.drop), ("mask", shape.hash, shape.mask),
    ):  # fmt: skip
        if both := {*one} & {*other}:
            raise Invalid(
                f"columns.{member} names {min(both)!r}, which another member names too.",
                field=f"columns.{member}",
            )
    if shape.compute:
        from headrace.engine import expressions

        for name, text in shape.compute.items():
            expressions.check(name, text)


def _check_names(shape: Shape) -> None:
    names = {f"columns.rename.{old}": new for old, new in shape.rename.items()}
    names |= {f"columns.compute.{name}": name for name in shape.compute}
    for field, name in names.items():
        bad = not name.strip() or len(name) > NAME_MAX or "\0" in name
        if bad or name.casefold().startswith("__headrace_"):
            raise Invalid(f"{name[:80]!r} cannot be a column's name.", field=field)


def hash_key(secret: str, tenant: str) -> bytes:
    """Return the key that a tenant's columns are hashed with; empty without a secret."""
    return hmac.digest(secret.encode(), tenant.encode(), hashlib.sha256) if secret else b""
