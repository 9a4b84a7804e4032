"""A PostgreSQL of our own: where the binaries lie, how it is made, started and stopped."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import Optional

from .server import Server, User, newest
from .steps import Refused, free_port

OLDEST = 15
INIT_SECONDS = 120.0
ANSWER_SECONDS = 10.0
PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/usr/pgsql-*/bin",  # Fedora and its kin
)


def find() -> Optional[Path]:
    """The newest installed binaries; None if there are none. XT_POSTGRES_BIN names another folder."""
    place = newest("postgres", PLACES, "XT_POSTGRES_BIN", _version)
    if place and _version(place) < OLDEST:
        raise Refused(
            f"PostgreSQL {_version(place)} in {place} is too old: the ledger needs {OLDEST} or newer. "
            f"Install a newer one, or set DATABASE_URL"
        )
    return place


def _version(place: Path) -> int:
    try:
        told = subprocess.run([str(place / "postgres"), "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    return int((re.findall(r"\d+", told) or [0])[0])


class Postgres(Server):
    """A cluster and its server."""

    READY_SECONDS = 90.0
    # An immediate stop: what a crash leaves behind, except that the shared memory is given back.
    STOP = signal.SIGQUIT

    def __init__(self, programs: Path, folder: Path, user: User):
        super().__init__(programs, folder, user)
        self.port = free_port()
        self._data = str(folder / "data")
        # Nobody but this machine reaches it, so no password; the C locale is there on every machine.
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        if not self.succeeds("initdb", "-D", self._data, *options, seconds=INIT_SECONDS):
            raise Refused(f"initdb failed:\n{self.last_words()}")

    def start(self) -> None:
        address = [f"--port={self.port}", "--listen_addresses=127.0.0.1"]
        # No socket: a path in the clone may be longer than a socket's may be.
        others = ["--unix_socket_directories=", "--max_connections=300"]
        self.process = self.launch("postgres", "-D", self._data, *address, *others)

    def is_ready(self) -> bool:
        where = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        return self.succeeds("pg_isready", *where, seconds=ANSWER_SECONDS)

    end = Server.stop

    def describe(self) -> dict:
        return {"DATABASE_URL": f"postgres://postgres@127.0.0.1:{self.port}/postgres"}
