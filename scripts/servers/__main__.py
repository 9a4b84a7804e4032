"""The command line of `scripts/services`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from . import install
from .private import KINDS, Servers
from .processes import Identity
from .run import run
from .steps import Refused, Stopped, ignore_signals, say, stop_on_signals

WATCH_SECONDS = 0.5


def main() -> int:
    arguments = _parser().parse_args()
    stop_on_signals()
    try:
        return arguments.act(arguments)
    except Stopped as stopped:
        return 128 + stopped.number
    except Refused as refusal:
        say(str(refusal))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/services", description="PostgreSQL and RabbitMQ for demo and tests.")
    commands = parser.add_subparsers(required=True, metavar="run|private")

    running = commands.add_parser("run", help="bring both up, run a command with their URLs, stop what was started")
    running.add_argument("--private", action="store_true", help="no Docker Compose even where it would work")
    running.add_argument("command", nargs="+", metavar="COMMAND", help="after `--`")
    running.set_defaults(act=lambda given: run(given.command, given.private))

    private = commands.add_parser("private", help="servers that are left running, to be stopped and restarted at will")
    verbs = private.add_subparsers(required=True, metavar="up|start|stop|restart|down")
    up = verbs.add_parser("up", help="start both with their data under DIR; print their URLs and ids as JSON")
    up.add_argument("dir", type=Path)
    up.add_argument("--owner", type=int, metavar="PID", help="end them when this process is gone")
    up.set_defaults(act=_up)
    for verb, act, text in (
        ("start", Servers.start, "start one again, on the same port and data"),
        ("stop", Servers.stop, "stop one hard: kill -9, and PostgreSQL's immediate stop"),
        ("restart", _restart, "stop one hard and start it again"),
    ):
        one = verbs.add_parser(verb, help=text)
        one.add_argument("dir", type=Path)
        one.add_argument("kind", choices=sorted(KINDS))
        one.set_defaults(act=lambda given, act=act: _change(given, act))
    down = verbs.add_parser("down", help="stop both and remove DIR")
    down.add_argument("dir", type=Path)
    down.set_defaults(act=lambda given: Servers(given.dir).down() or 0)

    watch = commands.add_parser("watch")  # started by `up` for itself
    watch.add_argument("dir", type=Path)
    watch.set_defaults(act=_watch)
    return parser


def _up(given: argparse.Namespace) -> int:
    servers = Servers(given.dir)
    missing = [kind for kind, server in KINDS.items() if server.find() is None]
    if missing:
        install.install(missing)
    servers.claim(given.owner)
    try:
        servers.up(list(KINDS))
    except BaseException:
        ignore_signals()
        servers.down()
        raise
    return _print(servers)


def _change(given: argparse.Namespace, act) -> int:
    servers = Servers(given.dir)
    if not servers.folder.is_dir():
        raise Refused(f"there are no servers of ours in {servers.folder}")
    act(servers, given.kind)
    return _print(servers)


def _restart(servers: Servers, kind: str) -> None:
    servers.stop(kind)
    servers.start(kind)


def _print(servers: Servers) -> int:
    print(json.dumps(servers.describe()), flush=True)
    return 0


def _watch(given: argparse.Namespace) -> int:
    """Ends the servers once their owner is gone; ends itself once they are."""
    servers = Servers(given.dir)
    while servers.folder.is_dir():
        owner = Identity.read(servers.owner())
        if owner is not None and not owner.lives():
            servers.down()
            return 0
        time.sleep(WATCH_SECONDS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
