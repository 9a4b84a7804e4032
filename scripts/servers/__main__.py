"""`scripts/services`: its command line, and `run`, which brings up what is needed, runs the command and ends it all."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import Optional

from . import compose
from .install import programs
from .keeper import KINDS, keep
from .steps import ENDING, Refused, say

VARIABLES = {"postgres": "DATABASE_URL", "rabbitmq": "AMQP_URL"}
# How long the command may take to end after a signal, before it is killed.
COMMAND_END_SECONDS = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/services", description="PostgreSQL and RabbitMQ for demo and tests.")
    commands = parser.add_subparsers(required=True, metavar="run|private")
    running = commands.add_parser("run", help="bring both up, run a command with their URLs, stop what was started")
    running.add_argument("--private", action="store_true", help="no Docker Compose even where it would work")
    running.add_argument("command", nargs="+", metavar="COMMAND", help="after `--`")
    running.set_defaults(act=lambda given: run(given.command, given.private))
    private = commands.add_parser(
        "private",
        help="servers that can be stopped and started",
        description="Starts private servers and prints their URLs as a line of JSON. Each line of standard input is "
        "a verb (stop, start, restart) and a server (postgres, rabbitmq), and is answered by another such line. `stop` "
        "is a crash: kill -9, and PostgreSQL's immediate stop. The end of the input ends the servers.",
    )
    private.add_argument("--in-containers", action="store_true", help=argparse.SUPPRESS)
    private.add_argument("--only", choices=KINDS, help="one of them")
    private.set_defaults(act=lambda given: keep([given.only] if given.only else list(KINDS), given.in_containers))
    arguments = parser.parse_args()
    # An exception out of a signal, so that what was started is ended on the way out.
    for number in ENDING:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        return arguments.act(arguments)
    except Refused as refusal:
        say(str(refusal))
        return 1


def run(command: list[str], only_private: bool) -> int:
    """The command's exit code; 128 and the signal's number where a signal ended it, as shells have it."""
    needed = [kind for kind, variable in VARIABLES.items() if not os.environ.get(variable)]
    for kind in VARIABLES.keys() - needed:
        say(f"{kind}: using {VARIABLES[kind]}")
    keeper = Keeper()
    code = 1
    try:
        found = keeper.up(needed, only_private) if needed else {"XT_SERVICES": "given"}
        code = _command(command, {**os.environ, **found}, keeper)
        return code
    finally:
        # A second signal must not leave half of it running.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        keeper.end(code)


class Keeper:
    """The process that holds the servers (`keeper.py`), if any is needed."""

    def __init__(self) -> None:
        self._process: Optional[subprocess.Popen] = None
        self._told: dict = {}

    def up(self, kinds: list[str], only_private: bool) -> dict:
        """The variables with which the command finds the servers."""
        reason = "not wanted" if only_private else compose.why_not()
        if reason is None:
            self._start(kinds, "--in-containers")
            reason = self._told.get("refused")
            if not reason:
                return self._variables("compose")
        say(f"docker compose is not available ({reason}); starting private servers, which takes some seconds")
        programs(kinds)
        self._start(kinds)
        if "refused" in self._told:
            raise Refused(self._told["refused"])
        return self._variables("private")

    def _start(self, kinds: list[str], *options: str) -> None:
        only = ["--only", *kinds] if len(kinds) == 1 else []
        # Nobody else holds the other end of its input, which therefore ends when we do.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "servers", "private", *only, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        line = self._process.stdout.readline()
        self._told = json.loads(line) if line else {"refused": "the process that holds the servers has ended"}

    def _variables(self, way: str) -> dict:
        urls = {name: self._told[name] for name in VARIABLES.values() if name in self._told}
        return {"XT_SERVICES": way, **urls}

    def order(self, line: str) -> None:
        if self._process:
            with contextlib.suppress(OSError):
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()

    def end(self, code: int) -> None:
        """Returns when the servers are gone."""
        if self._process:
            self.order(f"ended {code}")
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            if not self._told:
                # It need not finish what it has begun.
                _kill(-self._process.pid, signal.SIGTERM)
            self._process.wait()
            # Only if it was killed is anything left of its group.
            _kill(-self._process.pid, signal.SIGKILL)
            say("stopped the servers that were started")


def _command(command: list[str], environment: dict, keeper: Keeper) -> int:
    # At a terminal the command shares our process group, so that it may read from it and Ctrl-C reaches it.
    # Elsewhere it has one of its own, which a signal to us then ends as a whole, whatever it has started.
    alone = not sys.stdin.isatty()

    def begin() -> None:
        if alone:
            os.setpgrp()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    # Signals wait until it is known what they have to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        process = subprocess.Popen(command, env=environment, preexec_fn=begin)
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from error
    target = -process.pid if alone else process.pid
    keeper.order(f"command {target}")
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        code = process.wait()
        return code if code >= 0 else 128 - code
    except SystemExit as stopped:
        number = stopped.code - 128
        if alone or number != signal.SIGINT:  # at a terminal it has had that one already
            _kill(target, number)
        # A second signal ends the wait for what the first one asked for.
        try:
            process.wait(COMMAND_END_SECONDS)
        except (SystemExit, subprocess.TimeoutExpired):
            _kill(target, signal.SIGKILL)
            process.wait()
        raise
    finally:
        if alone:
            # What the command left running behind it: its servers are about to go away.
            _kill(target, signal.SIGTERM)


def _kill(target: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(target, number)


if __name__ == "__main__":
    sys.exit(main())
