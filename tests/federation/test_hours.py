"""Windows of the week against an oracle that counts them out minute by minute."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.federation.guard.hours import DAYS, is_open, read_window

MONDAY = datetime(2026, 11, 23)


def minutes_of(text: str) -> set[int]:
    """Minutes of the week, 0 at Monday 00:00, counted out one by one from the window's start to its end."""
    parts = text.split()
    days = set(range(7))
    if not parts[0][0].isdigit():
        first, _, last = parts.pop(0).partition("-")
        day, days = DAYS.index(first), set()
        while True:
            days.add(day)
            if DAYS[day] == (last or first):
                break
            day = (day + 1) % 7
    found = set()
    for day in days:
        if not parts:
            found |= {day * 1440 + minute for minute in range(1440)}
            continue
        start, end = (int(each[:2]) * 60 + int(each[3:]) for each in parts[0].split("-"))
        minute = start
        while True:
            found.add((day * 1440 + minute) % (7 * 1440))
            minute += 1
            if minute % 1440 == end % 1440:
                break
    return found


times = st.builds(lambda hour, minute: f"{hour:02d}:{minute:02d}", st.integers(0, 23), st.integers(0, 59))
days = st.sampled_from(DAYS) | st.builds(lambda a, b: f"{a}-{b}", st.sampled_from(DAYS), st.sampled_from(DAYS))
spans = st.tuples(times, times | st.just("24:00")).filter(lambda pair: pair[0] != pair[1]).map("-".join)
windows = days | spans | st.builds(lambda day, span: f"{day} {span}", days, spans)


@given(st.lists(windows, min_size=1, max_size=3))
@settings(max_examples=25)
def test_hours_are_those_counted_out_minute_by_minute_over_the_week(hours: list[str]) -> None:
    expected = set().union(*map(minutes_of, hours))
    read = [read_window(text) for text in hours]
    found = {
        day * 1440 + minute
        for day in range(7)
        for minute in range(1440)
        if any(window.holds(day, minute) for window in read)
    }
    assert found == expected
    for minute in (0, 1, 419, 420, 1079, 1080, 1439, 6 * 1440, 7 * 1440 - 1):
        assert is_open(hours, MONDAY + timedelta(minutes=minute)) is (minute in expected)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-11-23T06:59", False),  # Monday morning: Sunday has no night of its own
        ("2026-11-23T17:59", False),
        ("2026-11-23T18:00", True),
        ("2026-11-24T06:59", True),
        ("2026-11-24T07:00", False),
        ("2026-11-28T06:59", True),  # Saturday morning belongs to Friday's night
        ("2026-11-28T07:00", False),
    ],
)
def test_nights_of_working_days(when: str, expected: bool) -> None:
    assert is_open(["mon-fri 18:00-07:00"], datetime.fromisoformat(when)) is expected


def test_a_time_with_a_zone_is_turned_into_local_time() -> None:
    here = datetime(2026, 11, 24, 12, 30).astimezone()
    assert is_open(["tue 12:00-13:00"], here.astimezone(UTC))
    assert not is_open(["tue 12:00-13:00"], here.astimezone(UTC) + timedelta(hours=1))
