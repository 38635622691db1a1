"""Events: their place in the feed, their way to the broker, and their becoming jobs, once."""

from typing import Any
from uuid import UUID

import pytest

from shared import ids
from shared.ledger import queries
from shared.ledger.dispatch import EVENTS_A_MESSAGE, MOVE_CURSOR, EventPublisher
from shared.ledger.enqueue import Origin, publish
from shared.ledger.feed import read
from shared.ledger.filters import JobFilter
from shared.ledger.intake import Intake
from tests.integration.toy.events import SUBSCRIPTIONS, envelope_of, noted, state
from tests.integration.toy.harness import Toy
from tests.integration.toy.jobs import ThingDone, Unheard
from tests.integration.toy.wire import Away, Wire


def place(toy: Toy) -> int:
    with toy.connect() as connection:
        return EventPublisher("toy", Wire()).place(connection)


def publish_all(toy: Toy, wire: Wire) -> int:
    with toy.connect() as connection:
        return EventPublisher("toy", wire).publish(connection)


def sent(wire: Wire) -> list[str]:
    return [event.data["name"] for message in wire.events for event in message]


def names(toy: Toy, after: int = 0, **options: Any) -> tuple[list[str], int]:
    """A page of the feed: the events' names, and the next cursor."""
    with toy.connect() as connection:
        page = read(connection, "toy", after, options.pop("types", []), **options)
    return [event.data["name"] for event in page.events], page.next


# Their place


def test_an_event_without_a_place_is_in_no_feed(toy: Toy) -> None:
    state(toy, ThingDone(name="a"))
    assert names(toy)[0] == []
    assert place(toy) == 1
    assert names(toy)[0] == ["a"]
    assert place(toy) == 0


def test_an_earlier_event_that_commits_later_is_not_skipped(toy: Toy) -> None:
    """A reader who has passed the later one must still see the earlier one."""
    origin = Origin.request(toy.workspace)
    with toy.database.transaction(origin=origin) as slow:
        earlier = publish(slow, ThingDone(name="earlier"), subject=ids.draw())
        later = state(toy, ThingDone(name="later"))
        assert earlier < later
        assert place(toy) == 1
        seen, cursor = names(toy)
        assert seen == ["later"]
    assert place(toy) == 1
    assert names(toy, cursor)[0] == ["earlier"]
    assert names(toy)[0] == ["later", "earlier"]


