"""Processes by their identity: the id and the time of birth, so that a reused id is never mistaken for ours."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from .steps import Refused

POLL_SECONDS = 0.05
# How long a killed process may take to be gone: the kernel needs a moment to give back a large one's memory.
END_SECONDS = 15.0
FOREIGN_SETTINGS = ("PG", "RABBITMQ_", "ERL_", "POSTGRES_")


@dataclass(frozen=True)
class Identity:
    """One process, for as long as it lives."""

    pid: int
    born: str

    @staticmethod
    def of(pid: int) -> Optional["Identity"]:
        born = _born(pid)
        return Identity(pid, born) if born else None

    @staticmethod
    def read(noted: Optional[dict]) -> Optional["Identity"]:
        return Identity(noted["pid"], noted["born"]) if noted else None

    def note(self) -> dict:
        return {"pid": self.pid, "born": self.born}

    def lives(self) -> bool:
        return _born(self.pid) == self.born

    def send(self, number: int) -> None:
        if self.lives():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, number: int = signal.SIGKILL) -> None:
        """Signals the process and returns when it is gone; what ignores the signal is killed."""
        self.send(number)
        if not wait_until(lambda: not self.lives(), END_SECONDS):
            self.send(signal.SIGKILL)
            if not wait_until(lambda: not self.lives(), END_SECONDS):
                raise Refused(f"process {self.pid} does not end")


def _born(pid: int) -> Optional[str]:
    """When the process began, in the system's own words; None if it is gone, or only waits to be collected."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            return None
        return None if fields[0] in "ZX" else fields[19]
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    words = shown.stdout.split()
    return None if not words or words[0].startswith("Z") else " ".join(words[1:])


def signal_group(group: int, number: int) -> None:
    """Signals every process of a group; nothing happens where the last has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


@dataclass(frozen=True)
class User:
    """As whom the servers run: the caller or, PostgreSQL refusing root, somebody with fewer rights."""

    name: Optional[str]

    @staticmethod
    def unprivileged() -> "User":
        if os.geteuid() != 0:
            return User(None)
        for name in ("postgres", "nobody"):
            try:
                pwd.getpwnam(name)
            except KeyError:
                continue
            return User(name)
        raise Refused("PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody")

    def _switch(self) -> dict:
        if self.name is None:
            return {}
        entry = pwd.getpwnam(self.name)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Makes the user the owner of what the caller has just created."""
        if self.name is not None:
            entry = pwd.getpwnam(self.name)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def can_write(self, folder: Path) -> bool:
        """Whether the user reaches the folder at all: one above it may be closed to him, as /root is."""
        test = ["/bin/sh", "-c", 'cd "$1" 2>/dev/null && test -w .', "sh", str(folder)]
        return subprocess.run(test, cwd="/", **self._switch()).returncode == 0

    def run(self, command: list[str], environment: dict, log: Path, folder: Path) -> int:
        with log.open("ab") as out:
            return subprocess.run(
                command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **self._switch()
            ).returncode

    def start(self, command: list[str], environment: dict, log: Path, folder: Path) -> Identity:
        """Starts a server in a session of its own, where neither Ctrl-C nor a closed terminal reaches it."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                command,
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **self._switch(),
            )
        process.returncode = 0  # it outlives this program by intent: no warning about that
        return Identity.of(process.pid) or Identity(process.pid, "ended at once")


def clean_environment(**settings: str) -> dict:
    """The caller's environment without what would steer a server from outside, and with a locale that exists."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
    # On macOS PostgreSQL refuses to start where no locale is set.
    kept["LC_ALL"] = "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"
    return {**kept, **settings}
