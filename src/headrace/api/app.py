"""The HTTP app: dialects side by side, health, and the description of it all."""

import html
from typing import Any, Final

from litestar import Litestar, MediaType, Response, get
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from headrace import __version__
from headrace.api import errors
from headrace.api.auth import AnyRequest, services_of
from headrace.api.description import describe
from headrace.api.dialects.algolia.routes import ALGOLIA
from headrace.api.dialects.amperity.routes import AMPERITY
from headrace.api.dialects.celonis.routes import CELONIS
from headrace.api.dialects.ibm.routes import IBM
from headrace.api.dialects.lucidum.routes import LUCIDUM
from headrace.api.dialects.native.routes import NATIVE
from headrace.api.rates import rates_of, tell_quota
from headrace.domain.errors import Denied, Invalid
from headrace.service.services import Services

LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")


@get("/healthz", sync_to_thread=False, include_in_schema=False)
def health() -> dict[str, str]:
    """Say that the process lives."""
    return {"status": "ok", "version": __version__}


@get("/readyz", sync_to_thread=False, include_in_schema=False)
def ready(request: AnyRequest) -> Response[dict[str, str]]:
    """Say whether the server takes work, and if not, why."""
    if (why := services_of(request).ready()) is not None:
        return Response({"status": "not ready", "reason": why}, status_code=503)
    return Response({"status": "ready"})


@get("/openapi.json", sync_to_thread=False, include_in_schema=False)
def openapi(request: AnyRequest) -> dict[str, Any]:
    """Describe everything that is answered here (OpenAPI 3.1)."""
    return describe(request.app)


FACES: Final = (  # what each is called, the paths that it has, what its calls carry
    ("The native API", ("/v1/",), "<code>Authorization: Bearer KEY</code>"),
    ("Algolia Ingestion", ("/1/", "/2/"),
     "<code>x-algolia-application-id</code> (the tenant) and <code>x-algolia-api-key</code>"),
    ("Celonis", ("/integration/", "/data-ingestion/", "/oauth2/"),
     "<code>Authorization: Bearer KEY</code> or <code>AppKey KEY</code>"),
    ("Lucidum", ("/CMDB/",), "<code>Authorization: Bearer KEY</code>"),
    ("IBM License Metric Tool", ("/api/import_status",), "<code>?token=KEY</code> or a header"),
    ("Amperity", ("/",),
     ("<code>Authorization: Bearer KEY</code>, <code>amperity-tenant</code> and"
     " <code>api-version</code>")),
)  # fmt: skip


@get("/docs", media_type=MediaType.HTML, sync_to_thread=False, include_in_schema=False)
def docs(request: AnyRequest) -> str:
    """Show the API on a page that asks no other host for anything."""
    rows: dict[str, list[str]] = {name: [] for name, _, _ in FACES}
    for path, operations in sorted(describe(request.app)["paths"].items()):
        face = next(name for name, prefixes, _ in FACES if path.startswith(prefixes))
        for method, operation in operations.items():
            told = html.escape(operation.get("description", operation.get("summary", "")))
            rows[face].append(
                f"<tr><td><b>{method.upper()}</b><td><code>{html.escape(path)}</code><td>{told}"
            )
    parts = "".join(
        f"<h2 id={number}>{name}</h2><p>Calls carry {carry}.</p>"
        f"<table>{''.join(rows[name])}</table>"
        for number, (name, _, carry) in enumerate(FACES)
    )
    links = " · ".join(f"<a href='#{n}'>{name}</a>" for n, (name, _, _) in enumerate(FACES))
    return _PAGE.format(version=__version__, links=links, parts=parts)


_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>headrace API</title>
<meta name="viewport" content="width=device-width">
<style>:root{{color-scheme:light dark}}body{{font:16px/1.5 system-ui;margin:2rem auto;
max-width:64rem;padding:0 1rem}}td{{padding:.25rem .75rem .25rem 0;vertical-align:top}}
td:nth-child(2){{min-width:22rem;overflow-wrap:anywhere}}h2{{margin-top:2.5rem}}
code{{font-size:.9em}}</style>
<h1>headrace {version}</h1>
<p>{links}</p>
<p>One key works in every face. All of it is described at
<a href="/openapi.json">/openapi.json</a>.</p>
{parts}</html>"""


def check_request(request: AnyRequest) -> None:
    """Refuse what no route should have to think of."""
    if "\0" in request.url.path or "%00" in request.url.query or "\0" in request.url.query:
        raise Invalid("The path and the query must not hold the character U+0000.")
    _check_host(request)


def _check_host(request: AnyRequest) -> None:
    """Refuse foreign Host headers on loopback: a web page must not reach us by its own name."""
    settings = services_of(request).settings
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    if settings.loopback and host.lower() not in (*LOOPBACK_HOSTS, settings.host):
        raise Denied(
            "This server listens on loopback and answers to loopback names only.",
            hint="Call it as 127.0.0.1 or localhost.",
        )


def make_app(services: Services) -> Litestar:
    """Build the app over a server's services."""
    return Litestar(
        route_handlers=[
            health, ready, openapi, docs, NATIVE, ALGOLIA, AMPERITY, CELONIS, IBM, LUCIDUM,
        ],
        before_request=check_request,
        before_send=[tell_quota],
        state=State(
            {
                "services": services,
                "rates": rates_of(services.settings),
            }
        ),
        exception_handlers={Exception: errors.by_path},
        openapi_config=OpenAPIConfig(
            title="headrace", version=__version__, path="/schema",
            render_plugins=[JsonRenderPlugin()], use_handler_docstrings=True,
        ),
        cors_config=CORSConfig(
            allow_origins=["*"], allow_headers=["*"], allow_methods=["*"], allow_credentials=False
        ),
        request_max_body_size=services.settings.body_bytes_max,
        logging_config=None,
        debug=False,
    )  # fmt: skip
