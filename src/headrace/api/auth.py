"""From a request to who is calling. Cookies are never looked at: some GETs start work."""

import base64
from dataclasses import replace
from urllib.parse import unquote

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State

from headrace.domain.errors import Denied, Unauthenticated
from headrace.domain.principal import Principal, Role
from headrace.service.access import need
from headrace.service.services import Services

AnyRequest = Request[None, None, State]
SAFE = ("GET", "HEAD", "OPTIONS")
DATA_POOLS = "integration.data-pools"  # the scope of a token that may do what its key may
DATA_PUSH = "integration.data-pools:data_push"  # may push data only
VIA_MAX = 300  # characters of a call that the audit log keeps


def services_of(connection: ASGIConnection) -> Services:  # type: ignore[type-arg]  # any of them
    """Return the services of the app that serves this connection."""
    found: Services = connection.app.state.services
    return found


def services(request: AnyRequest) -> Services:
    """Hand the services to a route."""
    return services_of(request)


def holder(request: AnyRequest, given: str) -> Principal:
    """Return who holds a key or token. Raises Unauthenticated, Denied for another scope."""
    found = services_of(request).access.principal(given)
    allowed = (DATA_POOLS, request.route_handler.opt.get("scope"))
    if found.scopes and not found.scopes.intersection(filter(None, allowed)):
        raise Denied(f"The token is for {' '.join(sorted(found.scopes))} only.")
    return replace(found, via=came_by(request))


def came_by(request: AnyRequest) -> str:
    """Return by which call (without its query) and from where somebody comes."""
    came = f"{request.method} {request.url.path}"[:VIA_MAX]
    return f"{came} from {request.client.host if request.client else '?'}"


def bearer(request: AnyRequest) -> Principal:
    """Return who calls with `Authorization: Bearer KEY`. Raises Unauthenticated."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated(
            "An API key is needed.", hint="Send the header `Authorization: Bearer KEY`."
        )
    return judged(request, holder(request, key.strip()))


def algolia(request: AnyRequest) -> Principal:
    """Return who calls with Algolia's two credentials, in headers or query.

    Raises Denied.
    """

    def given(name: str) -> str:
        return request.headers.get(name) or str(request.query_params.get(name) or "")

    wrong = "Invalid Application-ID or API key"
    try:
        found = holder(request, given("x-algolia-api-key"))
    except Unauthenticated:
        raise Denied(wrong) from None
    if found.tenant.name != given("x-algolia-application-id"):
        raise Denied(wrong)
    return judged(request, found)


class NoCredentials(Unauthenticated):
    """Nothing that looks like a credential was sent."""


def celonis(request: AnyRequest) -> Principal:
    """Return who calls with Bearer or AppKey. Raises Unauthenticated."""
    given = request.headers.get("authorization")
    if given is None:
        raise Unauthenticated("Unauthorized")
    scheme, _, key = given.partition(" ")
    if scheme.lower() not in ("bearer", "appkey") or not key.strip():
        raise NoCredentials(
            "The Authorization header has the wrong form: it must start with `Bearer ` or"
            " `AppKey ` (case insensitive)."
        )
    return judged(request, holder(request, key.strip()))


def basic_password(request: AnyRequest) -> str | None:
    """Return the password of `Authorization: Basic`, None without one. Raises Unauthenticated."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(given, validate=True).decode().partition(":")
    except ValueError:
        raise Unauthenticated("The Basic credentials cannot be read.") from None
    return unquote(password)


def refuse_prefetch(request: AnyRequest) -> None:
    """Raise Denied where a browser only guesses that a GET which starts work will be wanted."""
    purpose = " ".join(
        request.headers.get(name, "") for name in ("sec-purpose", "purpose", "x-moz")
    )
    if "prefetch" in purpose.lower():
        raise Denied("A prefetch starts nothing.")


def judged(request: AnyRequest, principal: Principal) -> Principal:
    """Raise Denied where the principal's role may not do what the method does."""
    need(principal, Role.VIEWER if request.method in SAFE else Role.OPERATOR)
    return principal
