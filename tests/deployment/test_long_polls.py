"""Questions that are held until there is something new."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from adamss_fl.deployment.long_polls import Bell, FileBell, LongPolls

ASK, TELL, OTHER = "/ask", "/tell", "/other"
LONG = 60.0
BODY = {"type": "http.request", "body": b"question", "more_body": False}


def scope(path: str, port: int = 1, key: bytes | None = None) -> dict[str, Any]:
    headers = [] if key is None else [(b"Flwr-Public-Key", key)]
    return {"type": "http", "path": path, "client": ("10.0.0.1", port), "headers": headers}


class Line:
    """One asker's connection: a request, then silence until it is hung up."""

    def __init__(self) -> None:
        self.waiting = [BODY]
        self.hung_up = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if self.waiting:
            return self.waiting.pop()
        await self.hung_up.wait()
        return {"type": "http.disconnect"}


class Scene:
    """A middleware before an application that notes what it was asked."""

    def __init__(self, seconds: float = LONG) -> None:
        self.news, self.rung = Bell(), 0
        self.asked: list[tuple[str, bytes]] = []
        self.polls = LongPolls(
            self.application, {ASK: self.news}, {TELL: self.news.ring}, {"/announce": (ASK, self.ring)}, seconds
        )

    def ring(self) -> None:
        self.rung += 1

    async def application(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((scope.get("path", ""), (await receive())["body"]))

    async def ask(self, path: str = ASK, port: int = 1, key: bytes | None = None) -> None:
        await self.polls(scope(path, port, key), Line().receive, None)  # type: ignore[arg-type]


async def is_held(task: "asyncio.Task[None]") -> bool:
    done, _ = await asyncio.wait({task}, timeout=0.1)
    return not done


def test_the_first_question_is_answered_at_once_and_the_next_when_somebody_tells() -> None:
    async def play() -> None:
        scene = Scene()
        await scene.ask()
        again = asyncio.ensure_future(scene.ask())
        assert await is_held(again)
        assert scene.asked == [(ASK, b"question")]
        await scene.ask(TELL, port=2)
        await again
        assert scene.asked == [(ASK, b"question"), (TELL, b"question"), (ASK, b"question")]
        held = asyncio.ensure_future(scene.ask())
        assert await is_held(held)
        held.cancel()

    asyncio.run(play())


def test_what_was_told_between_two_questions_is_not_waited_for() -> None:
    async def play() -> None:
        scene = Scene()
        await scene.ask()
        scene.news.ring()
        await scene.ask()
        await scene.ask(port=2)  # another asker's first
        assert len(scene.asked) == 3

    asyncio.run(asyncio.wait_for(play(), LONG / 2))


def test_what_is_told_while_flower_looks_is_not_missed() -> None:
    async def play() -> None:
        scene = Scene()
        looked = scene.polls._app

        async def told_meanwhile(*request: Any) -> None:
            await looked(*request)
            scene.news.ring()

        scene.polls._app = told_meanwhile
        await scene.ask()
        scene.polls._app = looked
        await scene.ask()
        assert len(scene.asked) == 2

    asyncio.run(asyncio.wait_for(play(), LONG / 2))


def test_a_question_is_held_for_so_long_at_most() -> None:
    async def play() -> None:
        scene = Scene(seconds=0.3)
        await scene.ask()
        started = time.monotonic()
        await scene.ask()
        assert time.monotonic() - started > 0.25
        assert len(scene.asked) == 2

    asyncio.run(play())


def test_nothing_is_given_to_who_has_hung_up() -> None:
    async def play() -> None:
        scene, line = Scene(), Line()
        await scene.ask()
        held = asyncio.ensure_future(scene.polls(scope(ASK), line.receive, None))  # type: ignore[arg-type]
        assert await is_held(held)
        line.hung_up.set()
        await held
        scene.news.ring()
        assert len(scene.asked) == 1

    asyncio.run(asyncio.wait_for(play(), LONG / 2))


def test_other_requests_pass_and_what_is_no_request_too() -> None:
    async def play() -> None:
        scene = Scene()
        await scene.ask(OTHER)
        await scene.ask(OTHER)
        await scene.polls({"type": "lifespan"}, Line().receive, None)  # type: ignore[arg-type]
        assert scene.asked == [(OTHER, b"question"), (OTHER, b"question"), ("", b"question")]

    asyncio.run(asyncio.wait_for(play(), LONG / 2))


def test_an_announcement_is_whole_when_its_sender_asks_again_from_whatever_connection() -> None:
    async def play() -> None:
        scene = Scene(seconds=0.01)
        await scene.ask("/announce", port=1, key=b"a")
        await scene.ask(port=2, key=b"b")
        await scene.ask(OTHER, port=1, key=b"a")
        assert scene.rung == 0
        await scene.ask(port=3, key=b"a")
        assert scene.rung == 1
        await scene.ask(port=3, key=b"a")
        assert scene.rung == 1

    asyncio.run(asyncio.wait_for(play(), LONG / 2))


def test_who_was_asked_long_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adamss_fl.deployment.long_polls._ASKERS", 3)

    async def play() -> None:
        scene = Scene()
        for port in range(10):
            await scene.ask(port=port)
            await scene.ask("/announce", port=port)
        assert len(scene.polls._heard) == len(scene.polls._sending) == 3

    asyncio.run(asyncio.wait_for(play(), LONG / 2))


def test_a_bell_wakes_all_who_wait_in_any_loop() -> None:
    bell, woken, waiting = Bell(), [], threading.Barrier(4)

    async def wait() -> None:
        heard = bell.rung
        waiting.wait()
        await asyncio.gather(bell.wait(heard), bell.wait(heard))
        woken.append(True)

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(3)]
    for thread in threads:
        thread.start()
    waiting.wait()
    bell.ring()
    for thread in threads:
        thread.join(timeout=30)
    assert woken == [True] * 3
    assert not bell._waiting


def test_a_bell_rings_from_one_process_to_another(tmp_path: Path) -> None:
    ringing, listening = FileBell(tmp_path / "bell"), FileBell(tmp_path / "bell")
    started = time.monotonic()
    listening.listen(0.2)
    assert time.monotonic() - started >= 0.2
    ringing.ring()
    listening.listen(LONG)  # it rang before anybody listened
    threading.Timer(0.1, ringing.ring).start()
    listening.listen(LONG)
    assert time.monotonic() - started < LONG


def test_a_bell_on_a_full_disk_does_not_ring_and_does_not_fail(tmp_path: Path) -> None:
    FileBell(tmp_path / "no such folder" / "bell").ring()
