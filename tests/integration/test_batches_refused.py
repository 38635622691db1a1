"""Batches: what is refused, who sees them, and what the database knows of their end."""

from typing import Any

import psycopg
import pytest

from shared import ids
from shared.db import raw
from shared.errors import NotFound
from shared.ledger import batches
from shared.ledger.batches import MOST_JOBS, MOST_STEPS, BatchInvalid
from tests.integration.toy.batches import Batches
from tests.integration.toy.harness import Toy


@pytest.fixture
def made(toy: Toy) -> Batches:
    return Batches(toy)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([], "A batch has 1 to 100 steps, not 0."),
        ([1] * (MOST_STEPS + 1), "A batch has 1 to 100 steps, not 101."),
        ([1, 0, 1], "Step 2 has no jobs."),
        ([MOST_JOBS, 1], "A batch has at most 10,000 jobs, not 10,001."),
    ],
)
def test_a_batch_that_is_none_is_refused(made: Batches, sizes: list[int], said: str) -> None:
    with pytest.raises(BatchInvalid) as refused:
        made.owe(*(["a"] * size for size in sizes))
    assert refused.value.detail == said
    assert made.toy.execute("SELECT id FROM job") == []


def test_batches_are_listed_for_their_workspace_alone(made: Batches) -> None:
    first, second = made.owe(["a"]), made.owe(["a"])
    made.run_out(second)
    with made.toy.database.transaction() as session:

        def listed(workspace: Any, **wanted: Any) -> list[Any]:
            return [row["id"] for row in batches.list_batches(raw(session), workspace, **wanted)["items"]]

        assert listed(made.toy.workspace) == [second.id, first.id]
        assert listed(made.toy.workspace, state="running") == [first.id]
        assert listed(made.toy.workspace, after=second.id, limit=1) == [first.id]
        assert listed(ids.draw()) == []
        with pytest.raises(NotFound):
            batches.show_batch(raw(session), ids.draw(), first.id)


def test_the_database_knows_when_a_batch_has_ended(made: Batches) -> None:
    batch = made.owe(["a"])
    with pytest.raises(psycopg.errors.CheckViolation):
        made.toy.execute("UPDATE batch SET state = 'succeeded' WHERE id = %s", batch.id)
