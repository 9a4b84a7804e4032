"""The environment of the demonstration: its own database, queues, service and receivers, all removed at the end."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Callable, Optional, TypeVar
from urllib.parse import urlsplit

import aio_pika
import psycopg

ROOT = Path(__file__).resolve().parents[2]
# How long a step may take that should happen at once.
PATIENCE_SECONDS = 30.0
STOP_SECONDS = 40.0
# The service is on this machine, whatever proxy the environment names.
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Found = TypeVar("Found")


class Failed(Exception):
    """A step of the demonstration did not happen as expected."""


def eventually(what: str, look: Callable[[], Optional[Found]], seconds: float = PATIENCE_SECONDS) -> Found:
    """Calls `look` until it returns something, and returns that."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise Failed(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.05)


def binary() -> str:
    """The path of the service: the one in XT_BIN, or else one that is built here."""
    given = os.environ.get("XT_BIN")
    if given:
        return str(Path(given).resolve())
    command = ["cargo", "build", "--locked", "--bin", "xtwebhooks", "--message-format=json-render-diagnostics"]
    environment = {**os.environ, "SQLX_OFFLINE": "true"}
    built = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    if built.returncode != 0:
        raise Failed("the service could not be built")
    told = [json.loads(line) for line in built.stdout.splitlines()]
    return next(part["executable"] for part in told if part.get("executable"))


