"""A time is one point of the day and a date one day, in whichever order and words they are written.

Normal text to times and dates. Month before day where digits alone leave it open (``7/4/1776``), day first with dots.
"""

from __future__ import annotations

import re

from rz_workers.reward.verifiers.robust.kinds import Clock, Date
from rz_workers.reward.verifiers.robust.words import number_of, unwrapped

MAX_CHARS = 60
_IN_ORDER = "january february march april may june july august september october november december"
_WEEK = "monday tuesday wednesday thursday friday saturday sunday"
_MONTHS, _DAYS = _IN_ORDER.split(), _WEEK.split()
_MONTH = {name: n for n, name in enumerate(_MONTHS, 1)} | {name[:3]: n for n, name in enumerate(_MONTHS, 1)}
_MONTH |= {"sept": 9}
_WEEKDAY = {name: n for n, name in enumerate(_DAYS)} | {name[:3]: n for n, name in enumerate(_DAYS)}
_WEEKDAY |= {"tues": 1, "thur": 3, "thurs": 3}

_HALF = r"(?P<half>[ap]\.?\s?m\.?|in the (?:morning|afternoon|evening)|at night)"
_TIME = re.compile(
    rf"(?:at\s+)?(?P<hour>\d{{1,2}})(?:\s*[:h]\s*(?P<minute>[0-5]\d)(?:\s*:\s*(?P<second>[0-5]\d))?|(?P<dotted>\.[0-5]\d)?"
    rf"(?=\s*(?:[ap]\.?\s?m\b|o'? ?clock|in the|at night|noon)))\s*(?:h(?:ou)?rs?|h|o'? ?clock)?\s*(?:{_HALF}|noon)?",
    re.IGNORECASE,
)
_NAMED = {"noon": 12, "midday": 12, "12 noon": 12, "12:00 noon": 12, "midnight": 0, "12 midnight": 0}
_PAST = re.compile(rf"(half|quarter|a quarter)\s+(past|to)\s+(\w+)(?:\s+o'? ?clock)?\s*{_HALF}?", re.IGNORECASE)

_ISO = re.compile(r"(\d{4})([-/.])(\d{1,2})\2(\d{1,2})")
_DIGITS = re.compile(r"(\d{1,2})([-/.])(\d{1,2})\2(\d{4})")
_WORD = re.compile(r"[A-Za-z]+|\d+(?:st|nd|rd|th)?\b|[^\s\w]")


def times(text: str) -> list[Clock]:
    if len(text) > MAX_CHARS:
        return []
    plain = " ".join(unwrapped(text).split())
    if plain.lower().removeprefix("at ") in _NAMED:
        return [Clock(3600 * _NAMED[plain.lower().removeprefix("at ")], is_said=True, is_sure=True)]
    if found := _PAST.fullmatch(plain):
        hour = int(found[3]) if found[3].isdecimal() else number_of(found[3].lower())
        if hour is None or hour not in range(1, 13):
            return []
        minutes = 60 * int(hour) + (30 if found[1].lower() == "half" else 15) * (
            1 if found[2].lower() == "past" else -1
        )
        return _clock(minutes * 60 % 43200, found["half"])
    if (found := _TIME.fullmatch(plain)) is None:
        return []
    hour, minute = int(found["hour"]), int(found["minute"] or (found["dotted"] or ".0")[1:])
    seconds = 3600 * hour + 60 * minute + int(found["second"] or 0)
    if found["half"]:
        return _clock(seconds % 43200, found["half"]) if 1 <= hour <= 12 else []
    if seconds > 86400:
        return []
    is_noon = plain.lower().endswith("noon")
    known = hour > 12 or hour == 0 or found["hour"].startswith("0") or is_noon
    return [Clock(seconds % 86400, is_said=is_noon, is_sure=known)]


def _clock(seconds: int, half: str | None) -> list[Clock]:
    """``seconds``: since the beginning of its half of the day."""
    if half is None:
        return [Clock(seconds, is_said=False, is_sure=False)]
    later = half.lower().startswith("p") or "afternoon" in half or "evening" in half or "night" in half
    return [Clock(seconds + 43200 * later, is_said=True, is_sure=True)]


def dates(text: str) -> list[Date]:
    if len(text) > MAX_CHARS:
        return []
    plain = unwrapped(text).strip(" .")
    if found := _ISO.fullmatch(plain):
        return _date(int(found[1]), int(found[3]), int(found[4]))
    if found := _DIGITS.fullmatch(plain):
        first, second = int(found[1]), int(found[3])
        month, day = (second, first) if found[2] == "." or first > 12 else (first, second)
        return _date(int(found[4]), month, day)
    return _in_words(_WORD.findall(plain)) if re.search("[A-Z]", plain) else []


def _in_words(parts: list[str]) -> list[Date]:
    """Month, day, year and weekday in any order; nothing else may be there."""
    year = month = day = weekday = None
    for part in parts:
        lowered = part.lower()
        number = re.match(r"\d+", part)
        if lowered in _MONTH and month is None:
            month = _MONTH[lowered]
        elif lowered in _WEEKDAY and weekday is None:
            weekday = _WEEKDAY[lowered]
        elif number and (len(number[0]) < 3 or not part.isdecimal()) and day is None:
            day = int(number[0])
        elif number and len(part) in (3, 4) and part.isdecimal() and year is None:
            year = int(part)
        elif lowered not in ("of", "the", "on", ",", ".", "in"):
            return []
    if month is None:
        return [Date(None, None, None, weekday)] if weekday is not None and day is None and year is None else []
    return _date(year, month, day, weekday)


def _date(year: int | None, month: int, day: int | None, weekday: int | None = None) -> list[Date]:
    return [Date(year, month, day, weekday)] if 1 <= month <= 12 and 1 <= (day or 1) <= 31 else []


def equal_times(a: Clock, b: Clock) -> bool:
    """One that says no half of the day may be either, against one that does."""
    if a.seconds == b.seconds:
        return True
    open_half = (a.is_said and not b.is_sure) or (b.is_said and not a.is_sure)
    return open_half and (a.seconds - b.seconds) % 43200 == 0


def equal_dates(a: Date, b: Date) -> bool:
    """A weekday may be left out of a date."""
    if (a.year, a.month, a.day) != (b.year, b.month, b.day):
        return False
    return a.weekday == b.weekday or (a.month is not None and None in (a.weekday, b.weekday))
