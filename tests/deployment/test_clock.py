"""A clock that is a day wrong is named, with the way to mend it."""

import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from consortium_office import Office

from adamss_fl.deployment.clock import ClockWatch, clock_lead_seconds, clock_problem

DAY = 86_400.0


class Server(http.server.BaseHTTPRequestHandler):
    """Answers like the SuperLink's gate, with a date that is ``late`` seconds behind."""

    late = 0.0

    def date_time_string(self, timestamp: float | None = None) -> str:
        import time

        return super().date_time_string(time.time() - type(self).late)

    def do_HEAD(self) -> None:
        self.send_error(403)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    office = Office(tmp_path_factory.mktemp("office"))
    office.write()
    office.provision()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(office.server / "server.crt", office.server / "server.key")
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("late", [0.0, DAY, -DAY])
def test_the_difference_is_measured_over_tls_whatever_the_certificate(port: int, late: float) -> None:
    Server.late = late
    assert clock_lead_seconds("127.0.0.1", port) == pytest.approx(late, abs=2.5)


def test_a_server_that_is_not_there_tells_nothing(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert clock_lead_seconds("127.0.0.1", taken.getsockname()[1], 1.0) is None


@pytest.mark.parametrize(
    ("lead", "says"),
    [
        (None, None),
        (0.0, None),
        (5.9, None),
        (-299.0, None),
        (DAY, "86400 s ahead of the server's"),
        (-DAY, "86400 s behind the server's"),
        (20.0, "20 s ahead"),
    ],
)
def test_what_flower_lets_pass_is_no_problem(lead: float | None, says: str | None) -> None:
    problem = clock_problem(lead)
    assert (problem is None) == (says is None)
    if says is not None:
        assert problem is not None
        assert says in problem
        assert "set the clock" in problem


def test_the_watch_tells_of_each_change_once() -> None:
    now, leads, told = [0.0], [0.0, DAY, DAY, None, 0.0], []
    watch = ClockWatch(lambda: leads.pop(0), told.append, lambda: now[0])
    watch.tick()
    assert len(leads) == 5
    while leads:
        now[0] += 61.0
        watch.tick()
    assert len(told) == 2
    assert "ahead" in told[0]
    assert "agrees" in told[1]
