"""What the facts say, case by case."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import ids
from shared.ledger.why import MOST_COUNTED, MOST_NAMED, Facts, Reason, RuleFacts, explain

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ERROR = {"code": "thing.away", "detail": "It was away."}
WORKER = {"name": "toy@host", "lease_until": NOW + 20 * SECOND}


def facts(*, job: dict[str, Any] | None = None, **others: Any) -> Facts:
    """Of a job that is due, with nothing in its way."""
    row = {
        "state": "queued",
        "queue": "toy.jobs",
        "kind": "toy.thing.do",
        "attempt": 0,
        "max_attempts": 3,
        "not_before": NOW - SECOND,
        "start_by": None,
        "deadline": None,
        "error": None,
        "worker": None,
        "started_at": None,
        "finished_at": None,
    }
    return Facts(row | (job or {}), NOW, "toy", **others)


def only(found: Facts) -> Reason:
    [reason] = explain(found)
    return reason


def test_it_waits_for_its_time() -> None:
    reason = only(facts(job={"not_before": NOW + 60 * SECOND}, before=5))
    assert (reason.code, reason.facts) == ("wait.time", {"until": NOW + 60 * SECOND})
    assert reason.detail == "It is not due before 2026-11-25 09:01:00 UTC."


def test_it_waits_to_be_tried_again() -> None:
    reason = only(facts(job={"not_before": NOW + 4 * SECOND, "attempt": 2, "error": ERROR}))
    assert (reason.code, reason.facts) == ("wait.retry", {"until": NOW + 4 * SECOND, "attempt": 2})
    assert "Attempt 2 ended with thing.away: It was away. It is tried again at 2026-11-25 09:00:04" in reason.detail


def test_a_job_that_is_due_again_does_not_wait_for_its_back_off() -> None:
    assert only(facts(job={"attempt": 2, "error": ERROR})).code == "wait.nothing"


def test_its_deadline_has_passed() -> None:
    assert only(facts(job={"deadline": NOW})).code == "wait.deadline"


def test_it_was_not_started_in_time() -> None:
    reason = only(facts(job={"start_by": NOW}))
    assert reason.code == "wait.start_by"
    assert "to be started by 2026-11-25 09:00:00 UTC, and was not" in reason.detail
    assert only(facts(job={"start_by": NOW, "attempt": 1})).code == "wait.nothing", "it has begun once"


def test_it_is_paused_by_somebody() -> None:
    reason = only(facts(rules=[RuleFacts("queue:toy.jobs", paused_at=NOW - SECOND, paused_by="operator")]))
    assert reason.code == "wait.paused"
    assert reason.facts == {"key": "queue:toy.jobs", "since": NOW - SECOND, "by": "operator"}
    assert reason.detail == "queue:toy.jobs is paused since 2026-11-25 08:59:59 UTC, by operator."


def test_a_limit_names_who_holds_it() -> None:
    own = [ids.draw(), ids.draw()]
    rule = RuleFacts("kind:toy.thing.do", concurrency=3, holders=own, others=1)
    reason = only(facts(rules=[rule]))
    assert reason.code == "wait.limit"
    assert reason.facts == {"key": "kind:toy.thing.do", "jobs": own, "others": 1}
    assert reason.detail == "At most 3 jobs of kind:toy.thing.do run at once, and 3 do."


def test_of_many_holders_a_few_are_named() -> None:
    own = [ids.draw() for _ in range(MOST_NAMED + 5)]
    reason = only(facts(rules=[RuleFacts("each:host", concurrency=10, holders=own, others=2)]))
    assert (reason.facts["jobs"], reason.facts["others"]) == (own[:MOST_NAMED], 7)


def test_a_limit_with_room_holds_nothing() -> None:
    assert only(facts(rules=[RuleFacts("kind:x", concurrency=3, others=2)])).code == "wait.nothing"


@pytest.mark.parametrize(("tokens", "seconds"), [(0.5, 1.0), (0.0, 2.0)])
def test_a_rate_says_when_the_next_token_comes(tokens: float, seconds: float) -> None:
    reason = only(facts(rules=[RuleFacts("each:host", per_second=0.5, tokens=tokens)]))
    assert (reason.code, reason.facts) == ("wait.rate", {"key": "each:host", "until": NOW + seconds * SECOND})


@pytest.mark.parametrize("tokens", [None, 1.0, 3.5])
def test_a_rate_with_tokens_holds_nothing(tokens: float | None) -> None:
    assert only(facts(rules=[RuleFacts("each:host", per_second=0.5, tokens=tokens)])).code == "wait.nothing"


def test_others_go_before_it() -> None:
    reason = only(facts(before=7))
    assert (reason.code, reason.facts) == ("wait.turn", {"before": 7})
    assert "more than 1000" in only(facts(before=MOST_COUNTED + 1)).detail


def test_no_worker_is_alive() -> None:
    assert only(facts(workers=0)).code == "wait.no_worker"


def test_no_beat_leads() -> None:
    assert only(facts(led=False, outage={"since": NOW, "detail": "x"})).code == "wait.no_beat", "it cannot know"


def test_the_broker_is_unreachable() -> None:
    reason = only(facts(outage={"since": NOW - SECOND, "detail": "ConnectionError"}))
    assert (reason.code, reason.facts) == ("wait.broker", {"since": NOW - SECOND})


def test_all_that_holds_it_is_told_the_weightiest_first() -> None:
    rule = RuleFacts("kind:x", concurrency=1, others=1, per_second=1, tokens=0, paused_at=NOW, paused_by="me")
    found = explain(facts(job={"not_before": NOW + SECOND}, rules=[rule], workers=0, led=False))
    codes = ["wait.time", "wait.paused", "wait.limit", "wait.rate", "wait.no_beat", "wait.no_worker"]
    assert [reason.code for reason in found] == codes


def test_nothing_holds_it() -> None:
    assert only(facts()).detail == "Nothing: it is about to start."
    assert "while 4 of its queue run" in only(facts(busy=4)).detail


def test_it_runs() -> None:
    job = {"state": "running", "attempt": 1, "started_at": NOW - SECOND, "worker": ids.draw()}
    reason = only(facts(job=job, worker=WORKER))
    assert reason.code == "job.running"
    assert reason.detail == "Attempt 1 runs since 2026-11-25 08:59:59 UTC on toy@host."


@pytest.mark.parametrize("worker", [None, WORKER | {"lease_until": NOW - SECOND}])
def test_its_worker_is_lost(worker: dict[str, Any] | None) -> None:
    job = {"state": "running", "attempt": 1, "started_at": NOW - SECOND, "worker": ids.draw()}
    assert only(facts(job=job, worker=worker)).code == "job.lease_lost"


def test_it_succeeded() -> None:
    job = {"state": "succeeded", "attempt": 2, "finished_at": NOW}
    assert only(facts(job=job)).detail == "It succeeded at 2026-11-25 09:00:00 UTC, in attempt 2."


@pytest.mark.parametrize(("state", "said"), [("failed", "It failed at"), ("cancelled", "It was cancelled at")])
def test_it_ended_for_a_reason(state: str, said: str) -> None:
    reason = only(facts(job={"state": state, "attempt": 3, "finished_at": NOW, "error": ERROR}))
    assert reason.code == "thing.away"
    assert reason.detail == f"{said} 2026-11-25 09:00:00 UTC after 3 of 3 attempts: It was away."
