"""Framing of the messages between the harness and the processes it watches: a 4-byte big-endian length, then JSON.

Standard library only: this file is also what a sandboxed process sees. `trainer/prepare.py` speaks the same format with its own few lines,
because a lab is self-contained. Lengths are checked before anything is read, since the other side may be hostile.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import time
from typing import Any

MESSAGE_BYTES_MAX = 1 << 20


class WireError(RuntimeError):
    """The other side broke the format: treat it as at fault."""


def send(sock: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Sends one message; descriptors travel with its first bytes."""
    body = json.dumps(message).encode()
    if len(body) > MESSAGE_BYTES_MAX:
        raise WireError(f"message of {len(body)} bytes exceeds {MESSAGE_BYTES_MAX}")
    frame = struct.pack(">I", len(body)) + body
    sent = socket.send_fds(sock, [frame], list(fds)) if fds else 0
    sock.sendall(frame[sent:])


def receive(sock: socket.socket, max_fds: int = 0, deadline: float = math.inf) -> tuple[dict[str, Any], list[int]] | None:
    """Next message and the descriptors that came with it, or None at the end of the stream.

    Args:
        deadline: on the clock of `time.monotonic`; no wait outlasts it, however the other side drips its bytes.
    Raises:
        WireError: not a message of this format.
        TimeoutError: the deadline passed.
    """
    fds: list[int] = []
    if max_fds:
        arm(sock, deadline)
        head, fds, _, _ = socket.recv_fds(sock, 4, max_fds)
        head += receive_exactly(sock, 4 - len(head), deadline) if 0 < len(head) < 4 else b""
    else:
        head = receive_exactly(sock, 4, deadline)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    if length > MESSAGE_BYTES_MAX:
        raise WireError(f"message of {length} bytes exceeds {MESSAGE_BYTES_MAX}")
    body = receive_exactly(sock, length, deadline)
    return None if len(body) < length else (_parsed(body), fds)


def receive_exactly(sock: socket.socket, count: int, deadline: float = math.inf) -> bytes:
    """`count` bytes, fewer only at the end of the stream."""
    parts = bytearray()
    while len(parts) < count:
        arm(sock, deadline)
        piece = sock.recv(min(count - len(parts), 1 << 20))
        if not piece:
            break
        parts += piece
    return bytes(parts)


def arm(sock: socket.socket, deadline: float) -> None:
    """Makes the next wait end at the deadline.

    Raises:
        TimeoutError: it has passed.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(None if math.isinf(left) else left)


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        message = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {body[:80]!r}") from error
    if not isinstance(message, dict) or not isinstance(message.get("op"), str):
        raise WireError(f"not an object with an op: {body[:80]!r}")
    return message


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
