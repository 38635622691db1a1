"""The broker forgets, goes away, hangs, or has no room."""

import signal
from contextlib import suppress
from typing import Final

from redis import Redis
from redis.exceptions import RedisError

from infra.chaos.faults.fault import Fault, NotInjected, Scene
from infra.chaos.world import World

LATENCY_SECONDS: Final = 0.1


def client(world: World) -> "Redis":
    """Straight to the broker."""
    return Redis.from_url(world.broker_url, socket_timeout=5, socket_connect_timeout=2)


def restart(scene: Scene) -> None:
    """Killed, and started again with nothing kept."""
    world = scene.world
    scene.burst()  # messages wait in the broker when it forgets them
    world.wipe.set()
    try:
        world.tell("valkey", signal.SIGKILL)
        scene.window.wait_out()
    finally:
        world.wipe.clear()


def flush(scene: Scene) -> None:
    scene.burst()
    flushed = 0
    while scene.window.wait(2.0):
        with client(scene.world) as broker, suppress(RedisError):
            flushed += int(broker.flushall())
    if not flushed:
        raise NotInjected("the broker could not be flushed")


def black_hole(scene: Scene) -> None:
    """Connections are accepted, and never answered."""
    scene.world.broker.swallow()
    try:
        scene.window.wait_out()
    finally:
        scene.world.broker.pass_on()


def refuse(scene: Scene) -> None:
    scene.world.broker.refuse()
    try:
        scene.window.wait_out()
    finally:
        scene.world.broker.pass_on()


def slow_down(scene: Scene) -> None:
    scene.world.broker.delay(LATENCY_SECONDS)
    try:
        scene.window.wait_out()
    finally:
        scene.world.broker.pass_on()


def fill(scene: Scene) -> None:
    """Out of memory: it answers, and takes nothing."""
    with client(scene.world) as broker:
        broker.config_set("maxmemory", "1mb")
        try:
            scene.window.wait_out()
        finally:
            broker.config_set("maxmemory", "0")


def faults(lease: float) -> list[Fault]:
    return [
        Fault("broker-restart", "broker", 5, restart),
        Fault("broker-flush", "broker", 20, flush),
        Fault("broker-black-hole", "broker", 120, black_hole, brief=15),
        Fault("broker-refused", "broker", 30, refuse),
        Fault("broker-slow", "broker", 20, slow_down),
        Fault("broker-memory", "broker", 30, fill),
    ]
