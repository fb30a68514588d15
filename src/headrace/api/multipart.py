"""One file of a multipart body, written to disk as it comes: never held in memory."""

import hashlib
import os
from asyncio import to_thread, wait_for
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from litestar.exceptions import HTTPException
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from headrace.api.auth import AnyRequest
from headrace.domain.errors import Invalid, TooLarge, Unavailable

PART: Final = "file"
WRITE_BYTES: Final = 4 << 20  # gathered before a thread writes them
OTHERS_BYTES_MAX: Final = 1 << 20  # of parts that nobody asked for
PARTS_MAX: Final = 20
STALL_S: Final = 60.0  # without a byte


@dataclass(frozen=True, slots=True)
class Received:
    """A file that is on disk: its bytes, and their SHA-256 in hexadecimal."""

    size: int
    checksum: str


async def receive(request: AnyRequest, path: Path, bytes_max: int) -> Received:
    """Write the part named `file` to `path`, and return when it is on disk.

    Raises Invalid, TooLarge or Unavailable; what is at `path` then is the caller's to remove.
    """
    boundary = _boundary(request)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > bytes_max + OTHERS_BYTES_MAX:
        raise _too_large(bytes_max)
    try:
        with path.open("xb") as file:
            writer = _Writer(file, bytes_max)
            found = inside = False
            async for event in _events(request, boundary):
                if isinstance(event, MultipartSegment):
                    inside = event.name == PART
                    if inside and found:
                        raise Invalid("The body has two parts named file.", field=PART)
                    found |= inside
                elif event:
                    await (writer.take(event) if inside else writer.pass_over(event))
            if not found:
                raise Invalid(
                    "The multipart body has no part named file.", hint="curl -F file=@rows.parquet",
                    field=PART,
                )  # fmt: skip
            return await writer.finish()
    except OSError as error:
        raise Unavailable(
            f"The file cannot be kept: {error.strerror}.", hint="Make room, and send it again."
        ) from error


async def _events(
    request: AnyRequest, boundary: str
) -> AsyncIterator[MultipartSegment | bytes | bytearray | None]:
    """Yield each part's head, then its bytes. Raises Invalid for a body that breaks off."""
    parser = PushMultipartParser(boundary, max_segment_count=PARTS_MAX, strict=False)
    body = aiter(request.stream())
    try:
        while (data := await wait_for(anext(body, None), STALL_S)) is not None:
            for event in parser.parse(data) if data else ():
                yield event
        parser.close()
    except MultipartError as error:
        raise Invalid(
            f"The multipart body cannot be read: {error}", hint="Send it again, whole.", field=PART
        ) from error
    except HTTPException as error:
        raise Invalid("The body ended before its time.", hint="Send it again.") from error
    except TimeoutError as error:
        raise Invalid(f"Nothing has come for {STALL_S:g} s.", hint="Send it again.") from error


@dataclass(slots=True)
class _Writer:
    """Gathers bytes and has a thread write them: a slow disk holds up nobody else."""

    file: IO[bytes]
    bytes_max: int
    size: int = 0
    passed: int = 0
    gathered: bytearray = field(default_factory=bytearray)
    hash: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    async def take(self, data: bytes | bytearray) -> None:
        self.size += len(data)
        if self.size > self.bytes_max:
            raise _too_large(self.bytes_max)
        self.gathered += data
        if len(self.gathered) >= WRITE_BYTES:
            await to_thread(self._write)

    async def pass_over(self, data: bytes | bytearray) -> None:
        """Count bytes of parts that nobody asked for."""
        self.passed += len(data)
        if self.passed > OTHERS_BYTES_MAX:
            raise Invalid("The body holds more than the part named file.", field=PART)

    def _write(self) -> None:
        self.file.write(self.gathered)
        self.hash.update(self.gathered)
        self.gathered.clear()

    async def finish(self) -> Received:
        def flush() -> None:
            self._write()
            self.file.flush()
            os.fsync(self.file.fileno())

        await to_thread(flush)
        return Received(self.size, self.hash.hexdigest())


def _boundary(request: AnyRequest) -> str:
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise Invalid(
            "The body must be multipart/form-data with a part named file.",
            hint="curl -F file=@rows.parquet", field=PART,
        )  # fmt: skip
    return str(options["boundary"])


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(
        f"The file is larger than {bytes_max:,} bytes.",
        hint="Send it in several chunks, or raise HEADRACE_CHUNK_MAX.", field=PART,
    )  # fmt: skip
