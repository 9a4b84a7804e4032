"""A RabbitMQ of our own: where it is installed, how a node is made, started and stopped.

Everything that a node shares with others by default is its own here: name, cookie, ports, even the port mapper
(epmd), so that it neither needs nor disturbs a RabbitMQ that runs on the machine. All listen on loopback only.
"""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Optional

from .server import Server, version_in
from .steps import Refused, free_port, listens, say, wait_until

MAPPER_SECONDS = 15.0
HOMEBREW_ERLANG = "/opt/homebrew/opt/erlang/lib/erlang/bin"
# A line of the log that tells of a failure of the broker's own: of a process of a queue, an alarm, its end. The reason
# itself stands on the next line.
COMPLAINT = re.compile(
    r".*(?:Reason for termination|max_restart_intensity|rabbit_fifo_dlx_sup}|alarm set|\[critical\]).*\n?.*"
)
COMPLAINTS_MAX = 20
CONFIGURATION = """\
disk_free_limit.absolute = 50MB
log.console = false
log.file = rabbitmq.log
"""


class RabbitMq(Server):
    """A node and its port mapper, which is started here because nothing ends one that Erlang starts."""

    NAME, URL, PROGRAMS, MAIN = "RabbitMQ", "AMQP_URL", "XT_RABBITMQ_SBIN", "rabbitmq-server"
    # The programs themselves: the commands of Debian's in /usr/sbin turn away everybody but root and rabbitmq.
    PLACES = (
        "/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin",
        "/opt/homebrew/opt/rabbitmq/sbin",
        "/usr/local/opt/rabbitmq/sbin",
        "/home/linuxbrew/.linuxbrew/opt/rabbitmq/sbin",
    )
    OLDEST, OLDEST_FOR = "3.10", "message TTLs on quorum queues and at-least-once dead-lettering need"
    APT, BREW = "rabbitmq-server", "rabbitmq"
    # A kill: what the broker had not yet written is lost, as with a machine that loses its power.
    STOP = signal.SIGKILL

    @staticmethod
    def version(place: Path) -> tuple[int, ...]:
        """Read from the name of the server's own plug-in: asking the program takes a second and an Erlang cookie."""
        plugins = (place / "rabbitmq-server").resolve().parent.parent / "plugins"
        return max((version_in(plugin.name) for plugin in plugins.glob("rabbit-[0-9]*")), default=())

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.port, self._mapper_port = free_port(), free_port()
        self._mapper: Optional[subprocess.Popen] = None
        (folder / "rabbitmq.conf").write_text(CONFIGURATION)
        self.settings = {
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_NODENAME": f"xt{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            # The script then becomes the server instead of watching over it, so that the process we start is the one.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_MNESIA_BASE": f"{folder}/data",
            "RABBITMQ_LOG_BASE": f"{folder}/logs",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            # None of these is there, which keeps the machine's own away.
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/rabbitmq-env.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
        }

    def start(self) -> None:
        program = shutil.which("epmd", path=f"{os.environ['PATH']}:{HOMEBREW_ERLANG}")
        if not program:
            raise Refused("Erlang's port mapper (epmd) is not installed, although RabbitMQ is")
        self._mapper = self.launch(program, "-port", str(self._mapper_port), "-address", "127.0.0.1")
        # A node that finds no port mapper starts one of its own, so it must not be started before.
        if not wait_until(lambda: listens(self._mapper_port), MAPPER_SECONDS):
            raise Refused(f"Erlang's port mapper (epmd) did not start:\n{self.last_words()}")
        self.process = self.launch("rabbitmq-server", "-noinput", "+B", "i")

    def is_ready(self) -> bool:
        # The program that asks takes a second to start: it is called when there is something to ask.
        return listens(self.port) and self.succeeds("rabbitmq-diagnostics", "--quiet", "check_port_connectivity")

    def stop(self) -> None:
        super().stop()
        if self._mapper:
            self._mapper.kill()
            self._mapper.wait()

    def describe(self) -> dict:
        """Its URL, and the words with which a call of its `rabbitmqctl` begins."""
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"
        return {"AMQP_URL": url, "rabbitmqctl": ["env", *settings, str(self.programs / "rabbitmqctl")]}


def complain(folder: Path) -> None:
    """Tells what went wrong inside the broker of this folder, the first of it, which is the cause of the rest."""
    log = folder / "logs" / "rabbitmq.log"
    found = COMPLAINT.findall(log.read_text(errors="replace")) if log.exists() else []
    if found:
        say("\n".join(["errors in the broker's log, the first ones:", *found[:COMPLAINTS_MAX]]))
