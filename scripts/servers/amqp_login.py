"""Logs in to RabbitMQ once, to know that it is ready; the few frames of AMQP 0-9-1 that this takes."""

from __future__ import annotations

import re
import socket
import struct

ANSWER_SECONDS = 10.0
FRAME_BYTES_MAX = 1 << 20
START, START_OK, TUNE, TUNE_OK, OPEN, OPEN_OK, CLOSE = 10, 11, 30, 31, 40, 41, 50


def broker_version(port: int) -> str:
    """The version of the broker that lets guest into the virtual host `/`; OSError while none does."""
    with socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS) as link:
        link.sendall(b"AMQP\x00\x00\x09\x01")
        properties = _expect(link, START)
        _send(link, START_OK, struct.pack("!i", 0) + _short(b"PLAIN") + _long(b"\0guest\0guest") + _short(b"en_US"))
        _send(link, TUNE_OK, _expect(link, TUNE)[:8])
        _send(link, OPEN, _short(b"/") + b"\0\0")
        _expect(link, OPEN_OK)
        _send(link, CLOSE, struct.pack("!H", 200) + _short(b"") + struct.pack("!HH", 0, 0))
    # The server's properties are a table of AMQP; of all its fields this one is read.
    found = re.search(rb"\x07versionS....([0-9][0-9A-Za-z.+~-]*)", properties, re.DOTALL)
    return found.group(1).decode() if found else "0"


def _expect(link: socket.socket, method: int) -> bytes:
    kind, _, length = struct.unpack("!BHI", _exactly(link, 7))
    if length > FRAME_BYTES_MAX:
        raise OSError("not a frame of AMQP 0-9-1")
    body = _exactly(link, length + 1)
    if kind != 1 or struct.unpack("!HH", body[:4]) != (10, method):
        raise OSError("the broker does not let guest in yet")
    return body[4:-1]


def _send(link: socket.socket, method: int, arguments: bytes) -> None:
    body = struct.pack("!HH", 10, method) + arguments
    link.sendall(struct.pack("!BHI", 1, 0, len(body)) + body + b"\xce")


def _exactly(link: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        more = link.recv(count - len(got))
        if not more:
            raise OSError("the broker closed the connection")
        got += more
    return got


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def _long(text: bytes) -> bytes:
    return struct.pack("!I", len(text)) + text
