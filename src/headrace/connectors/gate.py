"""A proxy on loopback for libraries that dial by themselves: it resolves, has it judged, connects.

It speaks what HTTP clients speak to a proxy: CONNECT for TLS, whole URLs for plain HTTP.
"""

import contextlib
import socket
import threading
from errno import ECONNREFUSED
from typing import Final, Self
from urllib.parse import urlsplit

from headrace.contract.tools import Tools
from headrace.domain.errors import HeadraceError, OutsideError, Unavailable

HEAD_BYTES_MAX: Final = 64 << 10
CHUNK_BYTES: Final = 1 << 18
CONNECT_S: Final = 10.0


class Gate:
    """The proxy of one source or destination; a context manager.

    `refusal` is why the last connection was not let through, if it was not: the library behind
    the gate knows only that its proxy refused.
    """

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._door = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = {self._door}
        self._lock = threading.Lock()
        self.refusal: HeadraceError | None = None
        threading.Thread(target=self._welcome, name="headrace-gate", daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._door.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let nothing through any more, and end what is under way."""
        with self._lock:
            ending, self._open = self._open, set()
        for one in ending:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _welcome(self) -> None:
        while True:
            try:
                guest, _ = self._door.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(guest,), daemon=True).start()

    def _serve(self, guest: socket.socket) -> None:
        if not self._keep(guest):
            return
        host: socket.socket | None = None
        try:
            head = _head_of(guest)
            if not head:
                return
            host = self._dialled(head)
            if not self._keep(host):
                return
            if head.startswith(b"CONNECT "):
                guest.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                host.sendall(head)
            back = threading.Thread(target=_pour, args=(host, guest), daemon=True)
            back.start()
            _pour(guest, host)
            back.join()
        except HeadraceError as error:
            self.refusal = error
            _refuse(guest, 502 if isinstance(error, OutsideError) else 403)
        except (OSError, ValueError):
            _refuse(guest, 502)
        finally:
            self._drop(guest, host)

    def _dialled(self, head: bytes) -> socket.socket:
        method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
        port = parts.port or 80
        address = self._tools.guard_host(parts.hostname or "", port)
        try:
            host = socket.create_connection((address, port), CONNECT_S)
        except OSError as error:
            why = "refused the connection" if error.errno == ECONNREFUSED else "cannot be reached"
            raise Unavailable(
                f"{parts.hostname}:{port} {why}.", hint="Check host and port; is it up?"
            ) from error
        self.refusal = None
        return host

    def _keep(self, one: socket.socket) -> bool:
        one.settimeout(None)
        with self._lock:
            if self._door in self._open:
                self._open.add(one)
                return True
        one.close()
        return False

    def _drop(self, *ended: socket.socket | None) -> None:
        for one in ended:
            if one is not None:
                with self._lock:
                    self._open.discard(one)
                one.close()


def _head_of(guest: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        chunk = guest.recv(CHUNK_BYTES)
        if not chunk or len(head) > HEAD_BYTES_MAX:
            return b""
        head += chunk
    return head


def _pour(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := one.recv(CHUNK_BYTES):
            other.sendall(chunk)
    with contextlib.suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def _refuse(guest: socket.socket, status: int) -> None:
    with contextlib.suppress(OSError):
        guest.sendall(f"HTTP/1.1 {status} Refused\r\nContent-Length: 0\r\n\r\n".encode())
