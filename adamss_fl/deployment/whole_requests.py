"""Requests whose bodies are passed on in one piece.

Flower's servers answer behind several layers of middleware, each of which starts tasks of its own for every piece of a
body; a part of a model comes in hundreds of them.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


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
