"""`scripts/services run -- COMMAND`: what is needed is brought up, the command runs, what was started is ended."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Optional

from . import compose, install
from .private import KINDS, Servers
from .processes import signal_group
from .steps import CLONE, Refused, Stopped, ignore_signals, runs_folder, say, short_hash, uninterrupted

VARIABLES = {"postgres": "DATABASE_URL", "rabbitmq": "AMQP_URL"}
# How long the command may take to end after a signal, before it is killed.
COMMAND_END_SECONDS = 30.0


def run(command: list[str], only_private: bool) -> int:
    """The command's exit code; 128 and the signal's number where a signal ended it, as shells have it."""
    ours: Optional[Servers] = None
    code = 1
    try:
        needed = [kind for kind, variable in VARIABLES.items() if not os.environ.get(variable)]
        for kind in VARIABLES.keys() - needed:
            say(f"{kind}: given by {VARIABLES[kind]}")
        environment = {**os.environ, "XT_SERVICES": "given"}
        if needed:
            ours = _claim_folder(runs_folder())
            environment.update(_bring_up(ours, needed, only_private))
        code = _command(command, environment, ours)
        return code
    finally:
        if ours:
            ignore_signals()
            try:
                complaints = ours.complaints() if code else ""
                if complaints:
                    say(f"the broker's own failures, the first of its log:\n{complaints}")
            finally:
                ours.down()
                say("stopped what was started")


def _claim_folder(folder: Path) -> Servers:
    """A new folder for this run. Swept first; under a lock, lest another run sweeps up what is only half claimed."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _sweep(folder)
        ours = Servers(folder / f"{os.getpid()}-{uuid.uuid4().hex[:6]}")
        ours.claim(os.getpid())
        return ours


def _sweep(folder: Path) -> None:
    """Ends the servers of runs that were killed together with their watchdogs, in a reboot for example."""
    for left in filter(Path.is_dir, folder.iterdir()):
        try:
            if not Servers(left).is_in_use():
                say(f"clearing away what a crash left in {left}")
                Servers(left).down()
        except PermissionError:
            say(f"{left} is another user's; left alone")


def _bring_up(ours: Servers, needed: list[str], only_private: bool) -> dict:
    reason = "not wanted" if only_private else compose.why_not()
    if reason is None:
        project = f"xtservices-{short_hash(CLONE)}-{os.getpid()}"
        ours.note_compose(project)
        try:
            urls = compose.up(project, needed)
            return {"XT_SERVICES": "compose", **{VARIABLES[kind]: url for kind, url in urls.items()}}
        except Refused as refusal:
            reason = str(refusal)
    missing = [kind for kind in needed if KINDS[kind].find() is None]
    if missing:
        say(f"no docker compose ({reason}), and not installed: {', '.join(missing)}")
        install.install(missing)
    else:
        say(f"no docker compose ({reason}): private servers, which takes some seconds")
    ours.up(needed)
    told = ours.describe()
    names = {"postgres": "database_url", "rabbitmq": "amqp_url"}
    return {"XT_SERVICES": "private", **{VARIABLES[kind]: told[names[kind]] for kind in needed}}


def _command(command: list[str], environment: dict, ours: Optional[Servers]) -> int:
    # At a terminal the command shares our process group, so that it may read from it and Ctrl-C reaches it.
    # Elsewhere it has one of its own, which a signal to us then ends as a whole, whatever it has started.
    alone = not sys.stdin.isatty()
    try:
        with uninterrupted():
            process = subprocess.Popen(command, env=environment, preexec_fn=os.setpgrp if alone else None)
            if ours:
                ours.note_command(process.pid, alone)
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from error
    try:
        code = process.wait()
    except Stopped as stopped:
        # A second signal ends the wait for what the first one asked for.
        try:
            _pass_on(process, stopped.number, alone)
            process.wait(COMMAND_END_SECONDS)
        except (Stopped, subprocess.TimeoutExpired):
            _pass_on(process, signal.SIGKILL, alone)
            process.wait()
        raise
    finally:
        if alone:
            # What the command left running behind it: its servers are about to go away.
            signal_group(process.pid, signal.SIGTERM)
    return code if code >= 0 else 128 - code


def _pass_on(process: subprocess.Popen, number: int, alone: bool) -> None:
    if alone:
        signal_group(process.pid, number)
    elif number != signal.SIGINT:  # at a terminal it has had that one already
        process.send_signal(number)
