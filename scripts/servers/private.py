"""A set of private servers: a folder with `state.json`, the servers' data, and a watchdog if it has an owner.

`up` notes what it is about to do before it does it, so that `down` finds everything whenever `up` was interrupted.
Every change holds the folder's lock: a watchdog, a sweep and a person may want to end the same set at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Iterator, Optional

from . import compose, postgres, rabbitmq
from .processes import Identity, User, signal_group, wait_until
from .steps import CLONE, Refused, say, short_hash, uninterrupted

KINDS = {"postgres": postgres, "rabbitmq": rabbitmq}
STATE, LOCK = "state.json", "lock"
# A port that was free when it was chosen may be taken when the server binds it; a killed PostgreSQL's last
# children may hold its memory for a moment.
START_TRIES = 3
RETRY_SECONDS = 1.0
SETTLE_SECONDS = 0.5


class Servers:
    """The servers of one folder."""

    def __init__(self, folder: Path):
        self.folder = Path(os.path.abspath(folder))
        self._state: dict = {}

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._state = self._read()
            yield

    def _read(self) -> dict:
        try:
            return json.loads((self.folder / STATE).read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise Refused(f"{self.folder / STATE} cannot be read: {error}") from error

    def _note(self, **changes: object) -> None:
        self._state.update(changes)
        new = self.folder / (STATE + ".new")
        new.write_text(json.dumps(self._state, indent=1))
        new.replace(self.folder / STATE)

    @property
    def _data(self) -> Path:
        return Path(self._state["data"])

    @property
    def _user(self) -> User:
        return User(self._state["user"])

    def claim(self, owner: Optional[int]) -> None:
        """Makes the folder ours and, for an owner, starts the watchdog: before anything that would need one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / STATE).exists():
            if self.is_in_use():
                raise Refused(f"the servers of {self.folder} are up already")
            say(f"clearing away what a crash left in {self.folder}")
            self.down()
            self.folder.mkdir(parents=True, exist_ok=True)
        if set(os.listdir(self.folder)) - {LOCK}:
            raise Refused(f"{self.folder} is not empty, and not of our making")
        with self._locked():
            keeper = Identity.of(owner) if owner else None
            if owner and not keeper:
                raise Refused(f"the owner, process {owner}, is not there")
            self._note(owner=keeper.note() if keeper else None)
            if keeper:
                self._note(watchdog=self._start_watchdog())

    def _start_watchdog(self) -> Optional[dict]:
        process = subprocess.Popen(
            [sys.executable, "-m", "servers", "watch", str(self.folder)],
            env={**os.environ, "PYTHONPATH": str(CLONE / "scripts"), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.returncode = 0  # it outlives this program by intent
        found = Identity.of(process.pid)
        return found.note() if found else None

    def up(self, kinds: list[str]) -> None:
        """Makes and starts servers of these kinds; returns when all of them answer."""
        binaries = {kind: KINDS[kind].find() for kind in kinds}
        for kind, place in binaries.items():
            if place is None:
                raise Refused(f"{kind} is not installed")
        with self._locked():
            self._choose_place()
            for attempt in range(1, START_TRIES + 1):
                try:
                    self._start_new(binaries)
                    return
                except Refused as refusal:
                    if attempt == START_TRIES or not self._port_was_taken():
                        raise
                    say(f"{refusal}; trying other ports")
                    self._end(kinds)
                    self._empty(kinds)

    def _start_new(self, binaries: dict) -> None:
        # The broker takes longest to start, so it goes first and the database's start hides behind it.
        for kind in sorted(binaries, reverse=True):
            self._note(**{kind: KINDS[kind].prepare(binaries[kind], self._data, self._user)})
            self._launch(kind)
        for kind in sorted(binaries):
            self._await(kind)

    def _choose_place(self) -> None:
        user = User.unprivileged()
        for data in (self.folder / "data", *_temporary_places(self.folder)):
            self._note(data=str(data), user=user.name)
            data.mkdir(mode=0o700, exist_ok=True)
            user.give(data)
            if user.can_write(data):
                if data.parent != self.folder:
                    say(f"user {user.name} cannot reach {self.folder}; the servers' data goes to {data}")
                return
            data.rmdir()
        raise Refused(f"user {user.name} can write neither {self.folder} nor a temporary folder; set TMPDIR")

    def _port_was_taken(self) -> bool:
        words = rabbitmq.last_words(self._data) + postgres.last_words(self._data)
        return any(sign in words for sign in ("eaddrinuse", "Address already in use", "address already in use"))

    def _launch(self, kind: str) -> None:
        noted = self._state[kind]
        if kind == "rabbitmq" and not self._alive(noted, "mapper"):
            self._begin(kind, "mapper", rabbitmq.start_mapper)
            rabbitmq.await_mapper(noted)
        self._begin(kind, "process", KINDS[kind].start)

    def _begin(self, kind: str, role: str, start: Callable[[dict, Path, User], Identity]) -> None:
        with uninterrupted():
            process = start(self._state[kind], self._data, self._user)
            self._note(**{kind: {**self._state[kind], role: process.note()}})

    @staticmethod
    def _alive(noted: dict, role: str) -> bool:
        found = Identity.read(noted.get(role))
        return found is not None and found.lives()

    def _await(self, kind: str) -> None:
        noted, server = self._state[kind], KINDS[kind]
        began = time.monotonic()
        # Ready only if the server that answers is ours: a stranger might have taken the port.
        answers = wait_until(lambda: not self._alive(noted, "process") or server.is_ready(noted), server.READY_SECONDS)
        if not answers or not self._alive(noted, "process"):
            raise Refused(f"{kind} does not start:\n{server.last_words(self._data)}")
        say(f"{kind}: private, port {noted['port']}, ready after {time.monotonic() - began:.1f} s")

    def complaints(self) -> str:
        """What the broker's log says of failures of its own."""
        self._state = self._read()
        return rabbitmq.complaints(self._data) if "rabbitmq" in self._state else ""

    def start(self, kind: str) -> None:
        with self._locked():
            if self._alive(self._server(kind), "process"):
                raise Refused(f"{kind} is running")
            for attempt in range(1, START_TRIES + 1):
                self._launch(kind)
                try:
                    self._await(kind)
                    return
                except Refused:
                    if attempt == START_TRIES or self._alive(self._state[kind], "process"):
                        raise
                    time.sleep(RETRY_SECONDS)

    def stop(self, kind: str) -> None:
        with self._locked():
            self._server(kind)
            self._end([kind])

    def _server(self, kind: str) -> dict:
        if kind not in self._state:
            raise Refused(f"there is no {kind} of ours in {self.folder}")
        return self._state[kind]

    def down(self) -> None:
        """Ends whatever of the set still runs and removes what it made; nothing happens where nothing is left."""
        if not (self.folder / LOCK).exists():
            return
        with self._locked():
            self._end_command()
            self._end([kind for kind in KINDS if kind in self._state])
            for kind in KINDS:
                mapper = Identity.read(self._state.get(kind, {}).get("mapper"))
                if mapper:
                    mapper.end()
            if "compose" in self._state:
                compose.down(self._state["compose"])
            if "data" in self._state:
                _remove(self._data)
            watchdog = Identity.read(self._state.get("watchdog"))
            for name in (STATE, STATE + ".new", LOCK):
                (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody put files of his own there: they stay
            self.folder.rmdir()
        if watchdog and watchdog.pid != os.getpid():
            watchdog.end()

    def _end_command(self) -> None:
        command = Identity.read(self._state.get("command"))
        if command and command.lives():
            if self._state["command_leads_group"]:
                signal_group(command.pid, signal.SIGTERM)
            command.send(signal.SIGTERM)

    def _end(self, kinds: list[str]) -> None:
        for kind in kinds:
            process = Identity.read(self._state.get(kind, {}).get("process"))
            if process:
                KINDS[kind].stop(process)

    def _empty(self, kinds: list[str]) -> None:
        for kind in kinds:
            mapper = Identity.read(self._state.get(kind, {}).get("mapper"))
            if mapper:
                mapper.end()
            _remove(self._data / kind)
            self._state.pop(kind, None)

    def is_in_use(self) -> bool:
        """Whether its owner lives; a set without an owner is in use while one of its servers runs."""
        state = self._read()
        if state.get("owner"):
            return self._alive(state, "owner")
        return any(self._alive(state.get(kind, {}), "process") for kind in KINDS)

    def owner(self) -> Optional[dict]:
        """The process for whose sake the servers run, as it was noted."""
        return self._read().get("owner")

    def note_command(self, pid: int, leads_group: bool) -> None:
        """Notes what runs on these servers, so that whoever ends them in our stead ends it as well."""
        process = Identity.of(pid)
        if process:
            with self._locked():
                self._note(command=process.note(), command_leads_group=leads_group)

    def note_compose(self, project: str) -> None:
        with self._locked():
            self._note(compose=project)

    def describe(self) -> dict:
        """What somebody who uses the servers needs to know."""
        state = self._read()
        told: dict = {"dir": str(self.folder), "data": state.get("data")}
        for kind, name in (("postgres", "database_url"), ("rabbitmq", "amqp_url")):
            if kind in state:
                told[name] = KINDS[kind].url(state[kind])
                told[f"{kind}_pid"] = state[kind]["process"]["pid"] if self._alive(state[kind], "process") else None
        return told


def _temporary_places(folder: Path) -> list[Path]:
    places = dict.fromkeys([tempfile.gettempdir(), "/tmp", "/var/tmp"])
    return [Path(place) / f"xt-servers-{os.getuid()}-{short_hash(folder)}" for place in places if os.path.isdir(place)]


def _remove(folder: Path) -> None:
    # The last children of a killed server may still write for a moment.
    wait_until(lambda: shutil.rmtree(folder, ignore_errors=True) or not folder.exists(), SETTLE_SECONDS)
