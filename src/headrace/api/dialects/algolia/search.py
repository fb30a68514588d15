"""Routes of the Search API as far as it reads: the embedded indexes, by the official client."""

import re
from typing import Annotated, Any, Final
from urllib.parse import quote

from litestar import get, post
from msgspec import Meta, Struct, field

from headrace.api.auth import AnyRequest
from headrace.api.bodies import converted
from headrace.api.dialects.algolia import translate
from headrace.domain.clock import Millis
from headrace.domain.errors import Invalid, NotFound
from headrace.domain.principal import Principal
from headrace.service.filters import Sql, either, facet_filters, filters
from headrace.service.indexes import Document, Found
from headrace.service.services import Services

Json = dict[str, Any]
HITS: Final = 20
HITS_MAX: Final = 1_000
QUERIES_MAX: Final = 50
_CURSOR: Final = re.compile(r"[0-9]{1,18}")


class Query(Struct, rename="camel"):
    """What a search names. Parameters that are not known here change nothing."""

    query: str = ""
    filters: str = ""
    facet_filters: Any = None  # a text, or lists of texts
    page: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    hits_per_page: Annotated[int, Meta(ge=0, le=HITS_MAX)] = HITS
    attributes_to_retrieve: list[str] | None = None
    cursor: str | None = None
    index_name: str | None = None
    params: str | None = None


class Wanted(Struct, rename="camel"):
    index_name: str
    object_id: str = field(name="objectID")
    attributes_to_retrieve: list[str] | None = None


@get("/1/indexes", sync_to_thread=True)
def list_indices(services: Services, principal: Principal) -> Json:
    """List the embedded indexes."""
    items = [
        {
            "name": one.name, "createdAt": translate.at(Millis(int(one.made * 1000))),
            "updatedAt": translate.at(Millis(int(one.changed * 1000))), "entries": one.entries,
            "dataSize": one.bytes, "fileSize": one.bytes, "lastBuildTimeS": 0,
            "numberOfPendingTasks": 0, "pendingTask": False,
        }
        for one in services.indexes.listed(principal.tenant.id)
    ]  # fmt: skip
    return {"items": items, "nbPages": 1}


@post("/1/indexes/{index:str}/browse", status_code=200, sync_to_thread=True, opt={"body": Query})
def browse(index: str, payload: Json, services: Services, principal: Principal) -> Json:
    """Go through all objects of an index, in pages."""
    asked: Query = converted(payload, Query)
    if found := services.ask_owner(principal, index, _path(index, "browse"), payload):
        return found  # type: ignore[no-any-return]  # as this route answers
    limit = (asked.hits_per_page if "hitsPerPage" in payload else 0) or HITS_MAX
    if asked.cursor is not None and not _CURSOR.fullmatch(asked.cursor):
        raise Invalid("cursor is not one that this index gave.", field="cursor")
    found = services.indexes.browse(
        principal.tenant.id, index, int(asked.cursor or 0), limit, _where(asked)
    )
    answer = _page(found, asked, limit)
    return answer | ({"cursor": str(found.next)} if found.next is not None else {})


@post("/1/indexes/{index:str}/query", status_code=200, sync_to_thread=True, opt={"body": Query})
def search_index(index: str, payload: Json, services: Services, principal: Principal) -> Json:
    """Search one index."""
    return _searched(services, principal, index, payload)


@post("/1/indexes/*/queries", status_code=200, sync_to_thread=True)
def search(payload: Json, services: Services, principal: Principal) -> Json:
    """Search several indexes, one after the other."""
    asked = payload.get("requests")
    if not isinstance(asked, list) or len(asked) > QUERIES_MAX:
        raise Invalid(f"requests must be a list of at most {QUERIES_MAX}.", field="requests")
    results = []
    for one in asked:
        index = converted(one, Query).index_name
        if not index:
            raise Invalid("requests.indexName is required.", field="requests.indexName")
        results.append(_searched(services, principal, index, one) | {"index": index})
    return {"results": results}


@post("/1/indexes/*/objects", status_code=200, sync_to_thread=True)
def get_objects(payload: Json, services: Services, principal: Principal) -> Json:
    """Return objects by index and objectID, null for those that are not there."""
    asked = payload.get("requests")
    if not isinstance(asked, list) or len(asked) > HITS_MAX:
        raise Invalid(f"requests must be a list of at most {HITS_MAX}.", field="requests")
    wanted: list[Wanted] = [converted(one, Wanted) for one in asked]
    found: dict[tuple[str, str], Document | None] = {}
    for index in dict.fromkeys(one.index_name for one in wanted):
        ids = [one.object_id for one in wanted if one.index_name == index]
        requests = [{"indexName": index, "objectID": id_} for id_ in ids]
        there = services.ask_owner(principal, index, _path("*", "objects"), {"requests": requests})
        documents = (
            there["results"] if there else services.indexes.get(principal.tenant.id, index, ids)
        )
        found |= {(index, id_): document for id_, document in zip(ids, documents, strict=True)}
    results = [
        None if (document := found[one.index_name, one.object_id]) is None
        else _cut(document, one.attributes_to_retrieve)
        for one in wanted
    ]  # fmt: skip
    return {"results": results}


@get("/1/indexes/{index:str}/{object_id:str}", sync_to_thread=True)
def get_object(
    index: str, object_id: str, request: AnyRequest, services: Services, principal: Principal
) -> Json:
    """Return one object."""
    found = services.ask_owner(principal, index, _path(index, object_id), None)
    if found is None:
        (found,) = services.indexes.get(principal.tenant.id, index, [object_id])
    if found is None:
        raise NotFound("ObjectID does not exist")
    attributes = request.query_params.get("attributesToRetrieve")
    return _cut(found, attributes.split(",") if attributes else None)


def _where(asked: Query) -> Sql:
    conditions = [filters(asked.filters)]
    if asked.facet_filters:
        conditions.append(facet_filters(asked.facet_filters))
    return either(conditions, "and")


def _path(index: str, rest: str) -> str:
    return f"/1/indexes/{quote(index, safe='*')}/{quote(rest, safe='')}"


def _searched(services: Services, principal: Principal, index: str, given: Json) -> Json:
    asked: Query = converted(given, Query)
    if answer := services.ask_owner(principal, index, _path(index, "query"), given):
        return answer  # type: ignore[no-any-return]  # as this route answers
    found = services.indexes.search(
        principal.tenant.id, index, asked.query, _where(asked), asked.page * asked.hits_per_page,
        asked.hits_per_page,
    )  # fmt: skip
    return _page(found, asked, asked.hits_per_page)


def _page(found: Found, asked: Query, limit: int) -> Json:
    return {
        "hits": [_cut(one, asked.attributes_to_retrieve) for one in found.documents],
        "nbHits": found.total, "page": asked.page, "nbPages": -(-found.total // max(limit, 1)),
        "hitsPerPage": limit, "exhaustiveNbHits": True, "query": asked.query, "params": "",
        "processingTimeMS": found.took_ms,
    }  # fmt: skip


def _cut(document: Document, attributes: list[str] | None) -> Document:
    if attributes is None or "*" in attributes:
        return document
    return {k: v for k, v in document.items() if k in attributes or k == "objectID"}


ROUTES: Final = (list_indices, browse, search_index, search, get_objects, get_object)
