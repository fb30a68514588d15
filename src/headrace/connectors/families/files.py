"""Files on their way in: by path, glob or URL, from object stores; packed, in any named encoding.

Everything that is not a plain local UTF-8 file is streamed into the spool first, so that positions
are exact and records are counted in the bytes that are read.
"""

import codecs
import itertools
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import IO, Annotated, Any, Final, Literal, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from headrace.connectors.families import objects
from headrace.connectors.families.objects import Objects
from headrace.contract.columns import check_type
from headrace.contract.source import File
from headrace.contract.spec import Config, HttpUrl
from headrace.contract.tools import BadFile, Known, Tools
from headrace.domain.clock import parse_rfc3339
from headrace.domain.errors import Invalid, Misconfigured, OwnerError, Refused, Unchanged
from headrace.domain.run import Range
from headrace.domain.secret import Secret

CHUNK_BYTES: Final = 1 << 20
HEAD_BYTES: Final = 4096
UNPACKED_BYTES_MAX: Final = 64 << 30  # of one archive: a bomb stops here
UNPACKED_RATIO_MAX: Final = 2000
MEMBERS_MAX: Final = 10_000
_spool_files: Final = itertools.count()  # of this process, whose spool is its own


class FilesConfig(Config, frozen=True, kw_only=True):
    """What every file source asks for."""

    url: Annotated[
        HttpUrl,
        msgspec.Meta(
            title="URL",
            description="https://…, s3://bucket/…, gs://…, az://container/…, file:///… or a path;"
            " * and ** match.",
        ),
    ]  # fmt: skip
    method: Literal["GET", "POST"] = "GET"
    username: Annotated[
        str,
        msgspec.Meta(description="Or an access key id, an account's name, a client's e-mail."),
    ] = ""
    password: Annotated[
        Secret | None,
        msgspec.Meta(description="Or a secret key, an account key or signature, a private key."),
    ] = None
    session_token: Annotated[
        Secret | None, msgspec.Meta(description="Of temporary credentials of S3.")
    ] = None
    region: Annotated[str, msgspec.Meta(description="Of an S3 bucket: us-east-1 without.")] = ""
    endpoint: Annotated[
        str, msgspec.Meta(description="URL of an object store that is not its vendor's own.")
    ] = ""
    encoding: str = "utf-8"


def check_mapping(mapping: Mapping[str, str]) -> None:
    """Raise ValueError, naming the column, for a type that nobody may write."""
    for column, type_ in mapping.items():
        try:
            check_type(type_, f"input.mapping.{column}")
        except Invalid as error:
            raise ValueError(f"mapping of column {column}: {error}") from None


def judge_mapping(mapping: Iterable[str], names: Sequence[str], where: str) -> None:
    """Raise Misconfigured for a column that a mapping names and a file does not have."""
    for name in mapping:
        if name not in names:
            raise Misconfigured(
                f"{where} has no column {name!r}, which input.mapping names.",
                hint=f"Its columns: {', '.join(names[:20])}.", field="input.mapping",
            )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Body:
    """One file at hand, as it came: maybe packed."""

    name: str
    path: Path
    own: bool  # it lies in the spool and may be rewritten
    version: str = ""
    part: int | None = None  # of it only so many bytes are here


