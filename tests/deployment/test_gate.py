"""The gate in front of a SuperLink: who may ask for what."""

import asyncio
from typing import Any

import httpx
import pytest

from adamss_fl.deployment.gate import HEADER, Gate

SECRET = bytes(range(32))


async def everything(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers every request."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"done"})


def ask(path: str, peer: str, headers: dict[str, str] | None = None) -> int:
    async def request() -> int:
        transport = httpx.ASGITransport(Gate(everything, SECRET), client=(peer, 40000))
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as client:
            return (await client.post(path, headers=headers or {})).status_code

    return asyncio.run(request())


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/list-nodes", "/docs", "/openapi.json", "/health"]
)
@pytest.mark.parametrize("peer", ["127.0.0.1", "192.0.2.7", "::1"])
def test_control_is_for_whoever_has_the_secret_wherever_they_are(path: str, peer: str) -> None:
    assert ask(path, peer) == 403
    assert ask(path, peer, {HEADER: ""}) == 403
    assert ask(path, peer, {HEADER: SECRET.hex()[:-1]}) == 403
    assert ask(path, peer, {HEADER: "00" * 32}) == 403
    assert ask(path, peer, {HEADER: SECRET.hex()}) == 200


@pytest.mark.parametrize(
    ("peer", "status"),
    [("127.0.0.1", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("192.0.2.7", 403), ("::ffff:192.0.2.7", 403)],
)
def test_the_runtime_is_for_this_machine(peer: str, status: int) -> None:
    assert ask("/v1/runtime/acquire-task", peer) == status


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/activate-node"])
def test_the_fleet_is_open_to_all_since_it_checks_signatures_itself(path: str) -> None:
    assert ask(path, "192.0.2.7") == 200


@pytest.mark.parametrize("path", ["/v1/fleet", "//v1/fleet/x", "/V1/FLEET/x", "/v1/control/../fleet/x"])
def test_a_path_that_only_looks_like_the_fleets_is_refused(path: str) -> None:
    async def request() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "headers": [], "client": ("192.0.2.7", 1)}
        await Gate(everything, SECRET)(scope, None, send)
        return sent

    assert asyncio.run(request())[0]["status"] == 403


def test_a_peer_that_is_not_known_is_not_of_this_machine() -> None:
    async def request() -> list[Any]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await Gate(everything, SECRET)({"type": "http", "path": "/v1/runtime/x", "headers": []}, None, send)
        await Gate(everything, SECRET)({"type": "websocket", "path": "/x", "headers": []}, None, send)
        return sent

    sent = asyncio.run(request())
    assert sent[0]["status"] == 403
    assert sent[-1] == {"type": "websocket.close", "code": 1008}


def test_a_request_that_is_too_large_is_refused_by_its_length_and_cut_where_that_lies() -> None:
    seen: list[int] = []

    async def reader(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            seen.append(len(message["body"]))
            if not message.get("more_body"):
                break
        await everything(scope, receive, send)

    async def post(**options: Any) -> int:
        transport = httpx.ASGITransport(Gate(reader, SECRET, largest=100))
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as client:
            return (await client.post("/v1/fleet/push-object", **options)).status_code

    assert asyncio.run(post(content=b"x" * 100)) == 200
    assert asyncio.run(post(content=b"x" * 101)) == 413
    assert asyncio.run(post(content=b"x", headers={"content-length": "-1"})) == 413
    assert sum(seen) == 100

    async def chunks() -> Any:
        for _ in range(5):
            yield b"x" * 40

    seen.clear()
    with pytest.raises(AssertionError):  # httpx: the application ended without an answer
        asyncio.run(post(content=chunks()))
    assert seen == []
