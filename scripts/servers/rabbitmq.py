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
from pathlib import Path
from typing import Optional

from . import amqp_login
from .ports import free_ports
from .processes import Identity, User, clean_environment, wait_until
from .steps import Refused, short_hash, tail

OLDEST = (3, 10)
READY_SECONDS = 180.0
MAPPER_SECONDS = 15.0
# The programs themselves: the commands of Debian's in /usr/sbin turn away everybody but root and rabbitmq.
PLACES = (
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
    "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
)
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
    """The folder of the newest installed server's scripts. XT_RABBITMQ_SBIN names another."""
    named = os.environ.get("XT_RABBITMQ_SBIN")
    if named:
        return _accepted([Path(named)])
    found = [Path(place) for pattern in PLACES for place in glob.glob(pattern)]
    on_path = shutil.which("rabbitmq-server")
    if on_path:
        found.append(Path(os.path.realpath(on_path)).parent)
    return _accepted([place for place in found if version(place)])


def _accepted(places: list[Path]) -> Optional[Path]:
    if not places:
        return None
    newest = max(places, key=version)
    refuse_if_old(".".join(map(str, version(newest))), str(newest))
    return newest


def refuse_if_old(told: str, where: str) -> None:
    """Says why a broker will not do, whether its version was read from the disk, from apt or from itself."""
    if numbers(told) < OLDEST:
        raise Refused(
            f"RabbitMQ {told or 'of unknown version'} ({where}) is too old: time limits on quorum queues and "
            f"at-least-once dead-lettering came with 3.10, and no event is safe without them. "
            f"Install a newer one, or set AMQP_URL"
        )


def version(place: Path) -> tuple[int, ...]:
    """Read from the name of the server's own plug-in: asking the program takes a second and an Erlang cookie."""
    script = Path(os.path.realpath(place / "rabbitmq-server"))
    if not script.exists():
        return ()
    plugins = glob.glob(str(script.parent.parent / "plugins" / "rabbit-[0-9]*"))
    return max((numbers(Path(plugin).name) for plugin in plugins), default=())


def numbers(text: str) -> tuple[int, ...]:
    """The first dotted number of a text: `1:3.12.1-1ubuntu1` (an epoch stands before it) is 3.12.1."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(number) for number in found.group().split(".")) if found else ()


def prepare(scripts: Path, data: Path, user: User) -> dict:
    """Writes a node's settings; what it returns is all that starting it needs."""
    home = data / "rabbitmq"
    for folder in (home, home / "data", home / "logs", home / "schema"):
        folder.mkdir(mode=0o700)
        user.give(folder)
    port, node_port, mapper_port = free_ports(3)
    files = {
        "rabbitmq.conf": SETTINGS.format(port=port),
        "enabled_plugins": "[].\n",
        "rabbitmq-env.conf": "",
        ".erlang.cookie": secrets.token_hex(20),
    }
    for name, text in files.items():
        (home / name).write_text(text)
        (home / name).chmod(0o400 if name == ".erlang.cookie" else 0o600)
        user.give(home / name)
    return {
        "scripts": str(scripts),
        "node": f"xt{short_hash(data)}@localhost",
        "port": port,
        "node_port": node_port,
        "mapper_port": mapper_port,
    }


def start_mapper(noted: dict, data: Path, user: User) -> Identity:
    """The node's own epmd, started by us so that we know its id; Erlang would start one that nobody ends."""
    home = data / "rabbitmq"
    command = [_mapper(), "-port", str(noted["mapper_port"]), "-address", "127.0.0.1"]
    return user.start(command, _environment(noted, home), home / "logs" / "epmd.log", home)


def await_mapper(noted: dict) -> None:
    """A node that finds no port mapper starts one of its own, so it must not be started before."""
    if not wait_until(lambda: _listens(noted["mapper_port"]), MAPPER_SECONDS):
        raise Refused("Erlang's port mapper (epmd) does not start")


def start(noted: dict, data: Path, user: User) -> Identity:
    home = data / "rabbitmq"
    log = home / "logs" / "start.log"
    command = [str(Path(noted["scripts"]) / "rabbitmq-server"), "-noinput", "+B", "i"]
    return user.start(command, _environment(noted, home), log, home)


def is_ready(noted: dict) -> bool:
    try:
        told = amqp_login.broker_version(noted["port"])
    except OSError:
        return False
    refuse_if_old(told, "as it says itself")
    return True


def stop(process: Identity) -> None:
    """A kill: what the broker had not yet written is lost, as with a machine that loses its power."""
    process.end(signal.SIGKILL)


def url(noted: dict) -> str:
    return f"amqp://guest:guest@127.0.0.1:{noted['port']}/%2f"


def last_words(data: Path) -> str:
    logs = data / "rabbitmq" / "logs"
    return tail(logs / "start.log") + "\n" + tail(logs / "rabbitmq.log")


def complaints(data: Path) -> str:
    """What went wrong inside the broker, the first of it, which is the cause of the rest: not what it told a client."""
    try:
        lines = (data / "rabbitmq" / "logs" / "rabbitmq.log").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    # The reason itself stands on the next line.
    found = [pair for pair in zip(lines, [*lines[1:], ""]) if any(word in pair[0] for word in COMPLAINTS)]
    return "\n".join(line for pair in found[:COMPLAINTS_MAX] for line in pair)


def _environment(noted: dict, home: Path) -> dict:
    return clean_environment(
        HOME=str(home),
        RABBITMQ_NODENAME=noted["node"],
        RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
        RABBITMQ_NODE_PORT=str(noted["port"]),
        RABBITMQ_DIST_PORT=str(noted["node_port"]),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="-kernel inet_dist_use_interface {127,0,0,1}",
        RABBITMQ_CONFIG_FILE=str(home / "rabbitmq.conf"),
        RABBITMQ_ADVANCED_CONFIG_FILE=str(home / "advanced.config"),
        RABBITMQ_CONF_ENV_FILE=str(home / "rabbitmq-env.conf"),
        RABBITMQ_GENERATED_CONFIG_DIR=str(home / "schema"),
        RABBITMQ_SCHEMA_DIR=str(home / "schema"),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(home / "enabled_plugins"),
        RABBITMQ_MNESIA_BASE=str(home / "data"),
        RABBITMQ_LOG_BASE=str(home / "logs"),
        RABBITMQ_PID_FILE=str(home / "node.pid"),
        # The script then becomes the server instead of watching over it, so that the process we start is the one.
        RABBITMQ_ALLOW_INPUT="1",
        ERL_EPMD_PORT=str(noted["mapper_port"]),
        ERL_EPMD_ADDRESS="127.0.0.1",
        ERL_CRASH_DUMP_SECONDS="0",
    )


def _mapper() -> str:
    on_path = shutil.which("epmd")
    inside = glob.glob("/usr/lib/erlang/erts-*/bin/epmd") + glob.glob("/opt/homebrew/opt/erlang/lib/erlang/bin/epmd")
    if not on_path and not inside:
        raise Refused("Erlang's port mapper (epmd) is not installed although RabbitMQ is")
    return on_path or sorted(inside)[-1]


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False
