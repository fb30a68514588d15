"""Request bodies as JSON objects, whatever the content type says; gzip undone, bytes limited."""

import zlib
from typing import Any

import msgspec
from litestar.exceptions import HTTPException

from headrace.api.auth import AnyRequest, services_of
from headrace.domain.errors import Invalid, TooLarge


async def payload(request: AnyRequest) -> dict[str, Any]:
    """Return the body's JSON object; empty for no body. Raises Invalid or TooLarge."""
    limit = services_of(request).settings.body_bytes_max
    try:
        body = await request.body()
    except HTTPException as error:
        raise _too_large(limit) from error
    if len(body) > limit:
        raise _too_large(limit)
    if request.headers.get("content-encoding", "").lower() == "gzip":
        body = _gunzipped(body, limit)
    if not body.strip():
        return {}
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The body is not JSON: {error}.", hint="Send one JSON object.") from error
    if not isinstance(found, dict):
        raise Invalid("The body must be a JSON object.")
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


def converted(payload: object, shape: type[Any]) -> Any:  # Any: an instance of shape
    """Check a payload against a closed shape. Raises Invalid, naming the field."""
    try:
        return msgspec.convert(payload, shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".")
        told = message
        if "unknown field" in message:
            field = message.partition("unknown field `")[2].rstrip("`")
            told = f"{field} is not a field here"
        elif "missing required field" in message:
            field = message.partition("missing required field `")[2].rstrip("`")
            told = f"{field} is required"
        elif field:
            told = f"{field}: {message}"
        raise Invalid(f"{told}.", field=field) from error
