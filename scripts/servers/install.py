"""Finds the installed servers; installs them with the system's own package manager, or says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from . import postgres, rabbitmq
from .steps import Refused, say

FIND = {"postgres": postgres.find, "rabbitmq": rabbitmq.find}
APT = {"postgres": "postgresql", "rabbitmq": "rabbitmq-server"}
BREW = {"postgres": "postgresql@17", "rabbitmq": "rabbitmq"}
# Another apt-get may be at work, as on a machine that has just been started.
APT_LOCK_SECONDS = 120


def programs(kinds: list[str]) -> dict[str, Path]:
    """The folder of each server's programs, which are installed if need be: sudo may ask for a password."""
    missing = [kind for kind in kinds if not FIND[kind]()]
    if missing:
        done = _install(missing)
        if not done or not all(FIND[kind]() for kind in missing):
            raise Refused(
                f"{' and '.join(missing)} not found and not installed. Install PostgreSQL 15 or newer and RabbitMQ "
                f"3.10 or newer (Debian: apt-get install {' '.join(APT.values())}), or start a Docker engine, or set "
                f"DATABASE_URL and AMQP_URL"
            )
    return {kind: FIND[kind]() for kind in kinds}


def _install(kinds: list[str]) -> bool:
    if shutil.which("brew") and not shutil.which("apt-get"):
        return _runs(["brew", "install", *(BREW[kind] for kind in kinds)])
    if not shutil.which("apt-get"):
        say("neither apt-get nor brew is available to install them")
        return False
    sudo = [] if os.geteuid() == 0 else ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]
    apt = [*sudo, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]
    _runs([*apt, "update", "-q"])
    if "rabbitmq" in kinds:
        _refuse_old_candidate()
    options = ["-q", "-y", "--no-install-recommends", "-o", f"DPkg::Lock::Timeout={APT_LOCK_SECONDS}"]
    return _runs([*apt, "install", *options, *(APT[kind] for kind in kinds)])


def _refuse_old_candidate() -> None:
    environment = {**os.environ, "LC_ALL": "C"}
    command = ["apt-cache", "policy", APT["rabbitmq"]]
    for line in subprocess.run(command, capture_output=True, text=True, env=environment).stdout.splitlines():
        if line.strip().startswith("Candidate:") and "(none)" not in line:
            # What stands before the last colon is Debian's epoch, no part of the version.
            rabbitmq.refuse_if_old(rabbitmq.numbers(line.rpartition(":")[2]), "what apt offers")


def _runs(command: list[str]) -> bool:
    say(" ".join(command))
    try:
        return subprocess.run(command, stdout=sys.stderr).returncode == 0
    except OSError as error:
        say(f"{command[0]}: {error.strerror}")
        return False
