"""Holds servers for as long as standard input is open: `scripts/services private`, and behind `scripts/services run`.

The keeper leads a process group in which all of its servers run. There are no exceptions out of signals here: what is
being done is finished, so that no server is started and forgotten.
"""

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
from typing import Optional

from . import compose
from .postgres import Postgres
from .rabbitmq import RabbitMq
from .server import Server, can_write, give
from .steps import CLONE, ENDING, Refused, kill, say, wait_until

SERVERS = {"postgres": Postgres, "rabbitmq": RabbitMq}
OURS = CLONE / ".dev" / "services"
PREFIX = "xt-services-"
# A folder with this file has containers, under a project name that is the folder's.
IN_CONTAINERS = "containers"
READY_SECONDS = 180.0
REMOVE_SECONDS = 5.0


def keep(kinds: list[str], only_private: bool) -> int:
    """Starts the servers, obeys orders, ends the servers."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number in ENDING:
        # A signal is the end of the input.
        signal.signal(number, lambda *_: os.dup2(nothing, 0))
    # Ignored in what a shell starts by `&`, and inherited: a PostgreSQL that has only begun would not be stopped by it.
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    try:
        obstacle = "not wanted" if only_private else compose.why_not()
        if obstacle:
            for kind in kinds:
                # What is missing is installed as long as sudo can ask for a password at the terminal.
                SERVERS[kind].find() or SERVERS[kind].install()
        if not sys.stdin.isatty():
            # What ends our caller with its whole process group must not end us. A leader of one is apart already.
            with contextlib.suppress(PermissionError):
                os.setsid()
        held = Held()
        try:
            held.up(kinds, obstacle)
            held.answer()
            for line in sys.stdin:
                held.obey(*line.split())
        finally:
            held.end()
        return 0
    except Refused as refusal:
        _tell({"refused": str(refusal)})
        return 1


def _tell(what: dict) -> None:
    with contextlib.suppress(BrokenPipeError):  # the end of the input comes next
        print(json.dumps(what), flush=True)


def _input() -> bool:
    """Whether a line has come, or the end."""
    return bool(select.select([0], [], [], 0)[0])


def _sweep() -> None:
    """Clears away what a crash left, if no keeper is alive: each holds a lock until its process ends."""
    OURS.mkdir(parents=True, exist_ok=True)
    lock = os.open(OURS, os.O_RDONLY)
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in OURS.glob(f"{PREFIX}*"):
            say(f"removing what a crash left in {left}")
            _clear(left)
    fcntl.flock(lock, fcntl.LOCK_SH)


def _new_folder() -> Path:
    """A folder that the servers can write: in the clone, else among the temporary ones."""
    with contextlib.suppress(OSError):  # a clone that cannot be written to
        _sweep()
    for base in (OURS, Path(tempfile.gettempdir()), Path("/tmp")):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
            give(folder)
            if can_write(folder):
                return folder
            say(f"the servers' user cannot write to {base}")
            folder.rmdir()
    raise Refused(f"the servers' user can write neither to {OURS} nor to a temporary folder; set TMPDIR")


def _clear(folder: Path) -> None:
    if (folder / IN_CONTAINERS).exists():
        compose.down(folder.name)
    # The last children of a killed server may still write for a moment.
    wait_until(lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists(), REMOVE_SECONDS)


class Held:
    """The servers, their folder, and the command that runs on them."""

    def __init__(self) -> None:
        self._folder = _new_folder()
        self._private: dict[str, Server] = {}
        self._told = {"XT_SERVICES": "private", "folder": str(self._folder)}
        self._command = 0

    def up(self, kinds: list[str], obstacle: Optional[str]) -> None:
        """Starts the servers in containers, if nothing is against it, else private ones; returns when they answer."""
        if not obstacle:
            (self._folder / IN_CONTAINERS).touch()
            try:
                self._told.update(compose.up(self._folder.name, kinds), XT_SERVICES="compose")
                return
            except Refused as refusal:
                if _input():  # its end has stopped them
                    raise
                obstacle = str(refusal)
        say(f"starting private servers, which takes some seconds (docker compose: {obstacle})")
        # The broker takes longest to start, so it goes first and the database's start hides behind it.
        for kind in sorted(kinds, reverse=True):
            self._private[kind] = SERVERS[kind](self._folder / kind)
            self._private[kind].start()
        for kind in kinds:
            self._await(kind)

    def _await(self, kind: str) -> None:
        server = self._private[kind]
        began = time.monotonic()
        # Ready only if the server that answers is ours: a stranger might have taken the port.
        settled = wait_until(lambda: _input() or not server.lives() or server.is_ready(), READY_SECONDS)
        if _input():
            raise Refused(f"stopped waiting for {kind} to start: the input ended, or a line came before the answer")
        if not settled or not server.lives():
            raise Refused(f"{kind} did not start:\n{server.last_words()}")
        say(f"{kind}: private, port {server.port}, ready after {time.monotonic() - began:.1f} s")

    def obey(self, verb: str = "", what: str = "", *_: str) -> None:
        if verb == "command":
            # To be ended with us should `run` be killed; as `kill` takes it: less than zero is a process group.
            self._command = int(what)
            return
        try:
            self._change(verb, what)
            self.answer()
        except Refused as refusal:
            _tell({"refused": str(refusal)})

    def _change(self, verb: str, kind: str) -> None:
        if verb not in ("stop", "start", "restart") or kind not in self._private:
            raise Refused("write stop, start or restart, and the name of a server that was started here")
        server = self._private[kind]
        if verb == "start" and server.lives():
            raise Refused(f"{kind} is running")
        if verb != "start":
            server.stop()
        if verb != "stop":
            server.start()
            self._await(kind)

    def answer(self) -> None:
        """Tells what somebody who uses the servers needs to know."""
        told = dict(self._told)
        for kind, server in self._private.items():
            told.update(server.describe(), **{f"{kind}_pid": server.process.pid if server.lives() else None})
        _tell(told)

    def end(self) -> None:
        if self._command:
            # Also what it left running behind it: its servers go away.
            kill(self._command, signal.SIGTERM)
        for server in self._private.values():
            server.stop()
        _clear(self._folder)
