"""Errors as answers: RFC 9457 for the native API, the vendor's shape in each dialect.

No traceback and no row's value leaves; what is unexpected is logged under a report id.
"""

from typing import Any, Final

from litestar import Request, Response
from litestar.exceptions import HTTPException

from headrace.api.auth import NoCredentials
from headrace.domain.errors import HeadraceError
from headrace.domain.ids import new_id
from headrace.observe.log import logger

AnyRequest = Request[Any, Any, Any]


def explained(request: AnyRequest, error: Exception) -> tuple[int, str, str, str, str]:
    """Return status, code, message, hint and field of any error."""
    if isinstance(error, HeadraceError):
        return error.status, error.code, error.message, error.hint, error.field
    if isinstance(error, HTTPException) and error.status_code < 500:
        codes = {404: "resource_not_found", 405: "method_not_allowed", 413: "too_large"}
        told = {
            404: f"There is nothing at {request.url.path}.",
            405: f"{request.method} cannot be done at {request.url.path}.",
        }.get(error.status_code, error.detail)
        extra = error.extra if isinstance(error.extra, list) else []
        field = str(extra[0].get("key", "")) if extra and isinstance(extra[0], dict) else ""
        if field:
            told = f"{field}: {extra[0].get('message', told)}"
        return error.status_code, codes.get(error.status_code, "bad_request"), told, "", field
    report = new_id()[-12:]
    logger().error(
        "unexpected", report=report, path=request.url.path, method=request.method, exc_info=error
    )
    return 500, "internal", "Something unexpected happened in the server.", (
        f"Its log has the details under report {report}."
    ), ""  # fmt: skip


def problem(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer as RFC 9457 problem details."""
    status, code, message, hint, field = explained(request, error)
    body: dict[str, Any] = {
        "type": f"https://headrace.dev/errors/{code}", "title": message, "status": status,
        "code": code,
    }  # fmt: skip
    body |= {"hint": hint} if hint else {}
    body |= {"field": field} if field else {}
    return _answer(body, status, "application/problem+json", error)


def algolia(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer as the Algolia Ingestion API does; never 422, which its contract lacks."""
    status, code, message, hint, _ = explained(request, error)
    if isinstance(error, HeadraceError) and status == 422:
        status = 400
    told = f"{message} {hint}".strip()
    body = {"error": {"code": code}, "message": told, "status": status}
    return _answer(body, status, "application/json", error)


def ibm(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer as IBM License Metric Tool does; its words are ours, the contract has none."""
    status, _, message, hint, _ = explained(request, error)
    return _answer({"error": f"{message} {hint}".strip()}, status, "application/json", error)


def amperity(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer as Amperity does: its object is closed, so the id for support left to the log."""
    status, _, message, hint, _ = explained(request, error)
    if isinstance(error, HeadraceError) and status == 422:
        status = 400
    body = {"status": status, "message": f"{message} {hint}".strip()}
    return _answer(body, status, "application/json", error)


LUCIDUM_CODES = {401: 401001, 429: 429001}


def lucidum(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer as Lucidum does: a code of six digits, and a message."""
    status, _, message, hint, _ = explained(request, error)
    code = LUCIDUM_CODES.get(status, status * 1000)
    told = "Invalid token" if status == 401 else f"{message} {hint}".strip()
    return _answer({"code": code, "message": told}, status, "application/json", error)


CELONIS_ERRORS = {
    400: ("Query parameter type mismatch.", "GENERAL_PARAMETER_MISSMATCH"),
    403: ("Access Denied.", "ADMIN_ACCESS_ERROR"), 404: ("Not found.", "GENERAL_NOTFOUND_OBJECT"),
    409: ("Conflict.", "GENERAL_CONFLICT"), 429: ("Too many requests.", "LIMIT_RATE_EXCEEDED"),
}  # fmt: skip


def celonis(request: AnyRequest, error: Exception) -> Response[Any]:
    """Answer as Celonis's catalogue of errors says."""
    status, _, message, hint, _ = explained(request, error)
    if isinstance(error, NoCredentials):
        return Response(message, status_code=401, media_type="text/plain")
    if status == 401:
        return Response({"error": "Unauthorized"}, status_code=401)
    title, code = CELONIS_ERRORS.get(status, ("Fatal error.", "ADMIN_FATAL_ERROR"))
    if status == 404 and isinstance(error, HTTPException):
        code = "GENERAL_NOTFOUND_PATH"
    if isinstance(error, HeadraceError):
        code = str(error.facts.get("error_code", code))
    detail = "Access is denied" if status == 403 else f"{message} {hint}".strip()
    body = {"title": title, "status": status, "detail": detail, "errorCode": code}
    return _answer(body, status, "application/json", error)


def oauth(request: AnyRequest, error: Exception) -> Response[dict[str, Any]]:
    """Answer as RFC 6749 says of a token endpoint."""
    status, _, message, hint, _ = explained(request, error)
    code = "invalid_client" if status == 401 else "invalid_request"
    if isinstance(error, HeadraceError):
        code = str(error.facts.get("error", code))
    body = {"error": code, "error_description": f"{message} {hint}".strip()}
    return _answer(body, status, "application/json", error)


BY_PATH: Final = (
    (("/1/", "/2/"), algolia), (("/CMDB/",), lucidum),
    (("/integration/", "/data-ingestion/", "/oauth2/", "/api/cloud", "/api/team"), celonis),
    (("/api/ingest/", "/api/workflow/", "/api/v0/"), amperity), (("/api/",), ibm),
)  # fmt: skip


def by_path(request: AnyRequest, error: Exception) -> Response[Any]:
    """Answer in the shape of whose path was asked for, where no route was found."""
    path = request.url.path
    found = (answer for starts, answer in BY_PATH if path.startswith(starts))
    return next(found, problem)(request, error)


def _answer(
    body: dict[str, Any], status: int, media_type: str, error: Exception
) -> Response[dict[str, Any]]:
    headers = {}
    if status in (429, 503):
        facts = error.facts if isinstance(error, HeadraceError) else {}
        headers["Retry-After"] = str(facts.get("retry_after", 5))
    if status == 405 and isinstance(error, HTTPException):
        headers |= {k: v for k, v in (error.headers or {}).items() if k.lower() == "allow"}
    return Response(body, status_code=status, media_type=media_type, headers=headers)
