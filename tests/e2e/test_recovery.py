"""Processes die and the broker forgets, and what was accepted still ends."""

import os
import signal

import psutil
import psycopg
import redis

from shared.testing.waiting import until


def succeeded(system, accepted):
    run = system.end_of(accepted["run"]["id"])
    assert run["state"] == "succeeded", run["reason"]
    arrived = [hook["headers"]["webhook-id"] for hook in system.mailbox.hooks()]
    sent = [each["id"] for each in system.client.deliveries(run["id"]) if each["channel_kind"] == "webhook"]
    assert [arrived.count(id) for id in sent] == [1]
    return run


def write_long(folder, rows):
    """A CSV that takes a while."""
    path = folder / "long.csv"
    with path.open("w") as file:
        file.write("id,amount,name\n")
        file.writelines(f"{n},{n % 997}.50,name {n % 13}\n" for n in range(rows))
    return path


def render_of(run):
    found = [job for job in run["jobs"] if job["kind"] == "reports.report.render"]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_worker_that_is_killed_in_the_middle_of_its_job_comes_back_and_the_run_ends(system, tmp_path):
    accepted = system.client.upload(write_long(tmp_path, 300_000), "killed")

    def renders():
        job = render_of(system.client.run(accepted["run"]["id"]))
        return job is not None and job["state"] == "running"

    until(renders, 60)
    before = system.pid("reports-worker")
    os.killpg(os.getpgid(before), signal.SIGKILL)
    run = succeeded(system, accepted)
    assert system.pid("reports-worker") != before
    # Its lease ran out, and the job was given to the next worker.
    assert render_of(run)["attempt"] >= 2


def test_a_pool_process_that_is_killed_in_the_middle_of_its_job_is_replaced(system, tmp_path):
    accepted = system.client.upload(write_long(tmp_path, 400_000), "long")
    job = accepted["job"]["id"]
    until(lambda: system.client.job(job)["state"] == "running", 30)
    children = psutil.Process(system.pid("ingest-worker")).children(recursive=True)
    for child in children:
        child.kill()
    run = succeeded(system, accepted)
    load = next(job for job in run["jobs"] if job["kind"] == "ingest.dataset.load")
    assert (load["attempt"], load["crashes"]) == (2, 1)
    dataset = system.client.dataset(accepted["dataset"]["id"])
    assert (dataset["rows_loaded"], dataset["rows_rejected"]) == (400_000, 0)


def test_a_broker_that_forgets_everything_loses_nothing(system, orders):
    broker = redis.Redis.from_url(system.stack._environment("api")["MILLRACE_BROKER_URL"])
    accepted = []
    for number in range(5):
        accepted.append(system.client.upload(orders.path, f"flushed-{number}"))
        broker.flushall()
    for each in accepted:
        succeeded(system, each)


def test_a_restarted_database_loses_nothing_that_was_accepted(system, orders):
    accepted = system.client.upload(orders.path, "restarted")
    with psycopg.connect(system.admin, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    succeeded(system, accepted)
    before = system.pid("postgres")
    accepted = system.client.upload(orders.path, "restarted-again")
    os.kill(before, signal.SIGINT)
    assert until(lambda: system.pid("postgres") not in (None, before), 60)
    succeeded(system, accepted)
