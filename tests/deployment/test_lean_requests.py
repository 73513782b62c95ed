"""Requests in one piece, and layers that a request passes by."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from adamss_fl.deployment.lean_requests import CONTROL, FLEET, RUNTIME, WholeRequests, only_for, whole


def receiver(*messages: dict[str, Any]) -> Any:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        return left.pop(0)

    return receive


def everything(receive: Any, count: int) -> list[dict[str, Any]]:
    async def collect() -> list[dict[str, Any]]:
        return [await receive() for _ in range(count)]

    return asyncio.run(collect())


def piece(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


END = {"type": "http.disconnect"}


def test_a_body_comes_in_one_piece_and_what_follows_it_as_it_is() -> None:
    received = everything(whole(receiver(piece(b"a", True), piece(b"", True), piece(b"bc", False), END)), 2)
    assert received == [piece(b"abc", False), END]
    assert everything(whole(receiver({"type": "http.request"}, END)), 2) == [piece(b"", False), END]


def test_a_request_that_breaks_off_is_no_request() -> None:
    assert everything(whole(receiver(piece(b"a", True), END)), 1) == [END]


def test_more_bytes_than_may_be_end_the_request() -> None:
    assert everything(whole(receiver(piece(b"ab", True), piece(b"cd", False)), largest=4), 1) == [piece(b"abcd", False)]
    assert everything(whole(receiver(piece(b"ab", True), piece(b"cde", True)), largest=4), 1) == [END]


def test_an_application_behind_sees_one_piece() -> None:
    seen: list[int] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(len((await receive())["body"]))
        await PlainTextResponse("done")(scope, receive, send)

    async def chunks() -> Any:
        for _ in range(5):
            yield b"x" * 40

    async def ask() -> int:
        transport = httpx.ASGITransport(WholeRequests(application))
        async with httpx.AsyncClient(transport=transport, base_url="http://site") as client:
            return (await client.post("/", content=chunks())).status_code

    assert asyncio.run(ask()) == 200
    assert seen == [200]


@pytest.mark.parametrize("prefix", [CONTROL, FLEET, RUNTIME])
def test_a_layer_is_passed_by_for_the_other_apis_alone(prefix: str) -> None:
    class Layer(BaseHTTPMiddleware):
        async def dispatch(self, request: Request, call_next: Any) -> Any:
            seen.append(request.url.path)
            return await call_next(request)

    async def ask(path: str) -> None:
        transport = httpx.ASGITransport(Layer(PlainTextResponse("done")))
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            assert (await client.post(path)).text == "done"

    only_for(prefix, Layer)
    paths = [CONTROL + "x", FLEET + "x", RUNTIME + "x", "/", "/v1/fleet", "/V1/fleet/x", "/x" + FLEET]
    seen: list[str] = []
    for path in paths:
        asyncio.run(ask(path))
    others = [each + "x" for each in (FLEET, RUNTIME) if each != prefix]
    assert seen == [path for path in paths if path not in others]
