"""What takes too long is noticed, and what does not is left alone."""

import threading

from shared.ledger.patience import Patience
from shared.testing.waiting import until


def test_what_takes_too_long_is_noticed_once_while_it_goes_on() -> None:
    lost: list[str] = []
    patience = Patience(lost.append, 0.05)
    with patience.watching("long"):
        until(lambda: lost == ["long"])
        with patience.watching("another"):
            until(lambda: lost == ["long", "another"])
    with patience.watching("long"):
        until(lambda: lost == ["long", "another", "long"])


def test_what_ended_in_time_is_not_noticed() -> None:
    lost: list[str] = []
    patience = Patience(lost.append, 0.3)
    for _ in range(100):
        with patience.watching("short"):
            pass
    with patience.watching("long"):
        until(lambda: lost)
    assert lost == ["long"]


def test_nothing_is_under_way_when_the_block_is_left() -> None:
    began, gate, left = threading.Event(), threading.Event(), threading.Event()
    patience = Patience(lambda _: began.set() or gate.wait(10), 0.0)

    def watch() -> None:
        with patience.watching("it"):
            began.wait(10)
        left.set()

    thread = threading.Thread(target=watch)
    thread.start()
    assert began.wait(10)
    assert not left.wait(0.2)
    gate.set()
    thread.join(10)
    assert left.is_set()
