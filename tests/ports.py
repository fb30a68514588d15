"""Ports for servers of the tests: no two are given the same one, in whichever process they ask."""

import os
import random
import socket

_FIRST, _ENOUGH = 10_000, 2_000  # below the ports that a system gives to those who only call
_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens at and that no other worker of the tests is given.

    A port that the system names is soon named again, to another worker too: a test then finds
    somebody else's server behind it.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker % 10 * _ENOUGH
    while True:
        port = random.randrange(first, first + _ENOUGH)
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
