"""Weekly partitions: made ahead of time, whatever strayed into the default one, and without holding work up."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from shared import ids
from shared.ledger import partitions
from tests.integration.toy.harness import Toy, tasks_of


def ensure(toy: Toy, now: datetime) -> None:
    with toy.connect() as connection:
        partitions.ensure(connection, now)


def home(toy: Toy, id: UUID, table: str = "job", key: str = "id") -> str:
    """The partition that holds the row."""
    [row] = toy.execute(f"SELECT tableoid::regclass::text AS name FROM {table} WHERE {key} = %s", id)
    return str(row["name"])


def far(weeks: int) -> datetime:
    """A Wednesday in the far future, other for each test: partitions stay."""
    return partitions.week_of(datetime(2040, 1, 4, tzinfo=UTC)) + timedelta(weeks=weeks, days=2)


@pytest.mark.parametrize(
    ("at", "monday"),
    [
        (datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 16, tzinfo=UTC)),
        (datetime(2026, 11, 23, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)),
        (datetime(2027, 1, 1, 12, tzinfo=UTC), datetime(2026, 12, 28, tzinfo=UTC)),
    ],
)
def test_a_week_begins_on_monday_in_utc(at: datetime, monday: datetime) -> None:
    assert partitions.week_of(at) == monday


def test_this_week_and_the_next_ones_have_their_partitions(toy: Toy) -> None:
    for weeks in range(partitions.WEEKS_AHEAD + 1):
        at = datetime.now(UTC) + timedelta(weeks=weeks)
        job = toy.enqueue(id=ids.draw(at))
        assert home(toy, job) == f"job_{partitions.week_of(at):%Y%m%d}"


def test_a_partition_holds_its_week_from_the_first_to_the_last_millisecond(toy: Toy) -> None:
    now = far(0)
    ensure(toy, now)
    week = partitions.week_of(now)
    first, last = week, week + timedelta(weeks=1) - timedelta(milliseconds=1)
    assert home(toy, toy.enqueue(id=ids.floor(first))) == f"job_{week:%Y%m%d}"
    assert home(toy, toy.enqueue(id=ids.draw(last))) == f"job_{week:%Y%m%d}"


def test_making_them_again_changes_nothing(toy: Toy) -> None:
    for _ in range(2):
        ensure(toy, far(20))


def test_rows_that_came_before_their_partition_move_into_it(toy: Toy) -> None:
    """Beat was away for weeks, or a clock was ahead: that must not stop the service for ever."""
    now = far(40)
    early, stray = toy.enqueue(id=ids.draw(now)), toy.enqueue(id=ids.draw(far(400)))
    toy.run(tasks_of(lambda attempt, args: "done"), early)
    assert home(toy, early) == "job_default"
    ensure(toy, now)
    week = f"{partitions.week_of(now):%Y%m%d}"
    assert home(toy, early) == f"job_{week}"
    assert home(toy, early, "attempt", "job") == f"attempt_{week}"
    assert home(toy, stray) == "job_default"
    assert toy.job(early)["state"] == "succeeded"
    with pytest.raises(psycopg.errors.CheckViolation, match="illegal move"):
        toy.execute("UPDATE job SET state = 'queued' WHERE id = %s", early)


def test_making_them_does_not_wait_behind_a_long_reader(toy: Toy) -> None:
    """A backup reads for hours; whoever waited for it would make every other query wait as well."""
    with toy.connect() as reader, reader.transaction():
        reader.execute("SELECT 1 FROM job_default")
        with toy.connect() as connection, pytest.raises(psycopg.errors.LockNotAvailable):
            partitions.ensure(connection, far(60))
        assert toy.execute("SELECT count(*) AS n FROM job") == [{"n": 0}], "others go on"
    ensure(toy, far(60))
    assert home(toy, toy.enqueue(id=ids.draw(far(60)))) != "job_default"


def test_the_states_are_guarded_in_every_partition(toy: Toy) -> None:
    for at in (datetime.now(UTC), far(400)):
        job = toy.enqueue(id=ids.draw(at))
        with pytest.raises(psycopg.errors.CheckViolation):
            toy.execute("UPDATE job SET state = 'succeeded' WHERE id = %s", job)
