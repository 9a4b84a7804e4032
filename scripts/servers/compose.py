"""Both servers from `compose.yaml`, under a project name of their own, on free ports."""

import os
import shutil
import subprocess
import sys
from typing import Optional

from .steps import CLONE, Refused, free_port, own_environment, say

QUESTION_SECONDS = 5.0
# The first time, the images are fetched.
WORK_SECONDS = 900.0


def why_not() -> Optional[str]:
    """Why Docker Compose cannot be used; None if it can. Asks the engine: a command without one starts nothing."""
    if not shutil.which("docker"):
        return "docker is not installed"
    if os.environ.get("DOCKER_HOST", "unix:").split(":")[0] not in ("unix", "npipe"):
        return "its engine is on another machine"
    answers = _succeeds(["docker", "compose", "ls", "--quiet"], QUESTION_SECONDS, capture_output=True)
    return None if answers else "it does not answer"


def up(project: str, kinds: list[str]) -> dict[str, str]:
    """Starts the named servers, returns where they are."""
    names = ("POSTGRES_PORT", "RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT")
    ports = {name: str(free_port()) for name in names}
    say(f"starting {' and '.join(kinds)} with docker compose (project {project})")
    if not _compose(project, "up", "--detach", "--wait", *kinds, **ports):
        down(project)
        raise Refused("it could not start the servers")
    return {
        "DATABASE_URL": f"postgres://postgres:postgres@127.0.0.1:{ports['POSTGRES_PORT']}/postgres",
        "AMQP_URL": f"amqp://guest:guest@127.0.0.1:{ports['RABBITMQ_PORT']}/%2f",
    }


def down(project: str) -> None:
    if not _compose(project, "down", "--volumes", "--remove-orphans", "--timeout", "1"):
        say(f"docker compose could not stop the project {project}; see: docker compose -p {project} ps")


def _compose(project: str, *arguments: str, **ports: str) -> bool:
    command = ["docker", "compose", "--project-name", project, "--file", str(CLONE / "compose.yaml"), *arguments]
    return _succeeds(command, WORK_SECONDS, stdout=sys.stderr, env={**own_environment(), **ports})


def _succeeds(command: list[str], seconds: float, **options) -> bool:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, timeout=seconds, **options).returncode == 0
    except subprocess.TimeoutExpired:
        return False