class Found(Protocol):
    """A file that is there, not yet read. `changed` is in seconds since 1970."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def changed(self) -> float: ...


@dataclass(frozen=True, slots=True)
class _Local:
    name: str
    path: Path
    version: str
    changed: float


F = TypeVar("F", bound=Found)
T = TypeVar("T")


def gather(
    config: FilesConfig, tools: Tools, *, text: bool = True, packed: bool = True,
    choose: objects.Choose | None = None,
) -> Iterator[File]:  # fmt: skip
    """Fetch, unpack and, if it is text, recode what `config` names; yield it in listing order.

    `packed`: an archive is one to unpack, and not a form of its own. `choose`: of an object that
    lies in a store only these parts.
    """
    encoding = _codec(config.encoding)
    for body in _bodies(config, tools, choose):
        try:
            for plain in _unpacked(body, tools) if packed else [body]:
                recoded = _recoded(plain, encoding, tools) if text else plain
                head, size = _beginning(recoded.path)
                here = body.part is None
                yield File(
                    name=recoded.name, path=str(recoded.path), version=body.version, head=head,
                    bytes=size if here else body.part or 0, body=str(body.path) if here else "",
                )  # fmt: skip
        except OwnerError as error:
            tools.bad.append(BadFile(name=body.name, bytes=body.path.stat().st_size, error=error))


def prepared(found: Iterable[File], tools: Tools, prepare: Callable[[File], T]) -> Iterator[T]:
    """Yield what `prepare` makes of each file; one that cannot be read is left out, and told."""
    for file in found:
        try:
            made = prepare(file)
        except OwnerError as error:
            tools.bad.append(BadFile(name=file.name, bytes=file.bytes, error=error))
        else:
            yield made


def check_first(
    found: Iterable[File], tools: Tools, look: Callable[[File], object] | None = None
) -> None:
    """Look at the first file that there is. Raises what is wrong with it."""
    for file in found:
        if look is not None:
            look(file)
        return
    if tools.bad:
        raise tools.bad[0].error


def _beginning(path: Path) -> tuple[bytes, int]:
    """Return the first bytes of a file, and how many there are."""
    with open(path, "rb", buffering=0) as body:  # of many thousands
        return body.read(HEAD_BYTES) or b"", os.fstat(body.fileno()).st_size


def refuse_html(file: File) -> None:
    """Raise Refused if a file that should hold rows begins like a web page."""
    head, file.head = file.head, b""
    if head.lstrip()[:20].lower().startswith((b"<!doctype html", b"<html")):
        raise Refused(
            f"{file.name} is a web page (HTML), not rows.",
            hint="Check the URL: it may need a login, or be the page around the file.",
        )


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise Invalid(
            f"No such encoding: {name!r}.",
            hint="Use a name such as utf-8, latin-1, cp1252 or utf-16.",
            field="input.encoding",
        ) from None


def _bodies(
    config: FilesConfig, tools: Tools, choose: objects.Choose | None = None
) -> Iterator[Body]:
    parts = urlsplit(config.url)
    if parts.scheme in ("http", "https"):
        headers = _credentials(config)
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if choose is not None and (some := _some(config, tools, name, choose)) is not None:
            yield some
            return
        headers |= _if_changed(name, tools.known)
        fetched = tools.fetch(config.url, method=config.method, headers=headers)
        if fetched is None or _same(name, fetched.version, tools.known):
            raise Unchanged(f"{name} has not changed since the last run.")
        yield Body(name, fetched.path, own=True, version=fetched.version)
        return
    if parts.scheme in objects.SCHEMES:
        with Objects(_place(config), tools) as store:
            wanted = _wanted(config, store.found(), tools)
            for came in store.fetched(wanted, lambda: new_spool_file(tools), choose):
                one, part = came.object, None if came.whole else came.bytes
                yield Body(one.name, came.path, own=True, version=one.version, part=part)
        return
    for local in _wanted(config, _local(config, tools), tools):
        yield Body(local.name, local.path, own=False, version=local.version)


def _some(config: FilesConfig, tools: Tools, name: str, choose: objects.Choose) -> Body | None:
    """Fetch some parts of a body into their places; None where it must come whole."""
    if config.method != "GET":
        return None
    there = tools.parts(config.url, _credentials(config))
    if there is None:
        return None
    if _same(name, there.version, tools.known):
        raise Unchanged(f"{name} has not changed since the last run.")
    wanted = choose(there.size, there.read)
    if wanted is None:
        return None
    target = new_spool_file(tools)
    came = 0
    with target.open("wb") as out:
        out.truncate(there.size)
        for start, end in wanted:
            out.seek(start)
            for at in range(start, end, objects.PART_BYTES):
                came += out.write(there.read(at, min(at + objects.PART_BYTES, end)))
                tools.told(f"fetching {name}", done=came)
    return Body(name, target, own=True, version=there.version, part=came)


def _local(config: FilesConfig, tools: Tools) -> list[_Local]:
    """Return the files that a path, a glob, or a folder that ends in / names."""
    parts = urlsplit(config.url)
    if parts.scheme not in ("", "file"):
        able = ", ".join(f"{scheme}://" for scheme in ("https", "http", *objects.SCHEMES, "file"))
        raise Misconfigured(
            f"URLs that begin with {parts.scheme}:// cannot be read.", hint=f"Use {able}.",
            field="input.url",
        )  # fmt: skip
    path = unquote(parts.path) if parts.scheme == "file" else config.url
    found = []
    for each in tools.allowed_paths(path + "**" if path.endswith("/") else path):
        stat = each.stat()
        version = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ino}"
        found.append(_Local(str(each), each, version, stat.st_mtime))
    return found


def one_file(path: str, tools: Tools) -> Path:
    """Return the one file that a path names. Raises Denied, Refused."""
    found = tools.allowed_paths(path)
    if len(found) != 1:
        what = "is not there" if not found else f"names {len(found)} files"
        raise Refused(f"{path} {what}.", hint="Check the path.", field="input.path")
    return found[0]


def _wanted(config: FilesConfig, found: Sequence[F], tools: Tools) -> Sequence[F]:
    """Return those of the files that this run is to read. Raises Unchanged for none of many."""
    if not found:
        shown = config.url.removeprefix("file://")
        raise Refused(f"No file matches {shown}.", hint="Check the path.", field="input.url")
    if tools.range is not None:
        found = [one for one in found if _is_within(one, tools.range)]
        if not found:
            raise Unchanged("No file was changed in the range.")
    changed = [one for one in found if not _known(one, tools)]
    if not changed:
        raise Unchanged(f"None of {len(found):,} files has changed since the last run.")
    return found if tools.known is None or tools.known.whole else changed


def _is_within(one: Found, wanted: Range) -> bool:
    until = parse_rfc3339(wanted.until) if wanted.until else float("inf")
    return parse_rfc3339(wanted.since) <= one.changed * 1000 < until


def _place(config: FilesConfig) -> objects.Place:
    return objects.Place(
        url=config.url, username=config.username, password=config.password,
        session_token=config.session_token, region=config.region, endpoint=config.endpoint,
    )  # fmt: skip


def look(config: FilesConfig, tools: Tools) -> dict[str, str]:
    """Return the files that are there, each with its version, without reading them."""
    parts = urlsplit(config.url)
    if parts.scheme in ("http", "https"):
        name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        version = tools.version_of(config.url, _credentials(config))
        return {} if version is None else {name: version}
    if parts.scheme in objects.SCHEMES:
        with Objects(_place(config), tools) as store:
            return {one.name: one.version for one in store.found()}
    return {one.name: one.version for one in _local(config, tools)}


def _credentials(config: FilesConfig) -> dict[str, str]:
    if not (config.username or config.password):
        return {}
    import base64

    password = config.password.reveal() if config.password else ""
    token = base64.b64encode(f"{config.username}:{password}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def _known(one: Found, tools: Tools) -> bool:
    known = tools.known
    if known is None:
        return False
    if one.name in known.versions or known.after is None:
        return known.versions.get(one.name) == one.version
    if one.changed > known.after:
        return False
    tools.passed[one.name] = one.version
    return True


def _same(name: str, version: str, known: Known | None) -> bool:
    return known is not None and bool(version) and known.versions.get(name) == version


def _if_changed(name: str, known: Known | None) -> dict[str, str]:
    """Return headers that ask for a body only if it is another than the one that is known."""
    if known is None:
        return {}
    version = known.versions.get(name, "")
    if version.startswith(('"', "W/")):
        return {"If-None-Match": version}
    if version:
        return {"If-Modified-Since": version}
    if known.after is not None and not known.versions:
        return {"If-Modified-Since": formatdate(known.after, usegmt=True)}
    return {}


def _unpacked(body: Body, tools: Tools) -> Iterator[Body]:
    with open(body.path, "rb", buffering=0) as file:  # of many thousands
        magic = file.read(4) or b""
    if magic.startswith(b"\x1f\x8b"):
        yield _spooled(body, body.name, _gunzip(body.path), tools)
    elif magic == b"\x28\xb5\x2f\xfd":
        yield _spooled(body, body.name, _unzstd(body.path), tools)
    elif magic == b"PK\x03\x04":
        yield from _members(body, tools)
    else:
        yield body


def _members(body: Body, tools: Tools) -> Iterator[Body]:
    try:
        with zipfile.ZipFile(body.path) as archive:
            infos = [
                info
                for info in sorted(archive.infolist(), key=lambda info: info.filename)
                if not info.is_dir() and not info.filename.startswith("__MACOSX/")
            ]
            if len(infos) > MEMBERS_MAX:
                raise Refused(f"{body.name} holds more than {MEMBERS_MAX:,} files.")
            for info in infos:
                if info.flag_bits & 1:
                    raise Refused(f"{body.name} is encrypted.", hint="Give it unencrypted.")
                with archive.open(info) as member:
                    chunks = iter(lambda m=member: m.read(CHUNK_BYTES), b"")  # type: ignore[misc]
                    yield _spooled(body, f"{body.name}!{info.filename}", chunks, tools)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise Refused(f"{body.name} is a damaged or unknown zip file: {error}") from error


def _gunzip(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        unpack = zlib.decompressobj(31)
        while chunk := file.read(CHUNK_BYTES):
            while chunk:
                yield unpack.decompress(chunk)
                chunk = unpack.unused_data  # another gzip member follows
                if unpack.eof:
                    chunk = chunk.lstrip(b"\0")  # padding
                    if chunk:
                        unpack = zlib.decompressobj(31)
        if not unpack.eof:
            raise EOFError("it ends in the middle")


def _unzstd(path: Path) -> Iterator[bytes]:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.OSFile(str(path)), "zstd") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def _spooled(body: Body, name: str, chunks: Iterator[bytes], tools: Tools) -> Body:
    """Write chunks into the spool, held to the limits of an archive."""
    packed = body.path.stat().st_size
    target = new_spool_file(tools)
    limit = min(UNPACKED_BYTES_MAX, max(packed, 1 << 16) * UNPACKED_RATIO_MAX)
    written = 0
    try:
        with target.open("wb") as out:
            for chunk in chunks:
                written += len(chunk)
                if written > limit:
                    raise Refused(
                        f"{body.name} unpacks to more than {limit:,} bytes.",
                        hint="It may be an archive bomb; give it in parts if it is real.",
                    )
                out.write(chunk)
                tools.told(f"unpacking {name}", done=written)
    except (zlib.error, EOFError) as error:
        raise Refused(f"{body.name} is a damaged archive: {error}.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise Refused(f"{body.name} is a damaged archive: {error}.") from error
    return Body(name, target, own=True)


def new_spool_file(tools: Tools, suffix: str = "") -> Path:
    """Return a path in the spool that nobody else has been given, whether or not it is written."""
    return tools.spool / f"body-{next(_spool_files)}{suffix}"


def _recoded(body: Body, encoding: str, tools: Tools) -> Body:
    """Return the body in UTF-8 with newlines; bytes that are not text stay what they are."""
    if encoding != "utf-8":
        target = new_spool_file(tools)
        decoder: Any = codecs.getincrementaldecoder(encoding)(errors="surrogateescape")
        with body.path.open("rb") as file, target.open("wb") as out:
            try:
                while chunk := file.read(CHUNK_BYTES):
                    out.write(decoder.decode(chunk).encode(errors="surrogateescape"))
                out.write(decoder.decode(b"", final=True).encode(errors="surrogateescape"))
            except UnicodeError as error:
                why = getattr(error, "reason", error)
                raise Refused(
                    f"{body.name} is not written in {encoding}: {why}.",
                    hint="Name the encoding that it is written in.",
                ) from error
        body = Body(body.name, target, own=True)
    with body.path.open("rb", buffering=0) as file:
        head = file.read(HEAD_BYTES) or b""
        if b"\r" in head and b"\n" not in head:
            head += file.read(CHUNK_BYTES) or b""
        if b"\r" in head and b"\n" not in head:
            # Lines end as on an old Mac. One byte for one byte, so positions stay right.
            target = new_spool_file(tools)
            file.seek(0)
            with target.open("wb") as out:
                _replace_all(file, out)
            body = Body(body.name, target, own=True)
    return body


def _replace_all(file: IO[bytes], out: IO[bytes]) -> None:
    while chunk := file.read(CHUNK_BYTES):
        out.write(chunk.replace(b"\r", b"\n"))
