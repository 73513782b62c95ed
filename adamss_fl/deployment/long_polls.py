"""Long polling: a question for what is new is answered when there may be something new.

Flower's processes ask again and again, a SuperNode for messages and a SuperExec for tasks. A question costs some 10 ms,
and what is new waits for the next one. Here a question is held until a bell rings, or for a few seconds; then Flower
answers it. Nothing depends on the bell but time: who is not woken asks again.
"""

import asyncio
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adamss_fl.deployment.lean_requests import App, Receive, Scope, Send

HELD_SECONDS = 3.0
"""A question is held so long at most; shorter than any proxy's patience."""

_ASKERS = 4096
_KEY_HEADER = b"flwr-public-key"
_LISTEN_SECONDS = 0.02


class Bell:
    """Something may have happened; any thread may ring, and coroutines of any loop wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()
        self.rung = 0

    def ring(self) -> None:
        """Wake all who wait."""
        with self._lock:
            self.rung += 1
            for loop, event in self._waiting:
                with suppress(RuntimeError):  # a loop that is closed waits for nothing
                    loop.call_soon_threadsafe(event.set)

    async def wait(self, heard: int) -> None:
        """Return once the bell has rung more than ``heard`` times."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self.rung != heard:
                return
            self._waiting.add(waiter)
        try:
            await waiter[1].wait()
        finally:
            with self._lock:
                self._waiting.discard(waiter)


class FileBell:
    """A bell between processes of one machine; ``path`` is the file that they share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._heard = self._last()

    def ring(self) -> None:
        """Wake who listens. A full disk is no reason to fail: then nobody is woken."""
        with suppress(OSError):
            self._path.write_text(uuid.uuid4().hex)

    def listen(self, seconds: float) -> None:
        """Return once it has rung since the last call returned, or after ``seconds``."""
        limit = time.monotonic() + seconds
        while (last := self._last()) == self._heard and time.monotonic() < limit:
            time.sleep(_LISTEN_SECONDS)
        self._heard = last

    def _last(self) -> str:
        try:
            return self._path.read_text()
        except FileNotFoundError:
            return ""


class LongPolls:
    """An ASGI middleware that holds questions for what is new.

    app : what stands behind it; it must get request bodies in one piece (see ``lean_requests``).
    held : path of a question -> the bell that it waits for. An asker's first question is answered at once.
    rings : path of a request -> what to ring when it has been answered.
    announced : path of an announcement -> path of the question that its sender asks next, when all that was announced
        has been sent, and what to ring then. Who would look earlier would find parts missing and have to look again.
    seconds : how long a question is held at most.
    """

    def __init__(
        self,
        app: App,
        held: Mapping[str, Bell],
        rings: Mapping[str, Callable[[], None]],
        announced: Mapping[str, tuple[str, Callable[[], None]]],
        seconds: float = HELD_SECONDS,
    ) -> None:
        self._app, self._held, self._rings, self._announced, self._seconds = app, held, rings, announced, seconds
        self._heard: OrderedDict[Any, int] = OrderedDict()
        self._sending: OrderedDict[Any, Callable[[], None]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, when it is time; one whose asker has hung up meanwhile is dropped."""
        path = str(scope["path"]) if scope["type"] == "http" else ""
        asker = (path, _name(scope))
        if (ring := self._sending.pop(asker, None)) is not None:
            ring()
        if (bell := self._held.get(path)) is not None:
            body = await receive()
            if not await self._hold(bell, asker, receive):
                return
            receive = _first(body, receive)
        await self._app(scope, receive, send)
        if (ring := self._rings.get(path)) is not None:
            ring()
        if (question := self._announced.get(path)) is not None:
            _keep(self._sending, (question[0], asker[1]), question[1])

    async def _hold(self, bell: Bell, asker: Any, receive: Receive) -> bool:
        """Wait for the bell, for as long as may be; whether the asker is still there.

        What Flower gives out counts as delivered: nothing may be given to a process that was killed while it waited.
        """
        heard = self._heard.pop(asker, None)
        is_there = True
        if heard is not None:
            rung, hung_up = asyncio.ensure_future(bell.wait(heard)), asyncio.ensure_future(receive())
            try:
                await asyncio.wait({rung, hung_up}, timeout=self._seconds, return_when=asyncio.FIRST_COMPLETED)
                is_there = not hung_up.done()
            finally:
                rung.cancel()
                hung_up.cancel()
        _keep(self._heard, asker, bell.rung)  # before Flower looks: what comes while it looks rings once more
        return is_there


def _keep(noted: "OrderedDict[Any, Any]", asker: Any, value: Any) -> None:
    """Note ``value`` for ``asker``; of many the oldest is forgotten, since anybody may ask."""
    noted[asker] = value
    if len(noted) > _ASKERS:
        noted.popitem(last=False)


def _name(scope: Scope) -> Any:
    """Who asks: a SuperNode by its public key, which Flower checks afterwards, anyone else by the connection."""
    keys = [value for name, value in scope.get("headers") or () if name.lower() == _KEY_HEADER]
    return keys[0] if keys else scope.get("client")


def _first(message: Any, receive: Receive) -> Receive:
    """``receive`` that gives ``message`` before anything else."""
    waiting = [message]

    async def received() -> Any:
        return waiting.pop() if waiting else await receive()

    return received
