"""Who may ask a SuperLink for what.

Flower serves everything on one port and asks no one who starts runs or registers keys who they are. This gate stands in
front of it: from another machine only the Fleet API is open, whose callers sign with a registered key; the Runtime API
is for processes of this machine, which share a secret of their own; all else, the Control API above all, is for
whoever can read the coordinator's secret. A request of any of them has a largest size: Flower cuts what it sends into
chunks, and takes in whatever comes.
"""

import secrets
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Any

from adamss_fl.deployment.lean_requests import FLEET, RUNTIME, App, Scope, whole

HEADER = "x-adamss-fl-coordinator"
"""The HTTP header that brings the coordinator's secret, in hexadecimal digits."""


class Gate:
    """An ASGI middleware; a refused request is answered 403 and gets no further.

    app : what stands behind it. secret : the coordinator's. largest : bytes of a request's body.
    """

    def __init__(self, app: App, secret: bytes, largest: int = 32 * 2**20) -> None:
        self._app = app
        self._largest = largest
        self._secret = secret.hex().encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it; what is no request (the server's own start and end) passes."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":  # Flower has no websockets
            await send({"type": "websocket.close", "code": 1008})
        elif not self._may(scope):
            await _refuse(send, 403, b"this part of the server is for its coordinator")
        elif any(not value.isdigit() or int(value) > self._largest for value in _values(scope, "content-length")):
            await _refuse(send, 413, b"the request is too large")
        else:
            await self._app(scope, whole(receive, self._largest), send)

    def _may(self, scope: Scope) -> bool:
        path = str(scope.get("path", ""))
        if path.startswith(FLEET):
            return True
        if path.startswith(RUNTIME):
            return _is_loopback(scope.get("client"))
        return any(secrets.compare_digest(value, self._secret) for value in _values(scope, HEADER))


async def _refuse(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _values(scope: Scope, header: str) -> list[bytes]:
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers") or ()
    return [value for name, value in headers if name.lower() == header.encode()]


def _is_loopback(client: Any) -> bool:
    """Whether a peer, as ASGI gives it ((address, port) or None), is a process of this machine."""
    try:
        address = ip_address(client[0])
    except (TypeError, ValueError, IndexError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
