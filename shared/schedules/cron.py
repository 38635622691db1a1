"""Cron expressions: which readings of a wall clock one names. No zone and no clock.

Five fields as in crontab(5): minute, hour, day of month, month, day of week; six begin with the second. A field is
`*`, a number, a range, a list of these, each with a step (`*/15`, `8-18/2`, `5/20`). Months and days of the week have
English names of three letters; 0 and 7 are Sunday; `L` is the last day of a month. As in Debian's cron, days must fit
both day fields if one begins with `*`, and either of them if neither does.
"""

from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, date, datetime, time, timedelta
from functools import lru_cache

CHARACTERS = 200
"""Longest expression."""
HORIZON_YEARS = 40
"""A 29 February on a certain day of the week is at most so far away (around the year 2100)."""
_LAST_DAY = 0
"""What `L` is among the days of a month."""
_SECOND = timedelta(seconds=1)

MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CronInvalid(ValueError):
    """The text is no cron expression; says which field is wrong, and how."""


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()
    """Of the values from `low` on."""

    def parse(self, text: str) -> frozenset[int]:
        return frozenset(value for term in text.split(",") for value in self._term(term))

    def _term(self, term: str) -> range:
        body, slash, step = term.partition("/")
        by = self._step(step) if slash else 1
        if body == "*":
            return range(self.low, self.high + 1, by)
        first, dash, last = body.partition("-")
        if self.name == "day of month" and term.upper() == "L":
            return range(_LAST_DAY, _LAST_DAY + 1)
        low = self._value(first, term)
        high = self._value(last, term) if dash else (self.high if slash else low)
        if high < low:
            raise CronInvalid(f"{self.name}: the range {term} ends before it begins")
        return range(low, high + 1, by)

    def _value(self, text: str, term: str) -> int:
        if text.upper() in self.names:
            return self.low + self.names.index(text.upper())
        if not text.isascii() or not text.isdecimal() or len(text) > 4:
            raise CronInvalid(f"{self.name}: {term!r} is neither a number nor a range, a list or a step of numbers")
        if not self.low <= int(text) <= self.high:
            raise CronInvalid(f"{self.name}: {text} is not between {self.low} and {self.high}")
        return int(text)

    def _step(self, text: str) -> int:
        if not text.isascii() or not text.isdecimal() or len(text) > 4 or int(text) == 0:
            raise CronInvalid(f"{self.name}: {text!r} is no step")
        return int(text)


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_FIELDS = (
    _Field("second", 0, 59),
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of week", 0, 7, _DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A parsed expression: the values of each field, in order."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: tuple[int, ...]
    weekdays: frozenset[int]
    """0 is Sunday."""
    both: bool
    """Whether a day must fit `days` and `weekdays`, or either of them."""

    @property
    def every_hour(self) -> bool:
        """Whether it names every hour of the day: then it means elapsed time rather than times of the day."""
        return len(self.hours) == 24

    def after(self, wall: datetime) -> datetime | None:
        """The first reading that it names later than `wall` (both naive), or None: there is no such day."""
        start = wall.replace(microsecond=0) + _SECOND
        for day in self._days_from(start.date()):
            found = self._time_from(start.time()) if day == start.date() else self._time_from(time())
            if found is not None:
                return datetime.combine(day, found)
        return None

    def _days_from(self, first: date) -> Iterator[date]:
        for year in range(first.year, min(first.year + HORIZON_YEARS, MAXYEAR) + 1):
            for month in self.months:
                if (year, month) >= (first.year, first.month):
                    begin = first.day if (year, month) == (first.year, first.month) else 1
                    yield from self._days_of(year, month, begin)

    def _days_of(self, year: int, month: int, begin: int) -> Iterator[date]:
        monday_based, last = monthrange(year, month)
        for day in range(begin, last + 1):
            in_month = day in self.days or (day == last and _LAST_DAY in self.days)
            in_week = (monday_based + day) % 7 in self.weekdays
            if (in_month and in_week) if self.both else (in_month or in_week):
                yield date(year, month, day)

    def _time_from(self, begin: time) -> time | None:
        """The first time of a day that is not before `begin`."""
        for hour in self.hours:
            if hour > begin.hour:
                return time(hour, self.minutes[0], self.seconds[0])
            if hour == begin.hour:
                for minute in self.minutes:
                    if minute > begin.minute:
                        return time(hour, minute, self.seconds[0])
                    if minute == begin.minute:
                        for second in self.seconds:
                            if second >= begin.second:
                                return time(hour, minute, second)
        return None


@lru_cache(maxsize=10_000)
def parse(text: str) -> Cron:
    """Raises CronInvalid, also when no day ever fits (`0 0 30 2 *`)."""
    if len(text) > CHARACTERS:
        raise CronInvalid(f"it is longer than {CHARACTERS} characters")
    words = text.split()
    if len(words) == 1 and words[0].startswith("@"):
        if words[0].lower() not in MACROS:
            raise CronInvalid(f"{words[0]} is none of {', '.join(MACROS)}")
        words = MACROS[words[0].lower()].split()
    if len(words) not in (5, 6):
        raise CronInvalid(
            "5 fields are needed (minute, hour, day of month, month, day of week), or 6 with the second first; "
            f"there are {len(words)}"
        )
    words = ["0"] * (6 - len(words)) + words
    values = [field.parse(word) for field, word in zip(_FIELDS, words, strict=True)]
    seconds, minutes, hours, days, months, weekdays = values
    cron = Cron(
        seconds=tuple(sorted(seconds)),
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=days,
        months=tuple(sorted(months)),
        weekdays=frozenset(day % 7 for day in weekdays),
        both=words[3].startswith("*") or words[5].startswith("*"),
    )
    if cron.after(datetime(2000, 1, 1)) is None:  # noqa: DTZ001  # a wall clock's reading has no zone
        raise CronInvalid("no day of the calendar fits the day of month and the month")
    return cron
