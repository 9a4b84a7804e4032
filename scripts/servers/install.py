"""Installs the servers with the system's own package manager, or says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from .rabbitmq import refuse_if_old
from .steps import Refused, say

APT = {"postgres": "postgresql", "rabbitmq": "rabbitmq-server"}
BREW = {"postgres": "postgresql@17", "rabbitmq": "rabbitmq"}
# Another apt-get may be at work, as on a machine that has just been started.
APT_LOCK_SECONDS = 120


def install(kinds: list[str]) -> None:
    if shutil.which("apt-get"):
        _by_apt(kinds)
    elif shutil.which("brew"):
        _run(["brew", "install", *(BREW[kind] for kind in kinds)])
    else:
        raise Refused(
            f"{' and '.join(kinds)} not found, and neither apt-get nor brew to install them. Install PostgreSQL 15 or "
            f"newer and RabbitMQ 3.10 or newer, or start a Docker engine, or set DATABASE_URL and AMQP_URL"
        )


def _by_apt(kinds: list[str]) -> None:
    apt = [*_as_root(kinds), "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    _run([*apt, "update", "-q"], may_fail=True)
    if "rabbitmq" in kinds:
        _refuse_old_candidate()
    packages = [APT[kind] for kind in kinds]
    patience = f"DPkg::Lock::Timeout={APT_LOCK_SECONDS}"
    _run([*apt, "install", "-q", "-y", "--no-install-recommends", "-o", patience, *packages])


def _as_root(kinds: list[str]) -> list[str]:
    if os.geteuid() == 0:
        return []
    asks_nothing = ["sudo", "-n", "true"]
    if shutil.which("sudo"):
        if sys.stdin.isatty() or subprocess.run(asks_nothing, stderr=subprocess.DEVNULL).returncode == 0:
            return ["sudo"]
    packages = " ".join(APT[kind] for kind in kinds)
    raise Refused(
        f"{' and '.join(kinds)} not found, and installing needs root. Have this run once: apt-get install {packages}; "
        f"or start a Docker engine, or set DATABASE_URL and AMQP_URL"
    )


def _refuse_old_candidate() -> None:
    shown = subprocess.run(
        ["apt-cache", "policy", APT["rabbitmq"]], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    for line in shown.splitlines():
        if line.strip().startswith("Candidate:") and "(none)" not in line:
            # What stands before the colon is Debian's epoch, no part of the version.
            refuse_if_old(line.split(":", 1)[1].strip().rpartition(":")[2], "what apt offers")


def _run(command: list[str], may_fail: bool = False) -> None:
    say(" ".join(command))
    done = subprocess.run(command, stdout=sys.stderr).returncode
    if done != 0 and not may_fail:
        raise Refused(f"that failed ({done}); install the servers by hand, or set DATABASE_URL and AMQP_URL")
