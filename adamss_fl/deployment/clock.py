"""How far this machine's clock is from the server's.

Flower refuses a site whose signed time lies more than 5 s ahead of the server's or 305 s behind it, and says no more
than that it is not authenticated; a certificate looks expired, or not valid yet. So the difference is measured.
"""

import http.client
import ssl
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

MAY_LEAD_SECONDS, MAY_LAG_SECONDS = 5.0, 300.0
"""How far a site's clock may be ahead of the server's, and behind it."""

SECONDS_BETWEEN_LOOKS = 60.0


def clock_lead_seconds(host: str, port: int, timeout: float = 5.0) -> float | None:
    """This machine's clock less the server's, to a second; None where the server cannot be asked.

    The certificate is not checked, since a clock that is wrong would fail it, and nothing is sent but a question.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    try:
        connection.request("HEAD", "/")
        date = connection.getresponse().getheader("date")
        return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def clock_problem(lead_seconds: float | None) -> str | None:
    """One line where the difference is more than Flower lets pass; a second of it may be rounding."""
    if lead_seconds is None or -MAY_LAG_SECONDS <= lead_seconds <= MAY_LEAD_SECONDS + 1.0:
        return None
    way = "ahead of" if lead_seconds > 0 else "behind"
    return (
        f"this machine's clock is {abs(lead_seconds):.0f} s {way} the server's, which would refuse the site; set the "
        "clock (NTP does it for good)"
    )


class ClockWatch:
    """Measures now and then, and tells of a clock that has gone wrong once, and once when it is right again.

    measure : gives the lead in seconds, or None. tell : takes a line.
    """

    def __init__(
        self,
        measure: Callable[[], float | None],
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._measure, self._tell, self._clock = measure, tell, clock
        self._due = clock() + SECONDS_BETWEEN_LOOKS
        self._is_wrong = False

    def tick(self) -> None:
        """To be called often."""
        if self._clock() < self._due:
            return
        self._due = self._clock() + SECONDS_BETWEEN_LOOKS
        lead = self._measure()
        if lead is None:
            return
        problem = clock_problem(lead)
        if (problem is not None) != self._is_wrong:
            self._is_wrong = problem is not None
            self._tell(problem or "this machine's clock agrees with the server's again")
