"""A schedule as somebody asks for it: every field checked, and what is wrong said with its name."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from shared.ledger.messages import LaneName
from shared.schedules import cron as crons
from shared.schedules.policies import Misfire, Overlap
from shared.schedules.timetable import CronTimes, Interval, Once, Slot, Times, Timetable, slot_of, zone_of

YEAR = 366 * 24 * 3600
LATEST_YEAR = 2200


def _check_cron(text: str) -> str:
    try:
        crons.parse(text)
    except crons.CronInvalid as error:
        raise _wrong(str(error)) from error
    return text


def _check_zone(name: str) -> str:
    try:
        zone_of(name)
    except ValueError as error:
        raise _wrong(str(error)) from error
    return name


def _check_moment(moment: datetime) -> datetime:
    if not 2000 <= moment.year <= LATEST_YEAR:
        raise _wrong(f"the year {moment.year} is not between 2000 and {LATEST_YEAR}")
    return moment


def _check_name(name: str) -> str:
    if not name.isprintable() or name != name.strip():
        raise _wrong("a name has printable characters, and no space at its ends")
    return name


def _wrong(said: str) -> PydanticCustomError:
    return PydanticCustomError("schedule", "{said}", {"said": said})


Moment = Annotated[datetime, AfterValidator(_check_moment)]
"""RFC 3339 with an offset, or without one: a reading of the clock of the schedule's zone."""


class Timing(BaseModel):
    """When: exactly one of `cron`, `every_seconds` and `at`."""

    model_config = ConfigDict(extra="forbid")

    cron: Annotated[str, Field(max_length=crons.CHARACTERS), AfterValidator(_check_cron)] | None = Field(
        None, description="5 fields (minute, hour, day of month, month, day of week), or 6 with the second first."
    )
    every_seconds: Annotated[int, Field(ge=1, le=YEAR)] | None = Field(
        None, description="An interval, counted from `start` or else from now."
    )
    at: Moment | None = Field(None, description="Once. Without an offset it is a reading of the zone's clock.")
    zone: Annotated[str, AfterValidator(_check_zone)] = Field("UTC", description="IANA time zone.")
    start: Moment | None = Field(None, description="No fire earlier than this.")
    end: Moment | None = Field(None, description="No fire at this time or later.")
    jitter_seconds: int = Field(
        0, ge=0, le=3600, description="Each fire is late by a share of this that is its own, and before the next."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("cron", "every_seconds", "at") if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"; there are {' and '.join(given)}" if given else ""
            raise _wrong(f"one of cron, every_seconds and at is needed{said}")
        start, end = self.instant("start"), self.instant("end")
        if start is not None and end is not None and end <= start:
            raise _wrong("end: it is not later than start")
        return self

    def instant(self, name: str) -> datetime | None:
        """The moment of a field in UTC."""
        moment: datetime | None = getattr(self, name)
        if moment is None:
            return None
        return moment.astimezone(UTC) if moment.tzinfo else slot_of(moment, zone_of(self.zone)).at

    def timetable(self, now: datetime) -> Timetable:
        """`now` is what an interval without a start is counted from."""
        at, start = self.instant("at"), self.instant("start")
        times = times_of(zone_of(self.zone), self.cron, self.every_seconds, at, start or now)
        if self.at is not None and self.at.tzinfo is None:
            times = Once(slot_of(self.at, zone_of(self.zone)))  # says what a change of the clock does to it
        return Timetable(times, start, self.instant("end"))


class ScheduleRequest(Timing):
    """A schedule: what it fires, when, and what it does when that cannot be in time or the last job still runs."""

    name: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_check_name)]
    kind: Annotated[str, Field(min_length=1, max_length=200)]
    args: dict[str, Any] = {}
    misfire: Misfire = Field(
        "once",
        description="What becomes of slots that nobody fired in time: none is made up for (`skip`), the last one "
        "stands for all (`once`), or each of the last `window_seconds` fires (`all`).",
    )
    grace_seconds: int = Field(60, ge=0, le=86_400, description="What is late by no more than this fires in any case.")
    window_seconds: int = Field(3600, ge=0, le=7 * 86_400)
    overlap: Overlap = Field(
        "allow",
        description="What a fire does while an earlier job of the schedule is unfinished: it runs beside it (`allow`), "
        "not at all (`skip`), behind it (`queue`), or in its place (`cancel`).",
    )
    lane: LaneName | None = Field(None, description="Of the jobs that it fires; by default the kind's own.")


def times_of(
    zone: ZoneInfo, cron: str | None, every_seconds: int | None, at: datetime | None, anchor: datetime
) -> Times:
    """The rule of a schedule that is stored; `at` and `anchor` are instants."""
    if cron is not None:
        return CronTimes(crons.parse(cron), zone)
    if every_seconds is not None:
        return Interval(timedelta(seconds=every_seconds), anchor, zone)
    assert at is not None
    return Once(Slot(at, at.astimezone(zone)))
