"""A process is not forked in the middle of what its other threads do with locks and connections."""

import os
import socket
import sys
import threading
import warnings
from contextlib import closing

from shared.db import Database, Waker
from shared.forks import ForkGate
from shared.testing.waiting import until

MAIN = threading.main_thread().ident


def is_held_up() -> bool:
    """Whether the main thread is about to fork, and waits."""
    frame = sys._current_frames()[MAIN or 0]
    while frame is not None:
        if frame.f_code is ForkGate._shut.__code__:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def fork(in_child: object = None) -> int:
    """Fork; the child calls `in_child` and ends. Answers its exit code: 0 when that was true."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the other threads: they are what this is about
        child = os.fork()
    if child == 0:
        os._exit(0 if in_child is None or (callable(in_child) and in_child()) else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_fork_waits_for_the_thread_that_holds_the_gate_and_the_child_finds_it_open() -> None:
    gate = ForkGate()
    order: list[str] = []
    held = threading.Event()

    def work() -> None:
        with gate:
            held.set()
            until(lambda: is_held_up() or "forked" in order)
            order.append("done")

    def passes() -> bool:
        return order == ["done"] and gate._lock.acquire(timeout=5)

    thread = threading.Thread(target=work)
    thread.start()
    held.wait()
    code = fork(passes)
    order.append("forked")
    thread.join()
    assert (order, code) == (["done", "forked"], 0)
    assert gate._lock.acquire(timeout=5), "the process that forked has its gate back"
    gate._lock.release()


def test_a_fork_waits_for_the_announcement_that_is_on_its_way() -> None:
    """Its connection is just being made: a copy of that moment's locks would be of no use."""
    order: list[str] = []
    connecting = threading.Event()

    def serve(server: socket.socket) -> None:
        with server.accept()[0]:
            connecting.set()
            until(lambda: is_held_up() or "forked" in order)
            order.append("done")

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        url = f"postgresql://nobody@127.0.0.1:{server.getsockname()[1]}/none?sslmode=disable"
        waker = Waker(Database(url, application="test"))
        waker.wake()
        connecting.wait()
        assert fork() == 0
        order.append("forked")
        thread.join()
        waker.stop()
    assert order == ["done", "forked"]
