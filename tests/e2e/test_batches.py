"""Batches through the real processes: steps one after the other, and a report for each recipient."""

from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from shared.testing.waiting import until
from tests.e2e.system import RUN_SECONDS, Orders, System

CANARY = {"kind": "api.canary.run", "args": {"text": "hello"}}


def ended(system: System, batch: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        found = system.client.batch(batch)
        return found if found["finished_at"] else None

    return until(look, RUN_SECONDS)


def test_a_step_begins_when_the_one_before_has_ended(system: System) -> None:
    made = system.client.create_batch([[CANARY] * 20, [CANARY], [CANARY]], name="three steps")
    batch = ended(system, made["batch"]["id"])
    assert (batch["state"], batch["step"]) == ("succeeded", 3)
    assert system.end_of(made["run"]["id"])["state"] == "succeeded"
    jobs = {job["id"]: job for job in system.client.jobs(batch=batch["id"])}
    steps = [[jobs[id] for id in step] for step in made["jobs"]]
    for before, after in pairwise(steps):
        last = max(datetime.fromisoformat(job["finished_at"]) for job in before)
        first = min(datetime.fromisoformat(job["started_at"]) for job in after)
        assert timedelta(0) <= first - last < timedelta(seconds=5)


@pytest.fixture
def burst(system: System, orders: Orders) -> dict[str, Any]:
    """Of the orders, for the two regions and one that there is not."""
    loaded = system.client.upload(orders.path, "orders")
    assert system.end_of(loaded["run"]["id"])["state"] == "succeeded"
    definition = system.client.create_definition(name="by-region", title="Orders", dataset="orders", formats=["csv"])
    try:
        recipients = [{"name": name, "only": {"region": name.lower()}} for name in ("North", "South", "West")]
        return system.client.burst(definition["id"], recipients)
    finally:
        system.client.delete_definition(definition["id"])  # what is owed is made all the same


def test_each_recipient_gets_a_report_and_its_mail(system: System, burst: dict[str, Any]) -> None:
    batch = ended(system, burst["batch"]["id"])
    assert (batch["state"], batch["reason"]["code"], batch["reason"]["failed"]) == ("failed", "batch.failures", 1)
    run = system.end_of(burst["run"]["id"])
    renders = {render["title"]: render["state"] for render in system.client.renders(run["id"])}
    assert renders == {"Orders: North": "ready", "Orders: South": "ready", "Orders: West": "failed"}
    [completed] = [event["data"] for event in run["events"] if event["type"] == "reports.burst.completed.v1"]
    assert (completed["batch_id"], completed["rendered"], completed["failed"]) == (batch["id"], 2, 1)
    mails = [each for each in system.client.deliveries(run["id"]) if each["channel_kind"] == "email"]
    assert [mail["status"] for mail in mails] == ["delivered"] * 2
