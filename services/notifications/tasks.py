"""One thin task a job."""

import random
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlmodel import Session

from services.notifications import operations
from services.notifications.adapters import Busy, Delivered, Gates
from services.notifications.jobs import MatchEvent, RepeatDelivery, SendMessage
from services.notifications.operations import Order, Result
from services.notifications.settings import NotificationsSettings
from shared.errors import Snooze
from shared.ledger.attempts import Attempt
from shared.ledger.tasks import Tasks
from shared.objects import ObjectStore

tasks = Tasks()

SENDS_A_DESTINATION = 3
"""At a time, in one worker process: with 8 threads, two destinations that hang leave two threads to the rest."""


@lru_cache(maxsize=1)
def settings() -> NotificationsSettings:
    return NotificationsSettings()


@lru_cache(maxsize=1)
def _objects() -> ObjectStore:
    return ObjectStore(settings().objects_url)


@lru_cache(maxsize=1)
def _gates() -> Gates:
    return Gates(SENDS_A_DESTINATION)


@tasks.job(MatchEvent, time_limit=60)
def match_event(attempt: Attempt, args: MatchEvent) -> None:
    with attempt.finishing() as session:
        operations.match(session, args.envelope, datetime.now(UTC))


@tasks.job(RepeatDelivery, time_limit=60)
def repeat_delivery(attempt: Attempt, args: RepeatDelivery) -> None:
    result: dict[str, str] = {}
    with attempt.finishing(result) as session:
        delivery, sending = operations.repeat(session, args.delivery_id, attempt.job.id, datetime.now(UTC))
        result["delivery"] = str(delivery)
        if sending is not None:
            attempt.continue_as(sending)


class NotDelivered(Exception):
    """Carries a failed try past `effect_once`, which records what happened and nothing else."""

    def __init__(self, result: Result) -> None:
        super().__init__()
        self.result = result


@tasks.job(SendMessage, time_limit=120)
def send_message(attempt: Attempt, args: SendMessage) -> None:
    with attempt.reading() as session:
        order = operations.prepare(session, args.delivery_id)
    try:
        with _gates().enter(order.gate):
            kept = attempt.effect_once(f"delivery/{order.delivery}", lambda: _deliver(order))
    except Busy as busy:
        raise Snooze("Other messages are on their way to this destination.", after=busy.after) from None
    except NotDelivered as failure:
        raise _noted(attempt, args, failure.result) from None
    with attempt.finishing({"delivery": str(args.delivery_id)}) as session:
        operations.complete(session, args.delivery_id, Result.of_json(kept))


def _deliver(order: Order) -> dict[str, Any]:
    result = operations.send(order, settings(), _objects())
    if not isinstance(result.outcome, Delivered):
        raise NotDelivered(result)
    return result.as_json()


def _noted(attempt: Attempt, args: SendMessage, result: Result) -> Exception:
    assert not isinstance(result.outcome, Delivered)
    with attempt.noting() as session:
        attempts = operations.note_failure(session, args.delivery_id, result)
    # The jitter need not be unpredictable.
    return operations.verdict(result.outcome, attempts, random.random())  # noqa: S311


@tasks.redriven(SendMessage)
def sending_again(session: Session, args: SendMessage) -> None:
    operations.reopen(session, args.delivery_id)


@tasks.failed(SendMessage)
def sending_failed(session: Session, args: SendMessage, reason: dict[str, Any]) -> None:
    operations.fail(session, args.delivery_id, reason, datetime.now(UTC))
