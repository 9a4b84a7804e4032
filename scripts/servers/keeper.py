"""Holds servers for as long as standard input is open: `scripts/services private`, and behind `scripts/services run`.

The keeper leads a process group in which all of its servers run. There are no exceptions out of signals here: what is
being done is finished, so that no server is started and forgotten.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

from . import compose
from .install import programs
from .postgres import Postgres
from .rabbitmq import RabbitMq
from .server import User
from .steps import CLONE, ENDING, Refused, say, wait_until

KINDS = {"postgres": Postgres, "rabbitmq": RabbitMq}
PREFIX = "xt-services-"
# A folder with this file has containers, under a project name that is the folder's.
IN_CONTAINERS = "containers"
REMOVE_SECONDS = 5.0


def keep(kinds: list[str], in_containers: bool) -> int:
    """Starts the servers, obeys orders, ends the servers."""
    if not sys.stdin.isatty():
        # What ends our caller with its whole process group must not end us. A leader of one is apart already.
        with contextlib.suppress(PermissionError):
            os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number in ENDING:
        # A signal is the end of the input.
        signal.signal(number, lambda *_: os.dup2(nothing, 0))
    try:
        user = User()
        with _own_folder(user) as folder, contextlib.closing(Servers(folder, user)) as servers:
            servers.up_in_containers(kinds) if in_containers else servers.up(kinds)
            servers.answer()
            for line in sys.stdin:
                servers.obey(line.split())
        return 0
    except Refused as refusal:
        _tell({"refused": str(refusal)})
        return 1


def _input() -> bool:
    """Whether a line has come, or the end."""
    return bool(select.select([0], [], [], 0)[0])


def _tell(what: dict) -> None:
    with contextlib.suppress(BrokenPipeError):  # the end of the input comes next
        print(json.dumps(what), flush=True)


@contextlib.contextmanager
def _own_folder(user: User) -> Iterator[Path]:
    """A new folder that the user can write, removed at the end: in the clone, else among the temporary ones."""
    ours = CLONE / ".dev" / "services"
    with contextlib.suppress(OSError):
        ours.mkdir(parents=True, exist_ok=True)
        _sweep(ours)
    for base in (ours, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        try:
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        except OSError:
            continue
        try:
            user.give(folder)
            if user.can_write(folder):
                if base != ours:
                    say(f"the servers' user cannot write to {ours}; using {base} for the data")
                yield folder
                return
        finally:
            _clear(folder)
    raise Refused(f"the servers' user can write neither to {ours} nor to a temporary folder; set TMPDIR")


def _sweep(ours: Path) -> None:
    """Clears away what a crash left, if no keeper is alive: each holds a lock until its process ends."""
    lock = os.open(ours, os.O_RDONLY)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in ours.glob(f"{PREFIX}*"):
            say(f"removing what a crash left in {left}")
            _clear(left)
    fcntl.flock(lock, fcntl.LOCK_SH)


def _clear(folder: Path) -> None:
    if (folder / IN_CONTAINERS).exists():
        compose.down(folder.name)
    # The last children of a killed server may still write for a moment.
    wait_until(lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists(), REMOVE_SECONDS)


class Servers:
    """The servers that are held, and the command that runs on them."""

    def __init__(self, folder: Path, user: User):
        self._folder, self._user = folder, user
        self._private: dict = {}
        self._contained: dict = {}
        self._command = 0
        self._failed = False

    def up(self, kinds: list[str]) -> None:
        """Makes and starts private servers; returns when all of them answer."""
        places = programs(kinds)
        # The broker takes longest to start, so it goes first and the database's start hides behind it.
        for kind in sorted(kinds, reverse=True):
            self._private[kind] = KINDS[kind](places[kind], self._folder / kind, self._user)
            self._private[kind].start()
        for kind in sorted(kinds):
            self._await(kind)

    def up_in_containers(self, kinds: list[str]) -> None:
        (self._folder / IN_CONTAINERS).touch()
        self._contained = compose.up(self._folder.name, kinds)

    def _await(self, kind: str) -> None:
        server = self._private[kind]
        began = time.monotonic()
        # Ready only if the server that answers is ours: a stranger might have taken the port.
        settled = wait_until(lambda: _input() or not server.lives() or server.is_ready(), server.READY_SECONDS)
        if _input():
            raise Refused(f"stopped waiting for {kind} to start: the input ended, or a command came before the last answer")
        if not settled or not server.lives():
            raise Refused(f"{kind} did not start:\n{server.last_words()}")
        say(f"{kind}: private, port {server.port}, ready after {time.monotonic() - began:.1f} s")

    def obey(self, words: list[str]) -> None:
        verb, what = words if len(words) == 2 else ("", "")
        if verb == "command":
            # To be ended with us should `run` be killed; as `kill` takes it: less than zero is a process group.
            self._command = int(what)
        elif verb == "ended":
            self._command, self._failed = 0, what != "0"
        else:
            try:
                self._change(verb, what)
                self.answer()
            except Refused as refusal:
                _tell({"refused": str(refusal)})

    def _change(self, verb: str, kind: str) -> None:
        if verb not in ("stop", "start", "restart") or kind not in self._private:
            raise Refused("invalid command; write stop, start or restart, and the name of a server that was started here")
        server = self._private[kind]
        if verb != "start":
            server.stop()
        elif server.lives():
            raise Refused(f"{kind} is running")
        if verb != "stop":
            server.start()
            self._await(kind)

    def answer(self) -> None:
        """Tells what somebody who uses the servers needs to know."""
        told = {"folder": str(self._folder), **self._contained}
        for kind, server in self._private.items():
            told.update(server.describe())
            told[f"{kind}_pid"] = server.process.pid if server.lives() else None
        _tell(told)

    def close(self) -> None:
        if self._command:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._command, signal.SIGTERM)
        for server in self._private.values():
            server.end()
        complaints = self._private["rabbitmq"].complaints() if self._failed and "rabbitmq" in self._private else ""
        if complaints:
            say(f"errors in the broker's log, the first ones:\n{complaints}")
