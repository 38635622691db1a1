"""When has a run ended, and how?"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from services.api.domain import Standing, Tally, look_again, moved_since, standing, tallied, without_settling
from shared import ids
from shared.contracts.catalog import consumers
from shared.contracts.envelope import Envelope

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
NOBODY = ids.derive(NOON)


@dataclass
class Job:
    kind: str
    state: str
    cause: str = "request"
    cause_id: UUID = NOBODY
    reason: dict[str, Any] | None = None
    finished_at: datetime | None = NOON
    began_as: str | None = None


def completed() -> Envelope:
    id = ids.draw()
    return Envelope(
        id=id,
        source="/millrace/ingest",
        type="ingest.dataset.completed.v1",
        subject="x",
        time=NOON,
        workspace=id,
        runid=id,
        causationid=id,
        data={},
    )


def taken_in(event: Envelope, *kinds: str) -> list[Job]:
    return [Job(kind, "succeeded", "event", event.id) for kind in kinds]


def test_runs_while_a_job_is_unfinished():
    found = standing([Job("a.b.c", "succeeded"), Job("ingest.dataset.load", "queued", finished_at=None)], [], [])
    assert (found.state, found.reason) == ("running", "ingest.dataset.load is queued")


def test_ends_when_every_event_has_become_the_jobs_of_its_subscribers():
    event = completed()
    found = standing([Job("x", "succeeded"), *taken_in(event, *consumers(event.type))], [event], [])
    assert (found.state, found.finished_at) == ("succeeded", NOON)


def test_a_subscribers_job_that_goes_on_as_another_kind_has_taken_its_event_in() -> None:
    event = completed()
    there = taken_in(event, *consumers(event.type))
    there[0].began_as, there[0].kind = there[0].kind, "a.b.c"
    assert standing(there, [event], []).state == "succeeded"


@pytest.mark.parametrize("missing", consumers("ingest.dataset.completed.v1"))
def test_is_not_ended_by_an_event_that_is_still_on_its_way(missing):
    event = completed()
    there = [kind for kind in consumers(event.type) if kind != missing]
    found = standing([Job("x", "succeeded"), *taken_in(event, *there)], [event], [])
    assert (found.state, found.reason) == ("running", f"an event is on its way to {missing}")


def test_fails_with_the_first_failed_jobs_reason():
    later = Job("b", "failed", reason={"detail": "no such column"}, finished_at=NOON + timedelta(seconds=3))
    found = standing([Job("a", "succeeded"), later], [], [])
    assert (found.state, found.reason) == ("failed", "b: no such column")
    assert found.finished_at == NOON + timedelta(seconds=3)


def test_is_cancelled_when_nothing_failed():
    assert standing([Job("a", "succeeded"), Job("b", "cancelled")], [], []).state == "cancelled"
    assert standing([Job("a", "failed"), Job("b", "cancelled")], [], []).state == "failed"


def test_never_ends_on_the_word_of_some_services_alone():
    found = standing([Job("a", "succeeded")], [], ["reports"])
    assert (found.state, found.reason) == ("running", "reports cannot be asked")


def test_is_not_taken_for_ended_before_any_of_its_jobs_is_known():
    assert standing([], [], []).state == "running"


def test_the_job_that_looks_how_a_run_stands_is_no_step_of_it():
    step = Job("a", "succeeded")
    assert without_settling([step, Job("api.run.settle", "running")]) == [step]


def test_looks_again_ever_later_and_then_no_more():
    ages = [timedelta(0), timedelta(minutes=1), timedelta(hours=11), timedelta(hours=13)]
    assert [look_again(age) for age in ages] == [2.0, 30.0, 1800.0, None]


# By tallies


def tally(run: UUID, **more: Any) -> Tally:
    plain = {"unfinished": 0, "failed": None, "cancelled": None, "finished_at": NOON, "events": False}
    return Tally(run=run, **{**plain, **more})  # type: ignore[arg-type]


def test_a_run_without_events_stands_as_all_services_say_together() -> None:
    run, later = ids.draw(), NOON + timedelta(hours=1)
    assert tallied([tally(run), tally(run, finished_at=later)]) == {run: Standing("succeeded", None, later)}
    assert tallied([tally(run), tally(run, unfinished=2)])[run] == Standing("running", "2 jobs have not ended", None)
    failed, cancelled = tally(run, failed="a.b.c: No."), tally(run, cancelled="a.b.d: Off.")
    assert tallied([cancelled, failed])[run] == Standing("failed", "a.b.c: No.", NOON)
    assert tallied([tally(run), cancelled])[run] == Standing("cancelled", "a.b.d: Off.", NOON)


def test_a_run_with_events_is_told_by_these() -> None:
    run, other = ids.draw(), ids.draw()
    assert tallied([tally(run), tally(run, events=True), tally(other)]).keys() == {other}


def test_an_ended_run_is_looked_at_again_when_a_job_of_it_moved_since() -> None:
    hour = timedelta(hours=1)
    assert moved_since(NOON, [Job("a.b.c", "succeeded"), Job("a.b.d", "queued", finished_at=None)])
    assert moved_since(NOON, [Job("a.b.c", "succeeded", finished_at=NOON + hour)])
    assert not moved_since(NOON, [Job("a.b.c", "failed", finished_at=NOON - hour), Job("a.b.d", "succeeded")])
    assert not moved_since(NOON, []), "they have aged out"
