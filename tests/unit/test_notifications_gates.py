"""The bound of sends to one destination."""

import threading
from itertools import pairwise

import pytest

from services.notifications.adapters.gates import MAX_WAIT_SECONDS, Busy, Gates


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_destination_has_so_many_places_and_another_has_its_own():
    gates = Gates(2)
    with gates.enter("a"), gates.enter("a"):
        with pytest.raises(Busy), gates.enter("a"):
            pass
        with gates.enter("b"):
            pass
    with gates.enter("a"):
        pass


def test_a_place_is_given_back_whatever_happens():
    gates = Gates(1)
    with pytest.raises(RuntimeError, match="send failed"), gates.enter("a"):
        raise RuntimeError("send failed")
    with gates.enter("a"):
        pass


def waits(gates, number):
    found = []
    for _ in range(number):
        with pytest.raises(Busy) as busy, gates.enter("slow"):
            pass
        found.append(busy.value.after)
    return found


def test_who_waits_comes_back_one_after_the_other_at_the_destinations_pace():
    clock = Clock()
    gates = Gates(3, clock)
    with gates.enter("slow"):
        with gates.enter("slow"), gates.enter("slow"):
            assert waits(gates, 4) == pytest.approx([0.5, 2 / 3, 1.0, 4 / 3])
            clock.now += 15.0
        with gates.enter("slow"), gates.enter("slow"):
            later = waits(gates, 4)
    assert all(after - before > 2 for before, after in pairwise(later))  # after two of 15 s its pace is slow


def test_nobody_is_sent_away_for_long():
    gates = Gates(1, Clock())
    with gates.enter("slow"):
        assert max(waits(gates, 2000)) <= MAX_WAIT_SECONDS


def test_threads_never_exceed_the_bound():
    gates, inside, seen, lock = Gates(3), [], [], threading.Lock()
    barrier = threading.Barrier(12)

    def try_often():
        barrier.wait()
        for _ in range(300):
            try:
                with gates.enter("a"):
                    with lock:
                        inside.append(1)
                        seen.append(len(inside))
                    with lock:
                        inside.pop()
            except Busy:
                continue

    threads = [threading.Thread(target=try_often) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= max(seen) <= 3


def test_destinations_that_are_idle_are_forgotten():
    clock = Clock()
    gates = Gates(1, clock)
    for number in range(100):
        with gates.enter(f"host-{number}"):
            clock.now += 1
    assert gates._gates == {}
