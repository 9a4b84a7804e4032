"""A RabbitMQ of our own: where it is installed, how a node is made, started and stopped.

Everything that a node shares with others by default is its own here: name, cookie, ports, even the port mapper
(epmd), so that it neither needs nor disturbs a RabbitMQ that runs on the machine. All listen on loopback only.
"""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Optional

from .server import Server, User, end, newest
from .steps import Refused, free_port, wait_until

OLDEST = (3, 10)
MAPPER_SECONDS = 15.0
ANSWER_SECONDS = 60.0
# The programs themselves: the commands of Debian's in /usr/sbin turn away everybody but root and rabbitmq.
PLACES = (
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
)
MAPPER_PLACES = ("/usr/lib/erlang/erts-*/bin", "/opt/homebrew/opt/erlang/lib/erlang/bin")
# Words of a log line that tells of a failure of the broker's own: of a process of a queue, an alarm, its end.
COMPLAINTS = ("Reason for termination", "max_restart_intensity", "rabbit_fifo_dlx_sup}", "alarm set", "[critical]")
COMPLAINTS_MAX = 20
SETTINGS = """\
listeners.tcp.1 = 127.0.0.1:{port}
loopback_users.guest = true
disk_free_limit.absolute = 50MB
vm_memory_high_watermark.relative = 0.4
log.console = false
log.file = rabbitmq.log
"""


def find() -> Optional[Path]:
    """The folder of the newest installed server's scripts; None if there is none. XT_RABBITMQ_SBIN names another."""
    place = newest("rabbitmq-server", PLACES, "XT_RABBITMQ_SBIN", _version)
    if place:
        refuse_if_old(_version(place), str(place))
    return place


def refuse_if_old(version: tuple[int, ...], where: str) -> None:
    if version < OLDEST:
        raise Refused(
            f"RabbitMQ {'.'.join(map(str, version)) or '(unknown version)'} ({where}) is too old: message TTLs on "
            f"quorum queues and at-least-once dead-lettering need 3.10 or newer. "
            f"Install a newer one, or set AMQP_URL"
        )


def _version(place: Path) -> tuple[int, ...]:
    """Read from the name of the server's own plug-in: asking the program takes a second and an Erlang cookie."""
    script = Path(os.path.realpath(place / "rabbitmq-server"))
    plugins = (script.parent.parent / "plugins").glob("rabbit-[0-9]*")
    return max((numbers(plugin.name) for plugin in plugins), default=())


def numbers(text: str) -> tuple[int, ...]:
    """The first dotted number of a text."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


class RabbitMq(Server):
    """A node and its port mapper, which is started here because nothing ends one that Erlang starts."""

    READY_SECONDS = 180.0
    # A kill: what the broker had not yet written is lost, as with a machine that loses its power.
    STOP = signal.SIGKILL

    def __init__(self, programs: Path, folder: Path, user: User):
        super().__init__(programs, folder, user)
        self.port, self._node_port, self._mapper_port = free_port(), free_port(), free_port()
        self._mapper: Optional[subprocess.Popen] = None
        for name in ("data", "logs", "schema"):
            (folder / name).mkdir(mode=0o700)
            user.give(folder / name)
        files = {"rabbitmq.conf": SETTINGS.format(port=self.port), ".erlang.cookie": secrets.token_hex(20)}
        for name, text in files.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o400)
            user.give(folder / name)

    def start(self) -> None:
        if not self._mapper:
            self._mapper = self.launch(_mapper_program(), "-port", str(self._mapper_port), "-address", "127.0.0.1")
            # A node that finds no port mapper starts one of its own, so it must not be started before.
            if not wait_until(lambda: _listens(self._mapper_port), MAPPER_SECONDS):
                raise Refused(f"Erlang's port mapper (epmd) did not start:\n{self.last_words()}")
        self.process = self.launch("rabbitmq-server", "-noinput", "+B", "i")

    def is_ready(self) -> bool:
        # The program that asks takes a second to start: it is called when there is something to ask.
        asked = ("rabbitmq-diagnostics", "--quiet", "check_port_connectivity")
        return _listens(self.port) and self.succeeds(*asked, seconds=ANSWER_SECONDS)

    def end(self) -> None:
        self.stop()
        end(self._mapper, signal.SIGKILL)

    def describe(self) -> dict:
        """Its URL, and the words with which a call of its `rabbitmqctl` begins."""
        names = ("HOME", "ERL_EPMD_PORT", "RABBITMQ_NODENAME", "RABBITMQ_CONF_ENV_FILE")
        settings = [f"{name}={self.environment()[name]}" for name in names]
        url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"
        return {"AMQP_URL": url, "rabbitmqctl": ["env", *settings, str(self.programs / "rabbitmqctl")]}

    def complaints(self) -> str:
        """What went wrong inside the broker, the first of it, which is the cause of the rest."""
        log = self.folder / "logs" / "rabbitmq.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        # The reason itself stands on the next line.
        found = [pair for pair in zip(lines, [*lines[1:], ""]) if any(word in pair[0] for word in COMPLAINTS)]
        return "\n".join(line for pair in found[:COMPLAINTS_MAX] for line in pair)

    def environment(self) -> dict:
        home = str(self.folder)
        return {
            **super().environment(),
            "HOME": home,
            "RABBITMQ_NODENAME": f"xt{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._node_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            # None of these is there, which keeps the machine's own away.
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{home}/advanced.config",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/rabbitmq-env.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{home}/schema",
            "RABBITMQ_SCHEMA_DIR": f"{home}/schema",
            "RABBITMQ_MNESIA_BASE": f"{home}/data",
            "RABBITMQ_LOG_BASE": f"{home}/logs",
            "RABBITMQ_PID_FILE": f"{home}/node.pid",
            # The script then becomes the server instead of watching over it, so that the process we start is the one.
            "RABBITMQ_ALLOW_INPUT": "1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
        }


def _mapper_program() -> str:
    places = [place for pattern in MAPPER_PLACES for place in sorted(glob.glob(pattern))]
    found = shutil.which("epmd", path=os.pathsep.join([os.environ["PATH"], *places]))
    if not found:
        raise Refused("Erlang's port mapper (epmd) is not installed, although RabbitMQ is")
    return found


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False
