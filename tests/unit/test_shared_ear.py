"""When a worker is deaf, and when it only need not hear."""

from shared.workers import Ear


def hearing() -> Ear:
    ear = Ear(10)
    ear.told(0)
    ear.hears()
    return ear


def test_who_hears_nothing_for_long_is_deaf() -> None:
    ear = hearing()
    for now in (1, 5, 11):
        ear.told(now)
        assert not ear.is_deaf(now)
    ear.told(12)
    assert ear.is_deaf(12)


def test_one_message_that_comes_through_is_enough() -> None:
    ear = hearing()
    ear.told(1)
    ear.told(11)
    ear.hears()
    ear.told(12)
    assert not ear.is_deaf(21)


def test_who_had_an_excuse_gets_the_whole_time_again() -> None:
    ear = hearing()
    ear.told(1)
    ear.told(10)
    ear.excuse()
    ear.told(12)
    assert not ear.is_deaf(21)
    assert ear.is_deaf(23)


def test_where_nothing_was_ever_heard_nobody_is_deaf() -> None:
    ear = Ear(10)
    ear.told(0)
    ear.told(100)
    assert not ear.is_deaf(100)
