"""Ports that nobody uses."""

from __future__ import annotations

import random
import socket
from pathlib import Path

# Below the range from which the kernel takes the ports of outgoing connections. Above its lower end a client that
# keeps trying to reach a stopped server can be given that very port as its own, connect to itself, and so hold the
# port against the server that wants to start again.
LOWEST, HIGHEST = 21000, 32000
RESERVED = {25672}  # RabbitMQ's own port between nodes
TRIES = 200


def free_ports(count: int) -> list[int]:
    """As many different ports as asked for, each free at this moment."""
    found: list[int] = []
    for _ in range(TRIES):
        if len(found) == count:
            return found
        port = _candidate()
        if port not in found and port not in RESERVED and is_free(port):
            found.append(port)
    while len(found) < count:
        port = _any_free_port()
        if port not in found:
            found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen there now, on loopback and on all addresses alike."""
    return all(_binds(address, port) for address in ("127.0.0.1", "0.0.0.0"))


def _candidate() -> int:
    highest = min(HIGHEST, _first_outgoing_port() - 1)
    return random.randint(LOWEST, highest) if highest > LOWEST + TRIES else _any_free_port()


def _first_outgoing_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 49152  # macOS, and the range that IANA sets aside


def _binds(address: str, port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


def _any_free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
