"""What the servers have in common: how they are found, as whom they run, how they are started and ended."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Callable, Optional

from .steps import Refused

FOREIGN_SETTINGS = ("PG", "RABBITMQ_", "ERL_", "POSTGRES_")
# How long a server may take to end before it is killed.
END_SECONDS = 15.0
TAIL_LINES = 20


def newest(program: str, patterns: tuple[str, ...], variable: str, version: Callable) -> Optional[Path]:
    """The folder of the newest installed version, of those places and PATH, unless the variable names one."""
    if os.environ.get(variable):
        return Path(os.environ[variable])
    places = [Path(place) for pattern in patterns for place in glob.glob(pattern)]
    places += [Path(os.path.realpath(found)).parent for found in [shutil.which(program)] if found]
    return max((place for place in places if (place / program).exists() and version(place)), key=version, default=None)


class User:
    """As whom the servers run: the caller or, PostgreSQL refusing root, somebody with fewer rights."""

    def __init__(self) -> None:
        self.switch: dict = {}
        if os.geteuid() == 0:
            known = {entry.pw_name: entry for entry in pwd.getpwall()}
            entry = known.get("postgres") or known.get("nobody")
            if not entry:
                raise Refused("PostgreSQL does not run as root, and neither the user postgres nor the user nobody exists")
            self.switch = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Makes the user the owner of what the caller has just created."""
        if self.switch:
            os.chown(path, self.switch["user"], self.switch["group"])

    def can_write(self, folder: Path) -> bool:
        """Whether the user reaches the folder at all: one above it may be closed to him, as /root is."""
        test = ["/bin/sh", "-c", 'cd "$1" 2>/dev/null && test -w .', "sh", str(folder)]
        return subprocess.run(test, cwd="/", **self.switch).returncode == 0


class Server:
    """A folder, a user, logs, and the programs that are run with them; one of these is the server's own process."""

    STOP: signal.Signals

    def __init__(self, programs: Path, folder: Path, user: User):
        self.programs, self.folder, self.user = programs, folder, user
        self.process: Optional[subprocess.Popen] = None
        folder.mkdir(mode=0o700)
        user.give(folder)

    def environment(self) -> dict:
        """The caller's, without what would steer a server from outside, and with a locale that exists."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
        # On macOS PostgreSQL refuses to start where no locale is set.
        return {**kept, "LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"}

    def launch(self, program: str, *arguments: str) -> subprocess.Popen:
        """Starts a program with a log of its own, in the keeper's process group."""
        with (self.folder / f"{Path(program).name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(self.programs / program), *arguments],
                env=self.environment(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.user.switch,
            )

    def succeeds(self, program: str, *arguments: str, seconds: float) -> bool:
        """Runs a program to its end: whether all went well in time."""
        process = self.launch(program, *arguments)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        end(process, signal.SIGKILL)
        return process.returncode == 0

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Ends it as a crash would."""
        end(self.process, self.STOP)

    def last_words(self) -> str:
        """The ends of the logs, for the message about a server that did not start."""
        logs = [log.read_text(errors="replace").splitlines() for log in sorted(self.folder.glob("**/*.log"))]
        return "\n".join(line for lines in logs for line in lines[-TAIL_LINES:])


def end(process: Optional[subprocess.Popen], number: int) -> None:
    """Signals a program that was started here, and returns when it is gone; what ignores the signal is killed."""
    if process and process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
