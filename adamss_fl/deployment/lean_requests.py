"""What makes a request to Flower's servers cheaper, most of whose cost is Starlette's layers of middleware.

Each layer starts tasks of its own for every piece of a body, and a part of a model comes in hundreds of them: here a
body is passed on in one piece. A SuperLink has nine layers, of which most have nothing to do for any one of its APIs.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


CONTROL, FLEET, RUNTIME = "/v1/control/", "/v1/fleet/", "/v1/runtime/"
"""Where the paths of a SuperLink's APIs begin: for its coordinator, for SuperNodes, for processes of its machine."""


class WholeRequests:
    """An ASGI middleware; ``app`` is what stands behind it."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body in one piece, and all else as it is."""
        await self._app(scope, whole(receive) if scope["type"] == "http" else receive, send)


def whole(receive: Receive, largest: int | None = None) -> Receive:
    """``receive`` that gives a request's body in one piece.

    Where it has more bytes than ``largest``, the request ends. What comes is counted, whatever length it has said.
    """
    passed = False

    async def received() -> Any:
        nonlocal passed
        if passed:
            return await receive()
        pieces: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return message
            pieces.append(message.get("body", b""))
            size += len(pieces[-1])
            if largest is not None and size > largest:
                return {"type": "http.disconnect"}
            more = message.get("more_body", False)
        passed = True
        return {"type": "http.request", "body": b"".join(pieces), "more_body": False}

    return received


def only_for(prefix: str, layer: type[Any]) -> None:
    """Let requests to the APIs of SuperNodes and of processes pass by a layer that serves paths of ``prefix`` alone.

    layer : a class of Starlette's BaseHTTPMiddleware, whose own condition it is that the path begins so. All other
    requests go through it as ever.
    """
    others = tuple(each for each in (FLEET, RUNTIME) if each != prefix)
    through = layer.__call__

    async def call(self: Any, scope: Scope, receive: Receive, send: Send) -> None:
        passes_by = scope["type"] == "http" and str(scope["path"]).startswith(others)
        await (self.app(scope, receive, send) if passes_by else through(self, scope, receive, send))

    layer.__call__ = call
