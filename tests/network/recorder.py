"""A proxy between sites and server that holds the server's certificate, and so reads every byte a site sends."""

import asyncio
import ssl
import threading
from contextlib import suppress
from pathlib import Path

FLEET = b"/v1/fleet/"


class Recorder:
    """Listens with TLS where sites look for the server, and passes all on to where the server is.

    kit : the server's, for its certificate and key. listen, server : (address, port).
    """

    def __init__(self, kit: Path, listen: tuple[str, int], server: tuple[str, int]) -> None:
        self._server = server
        self._inside = ssl.create_default_context(cafile=str(kit / "ca.crt"))
        self._inside.check_hostname = False  # the certificate is good for the address that sites know
        self._sent: list[bytearray] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        outside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        outside.load_cert_chain(kit / "server.crt", kit / "server.key")
        opening = asyncio.start_server(self._serve, *listen, ssl=outside)
        self._listener = asyncio.run_coroutine_threadsafe(opening, self._loop).result(30)

    def sent_by_sites(self) -> bytes:
        """All bytes that came over connections to the Fleet API, which are the sites', in the order of connections."""
        return b"\n".join(bytes(sent) for sent in self._sent if FLEET in sent[:200])

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._listener.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sent = bytearray()
        self._sent.append(sent)
        with suppress(OSError):  # a server that is down, or a peer that was killed
            there = await asyncio.open_connection(*self._server, ssl=self._inside)
            ways = (_pass_on(reader, there[1], sent), _pass_on(there[0], writer, None))
            done, pending = await asyncio.wait(
                [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
            )
            for task in pending:
                task.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
            there[1].close()
        writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray | None) -> None:
    while data := await reader.read(1 << 16):
        if record is not None:
            record += data
        writer.write(data)
        await writer.drain()
