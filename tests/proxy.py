"""A loopback proxy before a TCP server, which can refuse, stall and cut."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Proxy:
    """Passes bytes on. `cut_after`: bytes from the client after which both sides are cut.

    `stall_after`: bytes from the server after which nothing is passed on any more.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.refuses = False
        self.stalls = threading.Event()
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.cuts = 0
        self.connections = 0
        self._open: list[socket.socket] = []
        self._done = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._done:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.refuses:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, sink, counted in ((client, server, True), (server, client, False)):
                threading.Thread(
                    target=self._pump, args=(source, sink, counted), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                while self.stalls.is_set() and not self._done:
                    threading.Event().wait(0.05)
                passed += len(data)
                if not counted and self.stall_after is not None and passed > self.stall_after:
                    self.stalls.set()
                if counted and self.cut_after is not None and passed > self.cut_after:
                    self.cuts += 1
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def cut(self) -> None:
        """Break off every connection that is open now."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
                self.cuts += 1

    def close(self) -> None:
        self._done = True
        self._listener.close()
        for one in self._open:
            with contextlib.suppress(OSError):
                one.close()


@contextlib.contextmanager
def proxied(url: str) -> Iterator[tuple[Proxy, str]]:
    """Put a proxy before the server of a URL; yield it and the URL that leads through it."""
    parts = urlsplit(url)
    proxy = Proxy((parts.hostname or "", parts.port or 5432))
    try:
        yield proxy, url.replace(f":{parts.port}/", f":{proxy.port}/")
    finally:
        proxy.close()