def test_what_was_rolled_back_leaves_nothing(toy: Toy) -> None:
    with pytest.raises(ZeroDivisionError), toy.database.transaction(origin=Origin.request(toy.workspace)) as session:
        publish(session, ThingDone(name="never"), subject=UUID(int=1 // 0))
    assert (place(toy), names(toy)[0]) == (0, [])


def test_two_leaders_give_each_event_one_place(toy: Toy) -> None:
    """One was frozen and thaws: it waits for the other, then finds nothing left."""
    for number in range(20):
        state(toy, ThingDone(name=str(number)))
    publisher = EventPublisher("toy", Wire())
    with toy.connect() as thawed, toy.connect() as leader:
        with leader.transaction():
            assert publisher.place(leader) == 20
            thawed.execute("SET lock_timeout = '100ms'")
            with pytest.raises(Exception, match="lock timeout"):
                publisher.place(thawed)
        assert publisher.place(thawed) == 0
    positions = [row["position"] for row in toy.execute("SELECT position FROM event ORDER BY position")]
    assert len(set(positions)) == 20
    assert names(toy)[0] == [str(number) for number in range(20)]


# Their way to the broker


def test_placed_events_are_published_once_and_in_order(toy: Toy) -> None:
    for name in "abc":
        state(toy, ThingDone(name=name))
    wire = Wire()
    assert publish_all(toy, wire) == 0, "not before they have a place"
    place(toy)
    assert [publish_all(toy, wire), publish_all(toy, wire)] == [3, 0]
    assert sent(wire) == ["a", "b", "c"]
    assert {event.source for message in wire.events for event in message} == {"/millrace/toy"}


def test_a_message_is_of_one_type_and_bounded(toy: Toy) -> None:
    for number in range(EVENTS_A_MESSAGE + 1):
        state(toy, ThingDone(name=str(number)))
    state(toy, Unheard(name="other"))
    place(toy)
    wire = Wire()
    publish_all(toy, wire)
    assert [len(message) for message in wire.events] == [EVENTS_A_MESSAGE, 1, 1]
    assert {len({event.type for event in message}) for message in wire.events} == {1}


def test_dying_between_the_broker_and_the_cursor_sends_again_and_skips_nothing(toy: Toy) -> None:
    state(toy, ThingDone(name="a"))
    state(toy, Unheard(name="b"))
    place(toy)
    wire = Wire()
    wire.away_after = 1
    with pytest.raises(Away):
        publish_all(toy, wire)
    assert sent(wire) == ["a"]
    wire.away, wire.away_after = False, None
    publish_all(toy, wire)
    assert sent(wire) == ["a", "a", "b"]
    intake = Intake(toy.database, SUBSCRIPTIONS)
    for message in wire.events:
        intake.receive([event.model_dump(mode="json") for event in message])
    assert noted(toy) == ["a"], "twice sent, once a job"


def test_the_cursor_never_goes_back(toy: Toy) -> None:
    """A leader that was frozen between the broker and its cursor thaws after the others went on."""
    for position in (5, 3):
        toy.execute(MOVE_CURSOR, "published", position)
    assert toy.execute("SELECT position FROM cursor") == [{"position": 5}]


# The feed


def test_the_feed_is_read_page_by_page(toy: Toy) -> None:
    for name in "abcde":
        state(toy, ThingDone(name=name))
    place(toy)
    pages, cursor = [], 0
    for _ in range(3):
        page, cursor = names(toy, cursor, limit=2)
        pages.append(page)
    assert pages == [["a", "b"], ["c", "d"], ["e"]]
    assert names(toy, cursor) == ([], cursor)


def test_the_feed_of_some_types_passes_over_the_others(toy: Toy) -> None:
    for event in (ThingDone(name="a"), Unheard(name="x"), ThingDone(name="b"), Unheard(name="y")):
        state(toy, event)
    place(toy)
    seen, cursor = names(toy, types=[ThingDone.type])
    assert seen == ["a", "b"]
    assert cursor == names(toy)[1], "the next search begins behind the last event, of whatever type"
    assert names(toy, types=["no.such.type.v1"])[1] == cursor


def test_a_full_page_of_some_types_passes_over_nothing_unseen(toy: Toy) -> None:
    for event in (ThingDone(name="a"), ThingDone(name="b"), Unheard(name="x"), ThingDone(name="c")):
        state(toy, event)
    place(toy)
    first, cursor = names(toy, types=[ThingDone.type], limit=2)
    second, _ = names(toy, cursor, types=[ThingDone.type], limit=2)
    assert (first, second) == (["a", "b"], ["c"])


def test_a_cursor_from_nowhere_stays_where_it_is(toy: Toy) -> None:
    state(toy, ThingDone(name="a"))
    place(toy)
    assert names(toy, 10**12) == ([], 10**12)
    assert names(toy, 10**30) == ([], 10**30)


# Their becoming jobs


def test_an_event_becomes_a_job_of_the_same_run(toy: Toy) -> None:
    event = envelope_of()
    assert Intake(toy.database, SUBSCRIPTIONS).receive([event.model_dump(mode="json")]) == 1
    [job] = toy.execute("SELECT * FROM job")
    assert (job["kind"], job["run"], job["workspace"]) == ("toy.thing.note", event.runid, event.workspace)
    assert (job["cause"], job["cause_id"]) == ("event", event.id)


def test_an_event_that_comes_twice_becomes_one_job(toy: Toy) -> None:
    event = envelope_of().model_dump(mode="json")
    intake = Intake(toy.database, SUBSCRIPTIONS)
    intake.receive([event, event])
    intake.receive([event])
    assert noted(toy) == ["a"]


def test_an_event_of_no_interest_is_dropped(toy: Toy) -> None:
    event = envelope_of(type=Unheard.type)
    assert Intake(toy.database, SUBSCRIPTIONS).receive([event.model_dump(mode="json")]) == 0
    assert toy.execute("SELECT 1 FROM job") == []


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        17,
        "text",
        [],
        {"specversion": "0.3"},
        {"id": "not a uuid"},
        {"data": None},
        {"time": "yesterday"},
        {"traceparent": "x" * 129},
        {"workspace": "\x00"},
    ],
    ids=str,
)
def test_a_malformed_event_is_dropped_and_its_neighbours_are_taken(toy: Toy, malformed: Any) -> None:
    good = [envelope_of(name).model_dump(mode="json") for name in "ab"]
    bad = {**envelope_of("bad").model_dump(mode="json"), **malformed} if isinstance(malformed, dict) else malformed
    assert Intake(toy.database, SUBSCRIPTIONS).receive([good[0], bad, good[1]]) == 2
    assert noted(toy) == ["a", "b"]


@pytest.mark.parametrize("fields", [{"data": {"name": "nul \x00"}}, {"data": {"name": "\ud800"}}, {"subject": "\x00"}])
def test_an_event_that_cannot_be_stored_does_not_take_its_neighbours_along(toy: Toy, fields: dict[str, Any]) -> None:
    events = [envelope_of("a"), envelope_of("bad", **fields), envelope_of("b")]
    taken = [event.model_dump() for event in events]
    Intake(toy.database, SUBSCRIPTIONS).receive(taken)
    assert noted(toy) == ["a", "b"]


@pytest.mark.parametrize("traceparent", ["", "garbage", "00-x", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "-" * 100])
def test_a_malformed_traceparent_costs_the_trace_and_not_the_event(toy: Toy, traceparent: str) -> None:
    event = envelope_of(traceparent=traceparent)
    Intake(toy.database, SUBSCRIPTIONS).receive([event.model_dump(mode="json")])
    assert noted(toy) == ["a"]
    with toy.connect() as connection:
        page = queries.list_jobs(connection, "toy", event.workspace, JobFilter())
    assert [job["id"] for job in page["items"]] == [ids.derive(event.id, "toy.thing.note")]


def test_the_rest_of_an_outage_comes_by_the_feed(toy: Toy) -> None:
    """The same event by both ways, in either order, is one job."""
    event = envelope_of()
    intake = Intake(toy.database, SUBSCRIPTIONS)
    intake.take([event])
    intake.receive([event.model_dump(mode="json")])
    assert noted(toy) == ["a"]
