"""Times of the week at which a hospital lends its machine, written as ``mon-fri 18:00-07:00``."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_OF_A_DAY = 24 * 60

_SPAN = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_HINT = "write it as 'mon-fri 18:00-07:00', 'sat-sun', 'wed 12:00-13:00' or '22:00-06:00'"


@dataclass(frozen=True)
class Window:
    """One span of time on each of ``days`` (0 is Monday).

    start, end : minutes from the midnight on which such a day begins; an end past 1440 lies on the next day. The start
    belongs to the window, the end does not.
    """

    days: frozenset[int]
    start: int = 0
    end: int = MINUTES_OF_A_DAY

    def holds(self, day: int, minute: int) -> bool:
        """Whether ``minute`` of weekday ``day`` is inside: in the span of that day, or in that of the day before."""
        today = day in self.days and self.start <= minute < self.end
        return today or ((day - 1) % 7 in self.days and minute < self.end - MINUTES_OF_A_DAY)


def read_window(text: str) -> Window:
    """The window that ``text`` names: days, a span of hours, or both; an end at or before the start is the next day's.

    Raises ValueError where it is none, or where it starts when it ends.
    """
    words = text.lower().split()
    if not 1 <= len(words) <= 2:
        raise ValueError(_HINT)
    has_days = ":" not in words[0]
    days = _days(words.pop(0)) if has_days else frozenset(range(7))
    if not words:
        return Window(days)
    found = _SPAN.fullmatch(words[0]) if len(words) == 1 else None
    if found is None:
        raise ValueError(_HINT)
    start_hour, start_minute, end_hour, end_minute = map(int, found.groups())
    start, end = start_hour * 60 + start_minute, end_hour * 60 + end_minute
    if max(start_minute, end_minute) > 59 or start >= MINUTES_OF_A_DAY or end > MINUTES_OF_A_DAY:
        raise ValueError("a day has the times 00:00 to 24:00")
    if start == end:
        raise ValueError("it starts when it ends; leave the hours out for whole days")
    return Window(days, start, end if end > start else end + MINUTES_OF_A_DAY)


def is_open(hours: Iterable[str], now: datetime) -> bool:
    """Whether any of the windows ``hours`` holds ``now``.

    now : a time with a zone is turned into this machine's local time; one without is taken as local time.
    Raises ValueError where a window cannot be read.
    """
    windows = [read_window(text) for text in hours]
    local = now if now.tzinfo is None else now.astimezone()
    return any(window.holds(local.weekday(), local.hour * 60 + local.minute) for window in windows)


def _days(text: str) -> frozenset[int]:
    """``mon``, ``mon-fri``, ``fri-mon`` (over the end of the week), or several of them after commas."""
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise ValueError(f"days are {', '.join(DAYS)}; {_HINT}")
        begin = DAYS.index(first)
        length = (DAYS.index(last) - begin) % 7 if dash else 0
        found |= {(begin + step) % 7 for step in range(length + 1)}
    return frozenset(found)
