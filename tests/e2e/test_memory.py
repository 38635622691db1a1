"""No process holds a dataset in memory, however large it is."""

from bench.large import Watch, write

MEGABYTES = 60
MOST_MEGABYTES = 600


def test_a_large_upload_passes_through_in_bounded_memory(system, tmp_path):
    big = write(tmp_path / "big.csv", MEGABYTES)
    with Watch(system.stack) as watch:
        accepted = system.client.upload(big.path, "big")
        run = system.end_of(accepted["run"]["id"])
    assert run["state"] == "succeeded", run["reason"]
    dataset = system.client.dataset(accepted["dataset"]["id"])
    assert (dataset["rows_loaded"], dataset["rows_rejected"]) == (big.rows - big.bad, big.bad)
    kinds = [job["kind"] for job in run["jobs"] if job["service"] == "ingest"]
    assert kinds == ["ingest.parts.join", "ingest.part.read", "ingest.part.read"]
    assert [event["type"] for event in run["events"]].count("ingest.dataset.completed.v1") == 1
    assert set(watch.peaks) == {view.name for view in system.stack.views() if view.pid is not None}
    assert {name: peak for name, peak in watch.peaks.items() if peak >= MOST_MEGABYTES} == {}
