"""What all parts share: telling each step, refusing with a reason, waiting, free ports."""

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
# Settings of the caller's servers and containers, and of the ways to reach them.
FOREIGN = ("PG", "POSTGRES_", "RABBITMQ_", "ERL_", "COMPOSE_")
# Each process begins elsewhere: two that start at once do not choose the same before either server listens.
_candidates = itertools.count(os.getpid() * 8)


class Refused(Exception):
    """It cannot be done; the message says why and what would help."""


def say(text: str) -> None:
    """One short line to stderr: standard output belongs to the command, or to the JSON."""
    with contextlib.suppress(OSError):  # the reader may be gone, and there is still work to do
        print(f"services: {text}", file=sys.stderr, flush=True)


def kill(target: int, number: int) -> None:
    """Signals a process, or a process group where the target is less than zero, if it is still there."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(target, number)


def own_environment() -> dict[str, str]:
    """The caller's, without what would steer our servers from outside."""
    return {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def listens(port: int) -> bool:
    """Whether somebody listens on this port of loopback."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def free_port() -> int:
    """A port that is free at this moment on every address, and another each time."""
    while True:
        port = LOWEST_PORT + next(_candidates) % PORTS
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            return port
