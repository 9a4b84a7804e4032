"""`scripts/services`: its command line, and `run`, which brings up what is needed, runs the command and ends it all."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Optional

from . import rabbitmq
from .keeper import SERVERS, keep
from .steps import ENDING, Refused, kill, say

# How long the command may take to end after a signal, before it is killed.
COMMAND_END_SECONDS = 30


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
    private.set_defaults(act=lambda _: keep(list(SERVERS), only_private=True))
    # What `run` starts.
    keeping = commands.add_parser("keep")
    keeping.add_argument("--private", action="store_true")
    keeping.add_argument("kinds", nargs="+", choices=SERVERS)
    keeping.set_defaults(act=lambda given: keep(given.kinds, given.private))
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
    needed = [kind for kind, server in SERVERS.items() if not os.environ.get(server.URL)]
    for kind in SERVERS.keys() - needed:
        say(f"{kind}: using {SERVERS[kind].URL}")
    if not needed:
        return _execute(command, {"XT_SERVICES": "given"})
    way = ["--private"] if only_private else []
    # Nobody else holds the other end of its input, which therefore ends when we do.
    keeper = subprocess.Popen(
        [sys.executable, "-m", "servers", "keep", *way, *needed], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = keeper.stdout.readline()
        told = json.loads(line) if line else {"refused": "the process that holds the servers has ended"}
        if "refused" in told:
            raise Refused(told["refused"])
        found = {name: told[name] for name in ("XT_SERVICES", *(SERVERS[kind].URL for kind in needed))}
        code = _execute(command, found, keeper.stdin)
        if code:
            rabbitmq.complain(Path(told["folder"]) / "rabbitmq")
        return code
    finally:
        # A second signal must not leave half of it running.
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        # To all of its group: what it waits for, such as Docker fetching images, need not be finished.
        kill(-keeper.pid, signal.SIGTERM)
        keeper.stdin.close()
        keeper.wait()
        # Only if it was killed itself is anything left of its group.
        kill(-keeper.pid, signal.SIGKILL)
        say("stopped the servers that were started")


def _execute(command: list[str], found: dict[str, str], keeper: Optional[IO[bytes]] = None) -> int:
    # At a terminal the command shares our process group, so that it may read from it and Ctrl-C reaches it.
    # Elsewhere it has one of its own, to which a signal to us is passed on, whatever the command has started in it.
    alone = not sys.stdin.isatty()
    target = 0
    signals: list[int] = []

    def pass_on(number: int, _) -> None:
        """The first signal as it is; the second one, or the alarm, kills."""
        if alone or number != signal.SIGINT:
            signals.append(number)
            signal.alarm(COMMAND_END_SECONDS)
            if target:
                kill(target, number if len(signals) == 1 else signal.SIGKILL)

    for number in (*ENDING, signal.SIGALRM):
        signal.signal(number, pass_on)
    try:
        process = subprocess.Popen(command, env={**os.environ, **found}, start_new_session=alone)
    except OSError as error:
        raise Refused(f"{command[0]}: {error.strerror}") from error
    target = -process.pid if alone else process.pid
    if signals:  # one that came before there was anybody to pass it on to
        kill(target, signals[0])
    if keeper:
        with contextlib.suppress(BrokenPipeError):
            os.write(keeper.fileno(), f"command {target}\n".encode())
    code = process.wait()
    signal.alarm(0)
    if signals:
        return 128 + signals[0]
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
