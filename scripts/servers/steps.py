"""What all parts share: telling each step, refusing with a reason, waiting, free ports."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Callable

CLONE = Path(__file__).resolve().parent.parent.parent
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLL_SECONDS = 0.05
# Below the range from which the kernel takes the ports of outgoing connections. Within it, a client that keeps trying
# to reach a stopped server can be given that very port as its own, connect to itself, and hold the port against the
# server that wants to start again. Above RabbitMQ's own port between nodes, 25672.
LOWEST_PORT, PORTS = 26000, 6000
# Each process begins elsewhere: two that start at once do not choose the same before either server listens.
_candidates = itertools.count(os.getpid() * 8)


class Refused(Exception):
    """It cannot be done; the message says why and what would help."""


def say(text: str) -> None:
    """One short line to stderr: standard output belongs to the command, or to the JSON."""
    with contextlib.suppress(OSError):  # the reader may be gone, and there is still work to do
        print(f"services: {text}", file=sys.stderr, flush=True)


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_port() -> int:
    """A port that is free at this moment, and another each time."""
    return next(port for port in (LOWEST_PORT + number % PORTS for number in _candidates) if _is_free(port))


def _is_free(port: int) -> bool:
    """Whether a server could listen there now, on loopback and on all addresses alike."""
    for address in ("127.0.0.1", "0.0.0.0"):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
