"""Both servers from `compose.yaml`, under a project name of their own, on free ports."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Optional

from .steps import CLONE, Refused, free_port, say

QUESTION_SECONDS = 5.0
# The first time, the images are fetched.
UP_SECONDS = 900.0
DOWN_SECONDS = 60.0


def why_not() -> Optional[str]:
    """Why Docker Compose cannot be used; None if it can. Asks the engine: a command without one starts nothing."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if os.environ.get("DOCKER_HOST", "unix:").split(":")[0] not in ("unix", "npipe"):
        return "its engine is on another machine"
    answers = _succeeds(["docker", "compose", "ls", "--quiet"], QUESTION_SECONDS, capture_output=True)
    return None if answers else "it does not answer"


def up(project: str, kinds: list[str]) -> dict:
    """Starts the named servers, returns their URLs."""
    database_port, broker_port = free_port(), free_port()
    ports = {
        "POSTGRES_PORT": str(database_port),
        "RABBITMQ_PORT": str(broker_port),
        "RABBITMQ_MANAGEMENT_PORT": str(free_port()),
    }
    say(f"starting {' and '.join(kinds)} with docker compose (project {project})")
    if not _compose(project, ["up", "--detach", "--wait", *kinds], ports, UP_SECONDS):
        raise Refused("docker compose could not start the servers")
    urls = {
        "postgres": ("DATABASE_URL", f"postgres://postgres:postgres@127.0.0.1:{database_port}/postgres"),
        "rabbitmq": ("AMQP_URL", f"amqp://guest:guest@127.0.0.1:{broker_port}/%2f"),
    }
    return dict(urls[kind] for kind in kinds)


def down(project: str) -> None:
    if not _compose(project, ["down", "--volumes", "--remove-orphans", "--timeout", "1"], {}, DOWN_SECONDS):
        say(f"docker compose could not stop the project {project}; see: docker compose -p {project} ps")


def _compose(project: str, arguments: list[str], ports: dict, seconds: float) -> bool:
    # Its own settings, not those that the caller may have exported for a compose file of his own.
    foreign = ("COMPOSE_", "POSTGRES_", "RABBITMQ_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    command = ["docker", "compose", "--project-name", project, "--file", str(CLONE / "compose.yaml"), *arguments]
    return _succeeds(command, seconds, env={**kept, **ports}, cwd=CLONE, stdout=sys.stderr)


def _succeeds(command: list[str], seconds: float, **more) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=seconds, **more).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
