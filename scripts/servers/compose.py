"""Both servers from `compose.yaml`, under a project name of their own, on free ports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Optional

from .ports import free_ports
from .steps import CLONE, Refused, say

QUESTION_SECONDS = 5.0
# The first time, the images are fetched.
UP_SECONDS = 900.0
DOWN_SECONDS = 60.0


def why_not() -> Optional[str]:
    """Why Docker Compose cannot be used; None if it can. Asked of the engine: the command alone starts nothing."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if os.environ.get("DOCKER_HOST", "unix:").split(":")[0] not in ("unix", "npipe"):
        return "its engine is on another machine"
    if not _answers("docker", "info", "--format", "{{.ServerVersion}}"):
        return "no engine answers"
    if not _answers("docker", "compose", "version"):
        return "docker has no compose plug-in"
    return None


def _answers(*command: str) -> bool:
    try:
        asked = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=QUESTION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return asked.returncode == 0 and asked.stdout.strip() != b""


def up(project: str, kinds: list[str]) -> dict:
    """Starts the named servers, returns the URL of each; nothing is left if it fails."""
    database_port, broker_port, management_port = free_ports(3)
    ports = {
        "POSTGRES_PORT": str(database_port),
        "RABBITMQ_PORT": str(broker_port),
        "RABBITMQ_MANAGEMENT_PORT": str(management_port),
    }
    say(f"starting {' and '.join(kinds)} with docker compose (project {project})")
    if _compose(project, ["up", "--detach", "--wait", *kinds], ports, UP_SECONDS) != 0:
        down(project)
        raise Refused("docker compose could not start them")
    urls = {
        "postgres": f"postgres://postgres:postgres@127.0.0.1:{database_port}/postgres",
        "rabbitmq": f"amqp://guest:guest@127.0.0.1:{broker_port}/%2f",
    }
    return {kind: urls[kind] for kind in kinds}


def down(project: str) -> None:
    if _compose(project, ["down", "--volumes", "--remove-orphans", "--timeout", "1"], {}, DOWN_SECONDS) != 0:
        say(f"docker compose could not end the project {project}; see: docker compose -p {project} ps")


def _compose(project: str, arguments: list[str], ports: dict, seconds: float) -> int:
    # Its own settings, not those that the caller may have exported for a compose file of his own.
    foreign = ("COMPOSE_", "POSTGRES_", "RABBITMQ_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = ["docker", "compose", "--project-name", project, "--file", str(CLONE / "compose.yaml"), *arguments]
    try:
        return subprocess.run(
            command, env={**kept, **ports}, cwd=CLONE, stdin=subprocess.DEVNULL, stdout=sys.stderr, timeout=seconds
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return 1
