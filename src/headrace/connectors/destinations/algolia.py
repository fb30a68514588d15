"""An index of Algolia's search service, written by its own client.

A replace builds a temporary index and moves it into place. Other actions are written in batches
that are seen as they come: the service has no transaction around them. Each batch may safely be
sent twice, and the ledger remembers which records an interrupted attempt has made.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final

import msgspec

from headrace.connectors.families.attributes import excluded
from headrace.connectors.families.index_form import AccountConfig
from headrace.connectors.families.ledger import Ledger
from headrace.connectors.families.service_load import ServiceLoad
from headrace.contract.columns import DOCUMENT, KEY
from headrace.contract.destination import (
    Counts,
    DestinationMaker,
    DocumentRules,
    Load,
    Page,
    Target,
)
from headrace.contract.spec import Spec
from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, Invalid, Refused
from headrace.domain.rejected import Rule
from headrace.domain.task import Action
from headrace.observe import faults

if TYPE_CHECKING:
    from headrace.connectors.families.algolia_service import Index

BATCH_RECORDS: Final = 1_000
BATCH_BYTES_MAX: Final = 8 << 20  # the service takes 10 MB
VERBS: Final = {
    Action.REPLACE: "addObject", Action.APPEND: "addObject", Action.SAVE: "updateObject",
    Action.PARTIAL: "partialUpdateObject", Action.DELETE: "deleteObject",
    Action.PARTIAL_NO_CREATE: "partialUpdateObjectNoCreate",
}  # fmt: skip
RIGHTS: Final = frozenset({"addObject", "deleteObject", "deleteIndex", "editSettings"})


class AlgoliaConfig(AccountConfig, frozen=True, kw_only=True):
    """What a user fills in for an index of Algolia."""

    record_bytes_max: Annotated[int, msgspec.Meta(ge=1_000, title="Bytes of a record")] = 100_000


class Algolia:
    """One index of the service."""

    spec: ClassVar[Spec] = Spec(
        name="algolia", title="Algolia index", config=AlgoliaConfig, actions=frozenset(Action),
        documents=True, local=True,
    )  # fmt: skip

    def __init__(self, config: AlgoliaConfig, tools: Tools) -> None:
        self._config = config
        self._tools = tools
        self._most = most = config.record_bytes_max
        self.document_rules = DocumentRules(
            shaped=excluded(config.attributes_to_exclude),
            suspect=f"strlen({DOCUMENT}) > {most}",
            why=self._fault,
        )

    def _fault(self, document: str) -> tuple[Rule, str] | None:
        """Say why a record is too large; blanks and escapes of its source do not count."""
        size, most = len(msgspec.json.encode(msgspec.json.decode(document))), self._most
        if size <= most:
            return None
        return Rule.TOO_LONG, f"The record has {size:,} bytes; Algolia takes {most:,}."

    def check(self) -> None:
        """Raise unless the key has the rights that a load needs."""
        index = self._index()
        rights = set(index.rights())
        if rights and not rights >= RIGHTS:
            raise Refused(
                f"The key may not: {', '.join(sorted(RIGHTS - rights))}.",
                hint="Give the key these rights in Algolia.", field="authenticationID",
            )  # fmt: skip

    def table_for(self, wanted: str | None, stream: str) -> str:
        return self._config.index_name

    def exclusive(self) -> str | None:
        return f"algolia:{self._config.app_id}:{self._config.index_name}"[:250]

    def load(self, target: Target) -> Load:
        index = self._index()
        place = f"algolia\n{self._config.app_id}\n{self._config.index_name}"
        return AlgoliaLoad(index, Ledger(self._tools.data_dir, place, target), target, self._tools)

    def read(self, table: str, limit: int, cursor: str | None) -> Page:
        """Read a page back. The key needs the right to browse."""
        if table != self._config.index_name:
            raise Invalid(f"The destination's index is {self._config.index_name!r}.", field="table")
        rows, following = self._index().browse(limit, cursor)
        columns = list(dict.fromkeys(name for row in rows for name in row))
        return Page(columns=columns, rows=rows, next=following)

    def _index(self) -> "Index":
        from headrace.connectors.families.algolia_service import Index, checked  # a slow import

        app_id, api_key = checked(self._config.app_id, self._config.api_key, "algolia")
        return Index(self._config.index_name, app_id, api_key, self._tools)

    def close(self) -> None:
        pass


class AlgoliaLoad(ServiceLoad):
    """One load into the index."""

    def __init__(self, index: "Index", ledger: Ledger, target: Target, tools: Tools) -> None:
        super().__init__(ledger, tools)
        self._index = index
        self._target = target
        self._temporary = f"{index.name}_tmp_{target.fence}"

    def begin(self) -> str | None:
        if (note := self._ledger.begin()) is not None:
            return note
        self._clear()
        return None

    def _clear(self) -> None:
        for name in self._ledger.leftovers():
            self._index.delete(name)
            self._ledger.cleared(name)

    def commit(self, sign: Callable[[Counts], str]) -> Counts:
        try:
            if self._target.action is Action.REPLACE:
                return self._replace(sign)
            if self._target.action is Action.DROP:
                return self._drop(sign)
            return self._send(sign)
        except HeadraceError as error:
            if self._sent and self._target.action is not Action.REPLACE:
                error.message += f" {self._sent:,} records were written before that, and stay."
            raise

    def _replace(self, sign: Callable[[Counts], str]) -> Counts:
        index, temporary = self._index, self._temporary
        self._ledger.leave(temporary)
        index.copy_settings(temporary)
        counts = Counts()
        tasks = []
        for paths, documents in self._batches():
            tasks.append(index.batch(temporary, VERBS[Action.REPLACE], documents))
            _count(counts.inserted, paths)
            self._tell(len(documents))
        if not tasks:  # a move needs an index
            tasks.append(index.batch(temporary, VERBS[Action.REPLACE], [{"objectID": "none"}]))
            tasks.append(index.batch(temporary, "deleteObject", [{"objectID": "none"}]))
        index.wait(temporary, tasks)
        counts.rows_after = index.settled(temporary, self._sent)
        counts.replaced_out = index.entries(index.name) or 0
        note = sign(counts)
        self._ledger.check()
        faults.reach("child.in_commit")
        index.move_here(temporary)
        self._ledger.commit(note)
        self._ledger.cleared(temporary)
        return counts

    def _drop(self, sign: Callable[[Counts], str]) -> Counts:
        counts = Counts(replaced_out=self._index.entries(self._index.name) or 0, rows_after=0)
        note = sign(counts)
        self._index.delete(self._index.name)
        self._ledger.commit(note)
        return counts

    def _send(self, sign: Callable[[Counts], str]) -> Counts:
        index, action = self._index, self._target.action
        counts = Counts()
        tasks = []
        for paths, documents in self._batches():
            there = self._there([document["objectID"] for document in documents])
            wanted = documents
            if action is Action.PARTIAL_NO_CREATE:
                wanted = [one for one, known in zip(documents, there, strict=True) if known]
            if wanted:
                tasks.append(index.batch(index.name, VERBS[action], wanted))
            for path, known in zip(paths, there, strict=True):
                _count(_kind(counts, action, known=known), [path])
            self._tell(len(documents))
            faults.reach("child.in_commit")
        index.wait(index.name, tasks[-1:])  # the service does the tasks of an index in order
        counts.rows_after = index.entries(index.name)
        note = sign(counts)
        self._ledger.commit(note)
        return counts

    def _there(self, ids: Sequence[str]) -> list[bool]:
        """Tell of each object whether it was there before this load, its earlier attempts too."""
        if self._target.action is Action.APPEND:
            return [False] * len(ids)
        noted = self._ledger.said(ids)
        asked = [id_ for id_ in ids if id_ not in noted]
        known = self._index.known(asked) if asked else set()
        if known is None:  # the key may not look: nobody knows what is new
            known = set(asked)
        noted |= {id_: "there" if id_ in known else "new" for id_ in asked}
        self._ledger.say((id_, noted[id_]) for id_ in asked)
        return [noted[id_] == "there" for id_ in ids]

    def _tell(self, records: int) -> None:
        self._ledger.check()
        self.told("sending records to Algolia", records)

    def _batches(self) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
        """Yield file paths and documents, as many as one call may hold."""
        key = KEY
        if not self._target.key:  # an id of its own for each, the same in every attempt
            token = self._target.token.replace("'", "''")
            key = (
                f"md5('{token}' || {DOCUMENT} ||"
                f" row_number() over (partition by {DOCUMENT} order by 1))"
            )
        for batch in self.batches(key, BATCH_RECORDS, BATCH_BYTES_MAX):
            yield (
                [path for _, _, path in batch],
                [self._document(id_, text) for id_, text, _ in batch],
            )

    def _document(self, id_: str, text: str) -> dict[str, Any]:
        if self._target.action is Action.DELETE:
            return {"objectID": id_}
        document: dict[str, Any] = msgspec.json.decode(text)
        return document | {"objectID": id_}

    def abort(self) -> None:
        super().abort()
        with contextlib.suppress(HeadraceError):
            self._clear()


def _count(counts: dict[str, int], paths: Sequence[str]) -> None:
    for path in paths:
        counts[path] = counts.get(path, 0) + 1


def _kind(counts: Counts, action: Action, *, known: bool) -> dict[str, int]:
    """Return the count that a record belongs to."""
    if action is Action.DELETE:
        return counts.deleted if known else counts.unchanged
    if known:
        return counts.updated
    return counts.filtered if action is Action.PARTIAL_NO_CREATE else counts.inserted


CONNECTOR: Final[DestinationMaker] = Algolia  # type: ignore[assignment]  # narrower config
