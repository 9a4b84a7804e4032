"""A PostgreSQL of our own: where the binaries lie, how it is made, started and stopped."""

import os
import signal
import subprocess
from pathlib import Path

from .server import Server, version_in
from .steps import Refused, free_port


class Postgres(Server):
    """A cluster and its server."""

    NAME, URL, PROGRAMS, MAIN = "PostgreSQL", "DATABASE_URL", "XT_POSTGRES_BIN", "postgres"
    PLACES = (
        "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
        "/opt/homebrew/opt/postgresql@*/bin",
        "/usr/local/opt/postgresql@*/bin",
        "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
        "/usr/pgsql-*/bin",  # Fedora and its kin
    )
    OLDEST, OLDEST_FOR = "15", "the ledger needs"
    APT, BREW = "postgresql", "postgresql@17"
    # An immediate stop: what a crash leaves behind, except that the shared memory is given back.
    STOP = signal.SIGQUIT

    @staticmethod
    def version(place: Path) -> tuple[int, ...]:
        program = place / "postgres"
        if not os.access(program, os.X_OK):
            return ()
        return version_in(subprocess.run([program, "--version"], capture_output=True, text=True).stdout)

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.port = free_port()
        self._data = str(folder / "data")
        # Nobody but this machine reaches it, so no password; the C locale is there on every machine.
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        if not self.succeeds("initdb", "-D", self._data, *options):
            raise Refused(f"initdb failed:\n{self.last_words()}")

    def start(self) -> None:
        address = [f"--port={self.port}", "--listen_addresses=127.0.0.1"]
        # No socket: a path in the clone may be longer than a socket's may be.
        others = ["--unix_socket_directories=", "--max_connections=300"]
        self.process = self.launch("postgres", "-D", self._data, *address, *others)

    def is_ready(self) -> bool:
        return self.succeeds("pg_isready", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres")

    def describe(self) -> dict:
        return {"DATABASE_URL": f"postgres://postgres@127.0.0.1:{self.port}/postgres"}
