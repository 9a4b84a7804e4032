"""What the servers have in common: how they are found, installed, started and ended, and as whom they run."""

import contextlib
import functools
import glob
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Optional

from .steps import Refused, own_environment, say

TAIL_LINES = 20
# Another apt-get may be at work, as on a machine that has just been started.
APT_WAITS = "DPkg::Lock::Timeout=120"


def version_in(text: str) -> tuple[int, ...]:
    """The first number of a text, dotted or not; empty if there is none."""
    found = re.search(r"\d+(\.\d+)*", text)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


@functools.lru_cache(maxsize=None)
def user() -> dict:
    """As whom the servers run, for `Popen`: the caller or, PostgreSQL refusing root, somebody with fewer rights."""
    if os.geteuid() != 0:
        return {}
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    entry = known.get("postgres") or known["nobody"]
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def give(path: Path) -> None:
    """Makes that user the owner of what the caller has just created."""
    os.chown(path, user().get("user", -1), user().get("group", -1))


def can_write(folder: Path) -> bool:
    """Whether that user reaches the folder at all: one above it may be closed to him, as /root is."""
    return subprocess.run(["test", "-w", folder], **user()).returncode == 0


class Server:
    """A folder, logs, and the programs that are run with them; one of these is the server's own process.

    A kind of server adds `version` of the programs in a folder (empty if there are none), `start`, `is_ready` and
    `describe`, which tells what somebody who uses it needs to know.
    """

    NAME: str
    URL: str  # the variable with its URL
    PROGRAMS: str  # the variable that names the folder of its programs
    MAIN: str  # its main program
    PLACES: tuple[str, ...]  # the folders that may have it, besides those of PATH
    OLDEST: str
    OLDEST_FOR: str
    APT: str
    BREW: str
    STOP: signal.Signals  # after which all is as after a crash

    def __init__(self, folder: Path):
        self.programs, self.folder = self.find() or self.install(), folder
        self.process: Optional[subprocess.Popen] = None
        self.settings: dict[str, str] = {}
        folder.mkdir(mode=0o700)
        give(folder)

    @classmethod
    def find(cls) -> Optional[Path]:
        """The folder of the newest installed programs, unless the variable names one; None if there are none."""
        named, on_path = os.environ.get(cls.PROGRAMS), shutil.which(cls.MAIN)
        places = [Path(place) for pattern in cls.PLACES for place in glob.glob(pattern)]
        if on_path:
            places.append(Path(on_path).resolve().parent)
        place = Path(named) if named else max(filter(cls.version, places), key=cls.version, default=None)
        version = place and cls.version(place)
        if place and version < version_in(cls.OLDEST):
            raise Refused(
                f"{cls.NAME} {'.'.join(map(str, version)) or '(unknown version)'} in {place} is too old: "
                f"{cls.OLDEST_FOR} {cls.OLDEST} or newer. Install a newer one, or set {cls.URL}"
            )
        return place

    @classmethod
    def install(cls) -> Path:
        """Installs it with the system's own package manager, or says what to do: sudo may ask for a password."""
        commands = []
        if shutil.which("apt-get"):
            sudo = [] if os.geteuid() == 0 else ["sudo"]
            apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", "-o", APT_WAITS]
            # Nothing is installed where all that the system offers is too old.
            wanted = f"{cls.APT} (>= {cls.OLDEST})"
            commands = [[*apt, "update"], [*apt, "satisfy", "--no-install-recommends", wanted]]
        elif shutil.which("brew"):
            commands = [["brew", "install", cls.BREW]]
        for command in commands:
            say(" ".join(command))
            with contextlib.suppress(OSError):  # no sudo
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        place = cls.find()
        if not place:
            raise Refused(
                f"{cls.NAME} not found and not installed. Install {cls.NAME} {cls.OLDEST} or newer "
                f"(Debian: apt-get install {cls.APT}), or start a Docker engine, or set {cls.URL}"
            )
        return place

    def launch(self, program: str, *arguments: str) -> subprocess.Popen:
        """Starts a program with a log of its own, in the keeper's process group."""
        # A locale that exists: on macOS PostgreSQL refuses to start where none is set.
        locale = {"LC_ALL": "en_US.UTF-8" if sys.platform == "darwin" else "C.UTF-8"}
        with (self.folder / f"{Path(program).name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(self.programs / program), *arguments],
                env={**own_environment(), **locale, **self.settings},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **user(),
            )

    def succeeds(self, program: str, *arguments: str) -> bool:
        """Runs a program to its end."""
        return self.launch(program, *arguments).wait() == 0

    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.process:
            self.process.send_signal(self.STOP)
            self.process.wait()

    def last_words(self) -> str:
        """The ends of the logs, for the message about a server that did not start."""
        logs = [log.read_text(errors="replace").splitlines() for log in sorted(self.folder.glob("**/*.log"))]
        return "\n".join(line for lines in logs for line in lines[-TAIL_LINES:])
