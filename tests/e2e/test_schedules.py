"""Schedules in the whole system: made at the gateway, fired by a service's Beat, run by its worker."""

from datetime import UTC, datetime, timedelta

from shared import ids
from shared.testing.waiting import until


def test_a_schedule_fires_where_its_kind_is_at_home(system):
    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    hello = system.client.create_schedule(name="hello", kind="api.canary.run", args={"text": "hello"}, at=soon)
    [slot] = until(lambda: list(system.client.schedule_history(hello["id"], "fired")), 30)
    job = until(lambda: (found := system.client.job(slot["job"]["id"]))["state"] == "succeeded" and found, 30)
    assert (job["cause"], job["cause_id"], job["run"]) == ("schedule", hello["id"], slot["run"]["id"])
    assert system.client.run(job["run"])["state"] == "succeeded"
    assert system.client.schedule(hello["id"])["state"] == "ended"


def test_a_schedule_of_another_service_is_kept_there_and_reached_from_the_gateway(system):
    args = {"definition_id": str(ids.draw())}
    made = system.client.create_schedule(
        name="weekly", kind="reports.definition.render", args=args, cron="0 8 * * MON", zone="Europe/Berlin"
    )
    assert made["service"] == "reports"
    assert [each["id"] for each in system.client.schedules(name="weekly")] == [made["id"]]
    ran = system.client.run_schedule(made["id"])
    job = until(lambda: (found := system.client.job(ran["job"]["id"]))["state"] == "failed" and found, 30)
    assert job["service"] == "reports"
    assert "definition" in job["reason"]["detail"], "there is none of this id"
    system.client.delete_schedule(made["id"])
    assert list(system.client.schedules(name="weekly")) == []
