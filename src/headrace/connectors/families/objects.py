"""Files in object stores: s3://bucket/key, gs://bucket/name, az://container/name.

Every request goes through a gate past the egress guard. Objects come into the spool in parts, many
at once, and in listing order; an object that changes while it is read is an error, not a mixture.
"""

import contextlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec

from headrace.connectors.gate import Gate
from headrace.contract.tools import Tools
from headrace.domain.errors import Misconfigured, Refused, Unavailable
from headrace.domain.secret import Secret

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")
PART_BYTES: Final = 8 << 20
AT_ONCE: Final = 12  # parts on their way; with PART_BYTES this bounds the memory
AHEAD: Final = 4 * AT_ONCE  # parts that are asked for before they are needed
CONNECT_S: Final = 10
STALL_S: Final = 60
RETRIES: Final = 4
ROOM_BYTES: Final = 64 << 20  # left free on the disk of the spool
WILD: Final = frozenset("*?[")
SCHEMES: Final = {
    "s3": "S3", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"
}  # fmt: skip
CLOUDS: Final = ("AWS_", "GOOGLE_", "AZURE_")  # variables that obstore heeds begin so
CREDENTIALS: Final = {  # and those that say who somebody is
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_", "AWS_CONTAINER_"),
    "gs": ("GOOGLE_",),
    "az": ("AZURE_",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where objects are, and who asks: `username` and `password` by the names of each store."""

    url: str
    username: str
    password: Secret | None
    session_token: Secret | None
    region: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Object:
    """One object as it was listed. `changed` is in seconds since 1970."""

    name: str
    path: str
    bytes: int
    version: str
    changed: float


@dataclass(slots=True)
class _Fetching:
    """An object on its way into `target`."""

    object: Object
    target: Path
    parts: deque[Future[int]] = field(default_factory=deque)
    bytes: int = 0  # that have come


@dataclass(frozen=True, slots=True)
class Brought:
    """An object that is at hand; of one that is not `whole` only `bytes` have come, in place."""

    object: Object
    path: Path
    bytes: int

    @property
    def whole(self) -> bool:
        return self.bytes == self.object.bytes


# Of an object's size, and of a way to read a part of it: the parts that are wanted, None for all.
Choose = Callable[[int, Callable[[int, int], bytes]], list[tuple[int, int]] | None]


class Objects:
    """The objects that a URL names; a context manager. What fails says why in our words."""

    def __init__(self, place: Place, tools: Tools) -> None:
        self._scheme, _, rest = place.url.partition("://")
        self._bucket, _, self._pattern = rest.partition("/")
        self._title = SCHEMES[self._scheme]
        if not self._bucket:
            raise Misconfigured(
                f"{place.url} names no bucket.",
                hint=f"Write {self._scheme}://BUCKET/PATH; * and ** match.", field="input.url",
            )  # fmt: skip
        self._tools = tools
        self._gate = Gate(tools)
        try:
            self._store = self._made(place)
        except BaseException:
            self._gate.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.close()

    def found(self) -> list[Object]:
        """List what the URL names, sorted by name; a URL that ends in / names all below it."""
        import obstore

        pattern = self._pattern
        if pattern and not pattern.endswith("/"):
            if not WILD & set(pattern):
                return self._single(pattern)
        else:
            pattern += "**"
        fixed = pattern[: min(pattern.find(sign) for sign in WILD if sign in pattern)]
        wanted = pattern.split("/")
        found: list[Object] = []
        pages = iter(obstore.list(self._store, prefix=fixed.rpartition("/")[0] or None))
        while (page := self._told(lambda: next(pages, None))) is not None:
            found += [
                self._object(meta)
                for meta in page
                if meta["path"].startswith(fixed) and _matches(meta["path"].split("/"), wanted)
            ]
            self._tools.told(f"listing {self._scheme}://{self._bucket}", done=len(found))
        return sorted(found, key=lambda one: one.name) or self._single(self._pattern)

    def _single(self, path: str) -> list[Object]:
        """Return the object of exactly this name; none if there is none."""
        import obstore

        if not path:
            return []
        try:
            return [self._object(self._told(lambda: obstore.head(self._store, path)))]
        except FileNotFoundError:
            self._told(lambda: next(iter(obstore.list(self._store, prefix=path)), None))
            return []  # and the bucket is there, or that has failed

    def fetched(
        self, wanted: Sequence[Object], target: Callable[[], Path], choose: Choose | None = None
    ) -> Iterator[Brought]:
        """Bring objects into files that `target` names; yield them in the same order.

        `choose`: of each only these parts, each in its place.
        """
        total = sum(one.bytes for one in wanted)
        free = shutil.disk_usage(self._tools.spool).free - ROOM_BYTES
        if total > free:
            raise Refused(
                f"{len(wanted):,} objects of {total:,} bytes do not fit into the spool, where"
                f" {free:,} bytes are free.", hint="Make room, or load fewer at a time.",
            )  # fmt: skip
        done = 0
        todo = iter(wanted)
        under_way: deque[_Fetching] = deque()
        with ThreadPoolExecutor(AT_ONCE, "headrace-objects") as threads:
            try:
                while True:
                    while sum(len(one.parts) or 1 for one in under_way) < AHEAD:
                        if (following := next(todo, None)) is None:
                            break
                        under_way.append(self._begun(following, target(), threads, choose))
                    if not under_way:
                        return
                    first = under_way.popleft()
                    while first.parts:
                        came = self._told(first.parts.popleft().result)
                        first.bytes, done = first.bytes + came, done + came
                        self._tools.told(f"fetching {first.object.name}", done=done, total=total)
                    yield Brought(first.object, first.target, first.bytes)
            finally:
                for one in under_way:
                    for part in one.parts:
                        part.cancel()

    def _begun(
        self, wanted: Object, target: Path, threads: ThreadPoolExecutor, choose: Choose | None
    ) -> _Fetching:
        fetching = _Fetching(wanted, target)
        with target.open("wb") as file:
            file.truncate(wanted.bytes)
        if choose is not None:
            fetching.parts.append(threads.submit(self._chosen, wanted, target, choose))
            return fetching
        for start in range(0, wanted.bytes, PART_BYTES):
            end = min(start + PART_BYTES, wanted.bytes)
            fetching.parts.append(threads.submit(self._part, wanted, target, start, end))
        return fetching

    def _chosen(self, wanted: Object, target: Path, choose: Choose) -> int:
        """Write the parts of an object that are wanted; return their bytes."""
        parts = choose(wanted.bytes, lambda start, end: self._read(wanted, start, end))
        came = 0
        for start, end in parts if parts is not None else [(0, wanted.bytes)]:
            for at in range(start, end, PART_BYTES):
                came += self._part(wanted, target, at, min(at + PART_BYTES, end))
        return came

    def _part(self, wanted: Object, target: Path, start: int, end: int) -> int:
        """Write one part of an object into its place; return its bytes."""
        body = self._read(wanted, start, end)
        with target.open("r+b") as file:
            file.seek(start)
            file.write(body)
        return end - start

    def _read(self, wanted: Object, start: int, end: int) -> bytes:
        """Return some bytes of an object, of the state that was listed."""
        import obstore

        if start == end:
            return b""
        answer = obstore.get(self._store, wanted.path, options={"range": (start, end)})
        body = bytes(answer.bytes())
        if _version(answer.meta) != wanted.version or len(body) != end - start:
            raise Unavailable(
                f"{wanted.name} changed while it was read.", hint="It will be read again."
            )
        return body

    def _object(self, meta: Any) -> Object:  # Any: obstore's dict of an object
        return Object(
            name=f"{self._scheme}://{self._bucket}/{meta['path']}", path=meta["path"],
            bytes=meta["size"], version=_version(meta),
            changed=meta["last_modified"].timestamp(),
        )  # fmt: skip

    def _made(self, place: Place) -> "ObjectStore":
        from obstore import exceptions

        shared: dict[str, Any] = {
            "client_options": {
                "proxy_url": self._gate.url, "allow_http": True,
                "connect_timeout": timedelta(seconds=CONNECT_S), "user_agent": "headrace",
                "timeout": timedelta(seconds=STALL_S),  # of one part
            },
            "retry_config": {
                "max_retries": RETRIES, "retry_timeout": timedelta(seconds=3 * STALL_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=200), "base": 3,
                    "max_backoff": timedelta(seconds=10),
                },
            },
        }  # fmt: skip
        make = {"s3": self._s3, "gs": self._gcs, "az": self._azure}[self._scheme]
        try:
            return make(place, shared)
        except (exceptions.BaseError, ValueError, TypeError) as error:
            raise Misconfigured(
                f"{self._title}: {_line(error)}",
                hint="Check username, password, region and endpoint.", field="input",
            ) from None  # fmt: skip

    def _s3(self, place: Place, shared: dict[str, Any]) -> "ObjectStore":
        from obstore.store import S3Store

        given: dict[str, Any] = {"access_key_id": place.username}
        if place.password:
            given["secret_access_key"] = place.password.reveal()
        if place.session_token:
            given["session_token"] = place.session_token.reveal()
        if not place.username:
            given = _anonymous(self._scheme)
        if place.region:
            given["region"] = place.region
        elif not os.environ.get("AWS_REGION"):
            given["region"] = "us-east-1"
        if place.endpoint:
            given["endpoint"] = place.endpoint
        return S3Store(self._bucket, **given, **shared)

    def _gcs(self, place: Place, shared: dict[str, Any]) -> "ObjectStore":
        from obstore.store import GCSStore

        given = _anonymous(self._scheme)
        if place.username:
            key = {
                "type": "service_account", "client_email": place.username, "private_key_id": "",
                "private_key": place.password.reveal() if place.password else "",
            }  # fmt: skip
            given = {"service_account_key": msgspec.json.encode(key).decode()}
        if place.endpoint:
            given["base_url"] = place.endpoint
        return GCSStore(self._bucket, **given, **shared)

    def _azure(self, place: Place, shared: dict[str, Any]) -> "ObjectStore":
        from obstore.store import AzureStore

        given = _anonymous(self._scheme)
        if place.password:
            password = place.password.reveal()
            signed = "sig=" in password  # a shared access signature
            given = {"sas_key": password} if signed else {"account_key": password}
        if place.username:
            given["account_name"] = place.username
        if place.endpoint:
            given["endpoint"] = place.endpoint
        return AzureStore(self._bucket, **given, **shared)

    def _told(self, ask: Callable[[], T]) -> T:
        """Ask the store; tell in our words what it refuses. A missing object stays what it is."""
        from obstore import exceptions

        try:
            return ask()
        except (exceptions.BaseError, OSError) as error:
            if self._gate.refusal is not None:
                raise self._gate.refusal from None
            text = str(error)
            if isinstance(error, FileNotFoundError) and not _is_bucket_missing(text):
                raise
            where = f"{self._scheme}://{self._bucket}"
            if isinstance(error, OSError) and error.errno is not None:
                raise  # of our own disk
            if _is_bucket_missing(text):
                raise Refused(
                    f"{self._title} has no bucket {self._bucket!r}.", hint="Check its name.",
                    field="input.url",
                ) from None  # fmt: skip
            if (
                " 403 " in text
                or " 401 " in text
                or isinstance(
                    error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError
                )
            ):
                raise Refused(
                    f"{self._title} does not let us into {where}{_code(text)}.",
                    hint="Check the credentials, and what they may do: list and get.",
                    field="input.username",
                ) from None
            if " 400 " in text or " 301 " in text:
                raise Refused(
                    f"{self._title} refuses to read {where}{_code(text)}.",
                    hint="Check region and endpoint.", field="input.region",
                ) from None  # fmt: skip
            raise Unavailable(
                f"{self._title} does not answer for {where}: {_why(text)}.",
                hint="It will be tried again.",
            ) from None


def _anonymous(scheme: str) -> dict[str, Any]:
    """Return the settings of somebody without credentials, unless this process has some.

    A server has none: it forgets them when it starts, since they are not its tenants'.
    """
    known = any(name.startswith(CREDENTIALS[scheme]) for name in os.environ)
    return {} if known else {"skip_signature": True}


def forget_credentials() -> None:
    """Remove the variables in which cloud credentials come: no tenant may use the operator's."""
    for name in list(os.environ):
        if name.startswith(CLOUDS):
            with contextlib.suppress(KeyError):
                del os.environ[name]


def _version(meta: Any) -> str:  # Any: obstore's dict of an object
    return (meta["e_tag"] or "").strip('"') or f"{meta['size']} {meta['last_modified'].isoformat()}"


def _matches(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a path is what a pattern names, segment by segment; ** is any number of them."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return _matches(path, pattern[1:]) or (bool(path) and _matches(path[1:], pattern))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and _matches(path[1:], pattern[1:])


def _is_bucket_missing(text: str) -> bool:
    return any(code in text for code in ("NoSuchBucket", "ContainerNotFound"))


def _code(text: str) -> str:
    """Return the store's own word for what is wrong, as a parenthesis."""
    word = text.partition("<Code>")[2].partition("</Code>")[0]
    return f" ({word[:60]})" if word and "<" not in word else ""


def _why(text: str) -> str:
    """Return the end of the first line of the library's message, without our gate's address."""
    first = text.partition("\n")[0].rpartition(" - ")[2]
    return _code(text).strip(" ()") or first.rstrip(" .")[:200]


def _line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
