"""A PostgreSQL of our own: where the binaries lie, how it is made, started and stopped."""

from __future__ import annotations

import glob
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Optional

from . import pgwire
from .ports import free_ports
from .processes import Identity, User, clean_environment
from .steps import Refused, tail

OLDEST = 15
READY_SECONDS = 90.0
PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
    "/usr/pgsql-*/bin",  # Fedora and its kin
)


def find() -> Optional[Path]:
    """The newest installed binaries; None if there are none. XT_POSTGRES_BIN names another folder."""
    named = os.environ.get("XT_POSTGRES_BIN")
    if named:
        return _accepted([Path(named)])
    found = [Path(place) for pattern in PLACES for place in glob.glob(pattern)]
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(os.path.realpath(on_path)).parent)
    return _accepted([place for place in found if (place / "initdb").exists() and (place / "postgres").exists()])


def _accepted(places: list[Path]) -> Optional[Path]:
    if not places:
        return None
    version, newest = max((_version(place), str(place)) for place in places)
    if version < OLDEST:
        raise Refused(
            f"PostgreSQL {version} in {newest} is too old: the ledger needs {OLDEST} or newer. "
            f"Install a newer one, or set DATABASE_URL"
        )
    return Path(newest)


def _version(place: Path) -> int:
    try:
        told = subprocess.run([str(place / "postgres"), "--version"], capture_output=True, text=True).stdout
    except OSError:
        return 0
    found = re.search(r"\d+", told)
    return int(found.group()) if found else 0


def prepare(binaries: Path, data: Path, user: User) -> dict:
    """Makes an empty cluster; what it returns is all that starting it needs."""
    folder = data / "postgres"
    folder.mkdir(mode=0o700)
    user.give(folder)
    log = data / "postgres.log"
    # Nobody but this machine reaches it, so no password; the C locale is there on every machine.
    command = [str(binaries / "initdb"), "-D", str(folder), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
    if user.run([*command, "--locale=C", "--no-sync"], clean_environment(), log, folder) != 0:
        raise Refused(f"initdb failed:\n{tail(log)}")
    return {"binaries": str(binaries), "port": free_ports(1)[0]}


def start(noted: dict, data: Path, user: User) -> Identity:
    folder = data / "postgres"
    settings = {
        "port": noted["port"],
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",  # a path in the clone may be longer than a socket's may be
        "max_connections": 300,
    }
    command = [str(Path(noted["binaries"]) / "postgres"), "-D", str(folder)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return user.start(command, clean_environment(), data / "postgres.log", folder)


def is_ready(noted: dict) -> bool:
    try:
        with pgwire.Connection(url(noted)) as connection:
            return connection.run("select 1") == [["1"]]
    except pgwire.Failed:
        return False


def stop(process: Identity) -> None:
    """An immediate stop: what a crash leaves behind, except that the shared memory is given back."""
    process.end(signal.SIGQUIT)


def last_words(data: Path) -> str:
    return tail(data / "postgres.log")


def url(noted: dict) -> str:
    return f"postgres://postgres@127.0.0.1:{noted['port']}/postgres"
