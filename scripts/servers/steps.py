"""What all parts share: telling each step, refusing with a reason, the places of this clone."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import stat
import sys
import tempfile
from pathlib import Path
from typing import Iterator

CLONE = Path(__file__).resolve().parent.parent.parent
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """It cannot be done; the message says why and what would help."""


class Stopped(BaseException):
    """A signal asked this program to end."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def stop_on_signals() -> None:
    """Makes an exception of a signal, so that what was started is ended on the way out."""

    def stop(number: int, _frame: object) -> None:
        raise Stopped(number)

    for number in ENDING:
        signal.signal(number, stop)


def ignore_signals() -> None:
    """For the way out itself: a second signal must not leave half of it running."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Puts signals off to the end of the block: between a server's start and the note of its id, for example."""
    came: list[int] = []
    before = {number: signal.signal(number, lambda got, _frame: came.append(got)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            os.kill(os.getpid(), came[0])


def say(text: str) -> None:
    """One short line to stderr: standard output belongs to the command, or to the JSON."""
    print(f"services: {text}", file=sys.stderr, flush=True)


def short_hash(text: object) -> str:
    """Tells one folder from another in names that must be short."""
    return hashlib.sha256(str(text).encode()).hexdigest()[:10]


def tail(path: Path, lines: int = 20) -> str:
    """The end of a log, for the message about a server that did not start."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def runs_folder() -> Path:
    """The folder in which each `run` keeps its servers: in the clone, else (read-only) in the temporary folder."""
    ours = CLONE / ".dev" / "services"
    try:
        ours.mkdir(parents=True, exist_ok=True)
        if os.access(ours, os.W_OK | os.X_OK):
            return ours
    except OSError:
        pass
    elsewhere = Path(tempfile.gettempdir()) / f"xt-services-{os.getuid()}-{short_hash(CLONE)}"
    elsewhere.mkdir(mode=0o700, exist_ok=True)
    found = elsewhere.lstat()
    # Its name can be foreseen, and the temporary folder is everybody's: nobody else's folder or link will do.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise Refused(f"{elsewhere} is somebody else's; set TMPDIR to a folder of your own")
    say(f"{ours} cannot be written; the servers' data goes to {elsewhere}")
    return elsewhere
