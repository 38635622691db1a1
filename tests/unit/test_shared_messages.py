"""What a service says to itself, and what its Celery app makes of it."""

import random
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.celery import Service, make_celery
from shared.contracts.envelope import Event
from shared.ledger.messages import EventArgs, JobArgs, Retry, Subscriptions
from shared.ledger.tasks import Tasks
from shared.settings import Settings


class Do(JobArgs):
    kind: ClassVar[str] = "toy.thing.do"
    queue: ClassVar[str] = "toy.jobs"


class Note(EventArgs):
    kind: ClassVar[str] = "toy.thing.note"
    queue: ClassVar[str] = "toy.jobs"


class Done(Event):
    type: ClassVar[str] = "toy.thing.done.v1"
    owner: ClassVar[str] = "tests"
    consumers: ClassVar[tuple[str, ...]] = ()


def nothing(*_: Any) -> None:
    return None


def settings() -> Settings:
    return Settings(database_url="postgresql://a/b", broker_url="redis://a", objects_url="file:///a")  # type: ignore[arg-type]


def service(tasks: Tasks, subscriptions: Subscriptions | None = None, *, queue: str = "toy.jobs") -> Service:
    return Service("toy", settings, tasks, subscriptions or {}, queues=(queue,), pool="solo", concurrency=1)


def tasks_of(*kinds: type[JobArgs], **options: Any) -> Tasks:
    tasks = Tasks()
    for kind in kinds:
        tasks.job(kind, **options)(nothing)
    return tasks


@given(st.integers(1, 10**6), st.floats(0.01, 100), st.floats(0.01, 10_000), st.randoms(use_true_random=False))
def test_a_delay_is_between_half_its_ceiling_and_its_ceiling(
    attempt: int, base: float, cap: float, rng: random.Random
) -> None:
    delay = Retry(base=base, cap=cap).delay(attempt, rng)
    ceiling = min(cap, base * 2.0 ** min(attempt - 1, 60))
    assert ceiling / 2 <= delay <= ceiling


def test_a_kind_has_one_body() -> None:
    tasks = tasks_of(Do)
    with pytest.raises(ValueError, match=r"toy\.thing\.do has a body already"):
        tasks.job(Do)(nothing)


def test_a_hook_belongs_to_a_kind_with_a_body() -> None:
    with pytest.raises(KeyError):
        Tasks().failed(Do)(nothing)


def test_a_kind_of_a_queue_that_nobody_works_off_is_refused() -> None:
    with pytest.raises(ValueError, match="does not work off"):
        service(tasks_of(Do), queue="toy.other")


def test_a_subscription_without_a_body_is_refused() -> None:
    with pytest.raises(ValueError, match="has no body"):
        service(tasks_of(Do), {Done: (Note,)})


def test_each_kind_is_a_celery_task_with_its_limits() -> None:
    app = make_celery(service(tasks_of(Do, time_limit=60)))
    task = app.tasks["toy.thing.do"]
    assert (task.soft_time_limit, task.time_limit) == (60, 75)
    assert task.ignore_result
    assert "millrace.event.receive" in app.tasks


def test_the_broker_keeps_no_accounts_and_no_payloads() -> None:
    conf = make_celery(service(tasks_of(Do))).conf
    assert conf.broker_transport_options["ack_emulation"] is False
    assert conf.broker_connection_max_retries is None, "it comes back, whenever it comes back"
    assert conf.accept_content == ["json"], "nobody who can write to the broker runs code here"
    assert conf.worker_disable_prefetch


def test_a_service_listens_to_what_it_subscribes_to() -> None:
    assert service(tasks_of(Do)).event_queue() is None
    queue = service(tasks_of(Do, Note), {Done: (Note,)}).event_queue()
    assert queue is not None
    assert (queue.name, {bound.routing_key for bound in queue.bindings}) == ("toy.events", {"toy.thing.done.v1"})


def test_two_services_in_one_process_do_not_mix_their_tasks() -> None:
    one, other = make_celery(service(tasks_of(Do))), make_celery(service(tasks_of(Note)))
    assert "toy.thing.note" not in one.tasks
    assert "toy.thing.do" not in other.tasks