class Receiver:
    """A running `xtwebhooks receive`, whose output is read as it comes."""

    def __init__(self, world: World, name: str, secret: str, answers: str):
        self.name = name
        self._arrivals: queue.Queue = queue.Queue()
        self._process = world.start(
            ["receive", "--listen", "127.0.0.1:0", "--answer", answers, "--json"], {"WEBHOOK_SECRET": secret}
        )
        self.url = eventually(
            f"the start of the receiver {name}",
            lambda: next((line.split()[-1] for line in self._process.said if line.startswith("listening on")), None),
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout:
            self._arrivals.put(json.loads(line))

    def next(self, what: str) -> dict:
        """The next request that arrives."""
        try:
            return self._arrivals.get(timeout=PATIENCE_SECONDS)
        except queue.Empty:
            raise Failed(f"{what} did not arrive at {self.name} within {PATIENCE_SECONDS:.0f} s") from None


class World:
    """Everything that is started or created here; leaving the `with` block stops and removes it, whatever happened."""

    def __init__(self) -> None:
        self._binary = binary()
        self._processes: list[subprocess.Popen] = []
        self.name = f"demo_{secrets.token_hex(4)}"
        self.database = f"xt_{self.name}"
        self._server = os.environ["DATABASE_URL"]
        self.settings = {
            "DATABASE_URL": urlsplit(self._server)._replace(path=f"/{self.database}").geturl(),
            "AMQP_URL": os.environ["AMQP_URL"],
            "AMQP_PREFIX": self.name,
            "EVENTS_EXCHANGE": f"{self.name}.exchange",
            "PROBES_ADDRESS": "127.0.0.1:0",
            "API_ADDRESS": "127.0.0.1:0",
            # The receivers listen on this machine, which is refused by default.
            "ALLOWED_NETWORKS": "127.0.0.0/8",
            "LOG_FORMAT": "json",
        }

    def __enter__(self) -> World:
        try:
            with psycopg.connect(self._server, autocommit=True) as connection:
                connection.execute(f"create database {self.database}")
        except psycopg.Error as failed:
            raise Failed(f"cannot create a database on the server in DATABASE_URL: {failed}") from None
        return self

    def __exit__(self, *_: object) -> None:
        # Signals are ignored here: an interrupted removal would leave parts behind.
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(kind, signal.SIG_IGN)
        for process in reversed(self._processes):
            if process.poll() is None:
                process.kill()
            process.wait()
        try:
            asyncio.run(self._remove_queues())
        except (aio_pika.exceptions.AMQPError, OSError, Failed) as error:
            print(f"demo: could not remove the queues of {self.name}: {error}", file=sys.stderr)
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(f"drop database if exists {self.database} with (force)")

    async def _remove_queues(self) -> None:
        topology = self.command("topology", expect_json=True)
        connection = await aio_pika.connect(self.settings["AMQP_URL"])
        async with connection:
            channel = await connection.channel()
            for part in topology["queues"]:
                await channel.queue_delete(part["name"])
            for part in topology["exchanges"]:
                await channel.exchange_delete(part["name"])

    def start(self, arguments: list[str], more: Optional[dict] = None) -> subprocess.Popen:
        """Starts the binary; its lines on standard error are collected in `said`."""
        process = subprocess.Popen(
            [self._binary, *arguments],
            env={**os.environ, **self.settings, **(more or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        process.said = []

        def listen() -> None:
            for line in process.stderr:
                process.said.append(line.rstrip())

        threading.Thread(target=listen, daemon=True).start()
        return process

    def service(self) -> subprocess.Popen:
        """Starts every role in one process and waits until it is ready. From then on, commands use its API."""
        process = self.start(["run"])

        def address(what: str) -> Optional[str]:
            if process.poll() is not None:
                raise Failed("the service exited while it was starting:\n" + "\n".join(process.said[-5:]))
            told = (json.loads(line) for line in list(process.said) if line.startswith("{"))
            return next((line["address"] for line in told if line.get("message") == what), None)

        probes = eventually("the start of the service", lambda: address("health and metrics"))
        eventually("readiness of the service", lambda: answers(f"http://{probes}/health/ready"))
        api = eventually("the start of the API", lambda: address("api"))
        self.settings["XTWEBHOOKS_URL"] = f"http://{api}"
        return process

    def key(self, company: str) -> None:
        """Creates the first key, in the database, because no key exists yet to call the API with."""
        made = self.command("keys", "create", "--scope", "admin", "--company", company, expect_json=True)
        self.settings["XTWEBHOOKS_API_KEY"] = made["key"]

    def api(self, method: str, path: str, body: Optional[dict] = None):
        """Calls the API as any program would, and returns its response."""
        request = urllib.request.Request(
            self.settings["XTWEBHOOKS_URL"] + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {self.settings['XTWEBHOOKS_API_KEY']}",
                "Content-Type": "application/json",
            },
            method=method,
        )
        try:
            with DIRECTLY.open(request, timeout=PATIENCE_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise Failed(f"{method} {path} was answered {error.code}: {error.read().decode()}") from None
        except (urllib.error.URLError, OSError) as error:
            raise Failed(f"{method} {path}: {error}") from None

    def stop(self, service: subprocess.Popen) -> None:
        """Stops the service as Kubernetes does, and checks its exit code."""
        service.send_signal(signal.SIGTERM)
        try:
            code = service.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"the service did not stop within {STOP_SECONDS:.0f} s") from None
        if code != 0:
            raise Failed(f"the service exited with code {code}:\n" + "\n".join(service.said[-5:]))

    def command(self, *arguments: str, expect_json: bool = False, secret: Optional[str] = None):
        """Runs a command of the binary to its end, and returns its output as text or as parsed JSON."""
        environment = {**os.environ, **self.settings, **({"WEBHOOK_SECRET": secret} if secret else {})}
        whole = [self._binary, *arguments, *(["--json"] if expect_json else [])]
        done = subprocess.run(whole, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"`xtwebhooks {' '.join(arguments)}` failed: {done.stderr.strip()}")
        return json.loads(done.stdout) if expect_json else done.stdout.rstrip()

    def publish(self, company: str, event_type: str, data: dict) -> str:
        """Publishes an event with the example program, which stands for XTSystems, and returns the event's id."""
        program = [sys.executable, str(ROOT / "examples" / "publish.py"), company, event_type, json.dumps(data)]
        done = subprocess.run(program, env={**os.environ, **self.settings}, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failed(f"examples/publish.py could not publish: {done.stderr.strip()}")
        return done.stdout.strip()


def answers(url: str) -> bool:
    """Whether the URL answers with status 200."""
    try:
        with DIRECTLY.open(url, timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
