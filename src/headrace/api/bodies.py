"""Request bodies as JSON objects, whatever the content type says; gzip undone, bytes limited."""

import zlib
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar.exceptions import HTTPException

from headrace.api.auth import AnyRequest, services_of
from headrace.domain.errors import Invalid, TooLarge


async def payload(request: AnyRequest) -> dict[str, Any]:
    """Return the body's JSON object; empty for no body. Raises Invalid or TooLarge."""
    body = await plain_body(request)
    found: dict[str, Any] = decoded(body, dict[str, Any])
    if b"\\u0000" in body and (field := _nul_in(found)) is not None:
        raise Invalid(f"{field or 'A name'} holds the character U+0000.", field=field)
    return found


def _nul_in(value: object, path: str = "") -> str | None:
    """Return where a text holds U+0000, which no database of ours could keep alike; or None."""
    if isinstance(value, str):
        return path if "\0" in value else None
    if isinstance(value, dict):
        if any("\0" in name for name in value):
            return path
        parts = [(f"{path}.{name}" if path else name, inner) for name, inner in value.items()]
    elif isinstance(value, list):
        parts = [(f"{path}[{place}]", inner) for place, inner in enumerate(value)]
    else:
        return None
    return next((at for name, inner in parts if (at := _nul_in(inner, name)) is not None), None)


async def fields(request: AnyRequest) -> dict[str, str]:
    """Return the fields of a form, or the texts of a JSON object. Raises Invalid, TooLarge."""
    if "json" in request.headers.get("content-type", ""):
        found = await payload(request)
        return {name: value for name, value in found.items() if isinstance(value, str)}
    try:
        return dict(parse_qsl((await plain_body(request)).decode(), max_num_fields=100))
    except ValueError as error:
        raise Invalid("The body is not a form.", hint="Send name=value&name=value.") from error


async def plain_body(request: AnyRequest) -> bytes:
    """Return the body, unpacked; empty for none. Raises Invalid or TooLarge."""
    limit = services_of(request).settings.body_bytes_max
    body = await raw_body(request)
    if request.headers.get("content-encoding", "").lower() == "gzip":
        body = _gunzipped(body, limit)
    return body.strip()


async def raw_body(request: AnyRequest) -> bytes:
    """Return the body as it came. Raises TooLarge."""
    limit = services_of(request).settings.body_bytes_max
    try:
        body = await request.body()
    except HTTPException as error:
        raise _too_large(limit) from error
    if len(body) > limit:
        raise _too_large(limit)
    return body


def decoded(body: bytes, shape: type[Any]) -> Any:  # Any: of that shape
    """Read a body's JSON object. Raises Invalid, naming the field."""
    try:
        found = msgspec.json.decode(body or b"{}", type=shape)
    except msgspec.ValidationError as error:
        if "got `object`" not in str(error) and "Expected `object`, got" in str(error):
            raise Invalid("The body must be a JSON object.") from error
        raise _refused(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The body is not JSON: {error}.", hint="Send one JSON object.") from error
    return found


def _gunzipped(body: bytes, limit: int) -> bytes:
    unpack = zlib.decompressobj(31)
    try:
        plain = unpack.decompress(body, limit + 1)
    except zlib.error as error:
        raise Invalid("The body is not gzip, as its content-encoding says.") from error
    if len(plain) > limit:
        raise _too_large(limit)
    return plain


def _too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"The body is larger than {limit:,} bytes.", hint="Send less at a time, or raise"
        " HEADRACE_BODY_MAX."
    )  # fmt: skip


def converted(payload: object, shape: type[Any], where: str = "") -> Any:  # Any: of that shape
    """Check a payload, or what stands at `where` in it, against a closed shape.

    Raises Invalid, naming the field.
    """
    try:
        return msgspec.convert(payload, shape)
    except msgspec.ValidationError as error:
        raise _refused(error, where) from error


def _refused(error: msgspec.ValidationError, where: str = "") -> Invalid:
    message, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    told = f"{field}: {message}" if field else message
    for said, meant in (("unknown", "is not a field here"), ("missing required", "is required")):
        if f"{said} field `" in message:
            name = message.partition(f"{said} field `")[2].rstrip("`")
            field = ".".join(filter(None, (field, name)))
            told = f"{field} {meant}"
    if where:
        field, told = ".".join(filter(None, (where, field))), f"{where}.{told}"
    return Invalid(f"{told}.", field=field)
