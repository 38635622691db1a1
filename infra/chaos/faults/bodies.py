"""Jobs that go wrong by themselves: their neighbours must not notice."""

from collections.abc import Callable
from typing import Final

from infra.chaos.faults.fault import Fault, Scene

EVERY_SECONDS: Final = 1.0
RAISED: Final = (
    *("error", "unpicklable", "unspeakable", "base", "exit", "interrupt"),
    *("huge", "unprintable", "recursion", "group", "result"),
)


def misbehave(*hows: str) -> Callable[[Scene], None]:
    """Jobs that go wrong in these ways, in turn."""

    def act(scene: Scene) -> None:
        turn = 0
        while scene.window.wait(EVERY_SECONDS):
            scene.load.want("misbehave", {"how": hows[turn % len(hows)]}, "failed")
            turn += 1

    return act


def hang(scene: Scene) -> None:
    """Two that do not end at their time limit."""
    for _ in range(2):
        scene.load.want("hang", {}, "failed")
    scene.window.wait_out()


def faults(lease: float) -> list[Fault]:
    return [
        Fault("segfault", "jobs", 8, misbehave("segfault"), brief=5),
        Fault("memory", "jobs", 10, misbehave("memory", "oom_killed"), brief=5),
        Fault("hang", "jobs", 25, hang, brief=20),
        Fault("exceptions", "jobs", 1 + len(RAISED), misbehave(*RAISED)),
    ]
