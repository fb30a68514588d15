"""From a request to who is calling. Cookies are never looked at: some GETs start work."""

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State

from headrace.api.rates import Rates
from headrace.domain.errors import Denied, Unauthenticated
from headrace.domain.principal import Principal, Role
from headrace.service.access import need
from headrace.service.services import Services

AnyRequest = Request[None, None, State]
SAFE = ("GET", "HEAD", "OPTIONS")


def services_of(connection: ASGIConnection) -> Services:  # type: ignore[type-arg]  # any of them
    """Return the services of the app that serves this connection."""
    found: Services = connection.app.state.services
    return found


def services(request: AnyRequest) -> Services:
    """Hand the services to a route."""
    return services_of(request)


def bearer(request: AnyRequest) -> Principal:
    """Return who calls with `Authorization: Bearer KEY`. Raises Unauthenticated."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthenticated(
            "An API key is needed.", hint="Send the header `Authorization: Bearer KEY`."
        )
    return judged(request, services_of(request).access.principal(key.strip()))


def algolia(request: AnyRequest) -> Principal:
    """Return who calls with Algolia's two credentials, in headers or query.

    Raises Denied, or TooMany where the vendor's limits are switched on.
    """
    rates: tuple[Rates, Rates] = request.app.state.algolia_rates
    looks = request.method == "GET" and request.url.path.startswith("/1/runs")
    rates[looks].take(request.client.host if request.client else "")

    def given(name: str) -> str:
        return request.headers.get(name) or str(request.query_params.get(name) or "")

    wrong = "Invalid Application-ID or API key"
    try:
        found = services_of(request).access.principal(given("x-algolia-api-key"))
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
    return judged(request, services_of(request).access.principal(key.strip()))


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
