"""The OpenAPI description of everything the server answers, with the bodies that routes read.

Routes check bodies themselves (whatever the content type, with errors in the dialect's shape), so
they name the shape in `opt={"body": …}`; what a list's query may hold is the same everywhere.
"""

import re
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler

PAGING: Final = {
    "itemsPerPage": {"type": "integer", "minimum": 1, "maximum": 100},
    "page": {"type": "integer", "minimum": 1},
    "sort": {"type": "string"},
    "order": {"type": "string", "enum": ["asc", "desc"]},
}


def describe(app: Litestar) -> dict[str, Any]:
    """Return the whole description (OpenAPI 3.1)."""
    schema: dict[str, Any] = app.openapi_schema.to_schema()
    handlers = [
        (re.sub(r"\{(\w+):\w+\}", r"{\1}", path), handler)
        for route in app.routes
        for handler in getattr(route, "route_handlers", ())
        if isinstance(handler, HTTPRouteHandler)
        for path in [route.path_format if ":" not in route.path_format else route.path]
    ]
    shapes = {id(h.opt["body"]): h.opt["body"] for _, h in handlers if "body" in h.opt}
    found, components = msgspec.json.schema_components(
        list(shapes.values()), ref_template="#/components/schemas/{name}"
    )
    by_shape = dict(zip(shapes, found, strict=True))
    schema.setdefault("components", {}).setdefault("schemas", {}).update(components)
    for path, handler in handlers:
        for method in handler.http_methods:
            operation = schema["paths"].get(path, {}).get(method.lower())
            if operation is None:
                continue
            if shape := handler.opt.get("body"):
                operation["requestBody"] = {
                    "content": {"application/json": {"schema": by_shape[id(shape)]}}
                }
            if "asked" in handler.parsed_fn_signature.parameters:
                operation.setdefault("parameters", []).extend(
                    {"name": name, "in": "query", "required": False, "schema": told}
                    for name, told in PAGING.items()
                )
    return schema
