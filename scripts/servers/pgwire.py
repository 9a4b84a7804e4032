"""Just enough of PostgreSQL's protocol (version 3) to log in and run statements, so that no client need be installed.

No TLS: it talks to servers on this machine, or to one whose URL asks for none.
https://www.postgresql.org/docs/current/protocol-message-formats.html
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
from typing import Optional
from urllib.parse import parse_qs, unquote, urlsplit

ANSWER_SECONDS = 60.0


class Failed(Exception):
    """The server refused, or could not be talked to."""


class Connection:
    """One session; closed at the end of the `with` block."""

    def __init__(self, url: str, database: Optional[str] = None):
        parts = urlsplit(url)
        if parse_qs(parts.query).get("sslmode", ["prefer"])[0] not in ("disable", "allow", "prefer"):
            raise Failed("the URL asks for TLS, which these scripts do not speak")
        self._user = unquote(parts.username or "postgres")
        self._password = unquote(parts.password or "")
        database = database or unquote(parts.path.lstrip("/")) or self._user
        try:
            self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 5432), ANSWER_SECONDS)
            settings = {"user": self._user, "database": database, "application_name": "xtwebhooks/scripts"}
            body = struct.pack("!i", 196608) + b"".join(
                name.encode() + b"\0" + value.encode() + b"\0" for name, value in settings.items()
            )
            self._socket.sendall(struct.pack("!i", len(body) + 5) + body + b"\0")
            self._log_in()
        except OSError as error:
            raise Failed(str(error)) from error

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def run(self, sql: str) -> list[list[Optional[str]]]:
        """Runs the statements as one implicit transaction; the rows of all of them, as text."""
        self._send(b"Q", sql.encode() + b"\0")
        rows: list[list[Optional[str]]] = []
        problem: Optional[Failed] = None
        while True:
            kind, body = self._receive()
            if kind == b"D":
                rows.append(_row(body))
            elif kind == b"E":
                problem = _problem(body)
            elif kind == b"Z":
                if problem:
                    raise problem
                return rows

    def _log_in(self) -> None:
        scram: Optional[_Scram] = None
        while True:
            kind, body = self._receive()
            if kind == b"E":
                raise _problem(body)
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            (method,) = struct.unpack("!i", body[:4])
            if method == 3:
                self._send(b"p", self._password.encode() + b"\0")
            elif method == 5:
                inner = hashlib.md5((self._password + self._user).encode()).hexdigest()
                self._send(b"p", b"md5" + hashlib.md5(inner.encode() + body[4:8]).hexdigest().encode() + b"\0")
            elif method == 10:
                scram = _Scram(self._password)
                first = scram.first()
                self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
            elif method == 11 and scram:
                self._send(b"p", scram.final(body[4:]))
            elif method not in (0, 12):
                raise Failed(f"the server wants a way of logging in that these scripts do not know ({method})")

    def _send(self, kind: bytes, body: bytes) -> None:
        self._socket.sendall(kind + struct.pack("!i", len(body) + 4) + body)

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._exactly(5)
        return head[:1], self._exactly(struct.unpack("!i", head[1:])[0] - 4)

    def _exactly(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            try:
                more = self._socket.recv(count - len(got))
            except OSError as error:
                raise Failed(str(error)) from error
            if not more:
                raise Failed("the server closed the connection")
            got += more
        return got


class _Scram:
    """The client's half of SCRAM-SHA-256 (RFC 7677), without channel binding."""

    def __init__(self, password: str):
        self._password = password.encode()
        self._bare = b"n=,r=" + base64.b64encode(os.urandom(18))

    def first(self) -> bytes:
        return b"n,," + self._bare

    def final(self, challenge: bytes) -> bytes:
        fields = dict(part.split(b"=", 1) for part in challenge.split(b","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(fields[b"s"]), int(fields[b"i"]))
        key = hmac.digest(salted, b"Client Key", "sha256")
        answer = b"c=biws,r=" + fields[b"r"]
        signed = hmac.digest(hashlib.sha256(key).digest(), self._bare + b"," + challenge + b"," + answer, "sha256")
        return answer + b",p=" + base64.b64encode(bytes(a ^ b for a, b in zip(key, signed)))


def _row(body: bytes) -> list[Optional[str]]:
    (columns,) = struct.unpack("!h", body[:2])
    values: list[Optional[str]] = []
    at = 2
    for _ in range(columns):
        (length,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        values.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return values


def _problem(body: bytes) -> Failed:
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return Failed(f"{fields.get(b'M', 'unknown')} (SQLSTATE {fields.get(b'C', '?')})")
