"""Verifies requests at a receiver. Standard library only; Python 3.8 or newer."""

import hashlib
import hmac
import time


def verify(secret: str, headers, body: bytes, tolerance_seconds: int = 300) -> bool:
    """`body` is the raw request body, before any JSON parser; `headers` has lower-case names or ignores case."""
    timestamp = headers.get("x-xtsystems-timestamp", "")
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > tolerance_seconds:
        return False
    expected = "sha256=" + hmac.new(secret.encode(), timestamp.encode() + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected.encode(), headers.get("x-xtsystems-signature", "").encode())
