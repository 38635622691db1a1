"""PostgreSQL restarts, drops connections, has none left, and waits for somebody who sleeps."""

import signal
from contextlib import ExitStack, closing, suppress
from typing import Final

import psycopg

from infra.chaos.faults.fault import Fault, NotInjected, Scene
from infra.chaos.world import WATCHER

RESTART_SECONDS: Final = (5.0, 40.0)
TERMINATE_EVERY_SECONDS: Final = 0.3
MOST_CONNECTIONS: Final = 250


def restart(scene: Scene) -> None:
    """Stopped in order and crashed by turns; the supervisor starts it again."""
    world, pause, crash = scene.world, 1.0, False
    while scene.window.wait(pause):
        scene.crowd()
        world.tell("postgres", signal.SIGQUIT if crash else signal.SIGINT)
        crash = not crash
        pause = world.random.uniform(*RESTART_SECONDS)


def terminate(scene: Scene) -> None:
    """One connection of somebody's after the other is dropped."""
    dropped = 0
    while scene.window.wait(TERMINATE_EVERY_SECONDS):
        with suppress(psycopg.Error):
            dropped += len(
                scene.world.query(
                    """SELECT pg_terminate_backend(pid) FROM (
                     SELECT pid FROM pg_stat_activity
                     WHERE backend_type = 'client backend' AND application_name <> %s
                     ORDER BY random() LIMIT 1) AS one""",
                    WATCHER,
                )
            )
    if not dropped:
        raise NotInjected("no connection could be dropped")


def take_all_connections(scene: Scene) -> None:
    """All that there are for others than superusers. Whoever has one keeps it; a worker and an API process start anew,
    and get none."""
    world = scene.world
    with ExitStack() as held:
        for _ in range(MOST_CONNECTIONS):
            try:
                held.enter_context(psycopg.connect(world.app_url, application_name=WATCHER, connect_timeout=3))
            except psycopg.Error:
                break  # that was the last one
        else:
            raise NotInjected("there were more connections than were asked for")
        world.kill(world.workers[0])
        world.tell(world.https[-1], signal.SIGKILL)
        while scene.window.wait(0.2):  # what the dead left must not go to those who come
            with suppress(psycopg.Error):
                held.enter_context(psycopg.connect(world.app_url, application_name=WATCHER, connect_timeout=3))


def stay_idle(scene: Scene) -> None:
    """A transaction that has read and written, and is left open."""
    try:
        connection = psycopg.connect(scene.world.app_url, application_name=WATCHER)
    except psycopg.OperationalError as error:
        raise NotInjected("PostgreSQL takes no connection") from error
    with closing(connection):
        connection.execute("SELECT count(*) FROM effect_row")
        connection.execute("INSERT INTO effect_row (number, job, attempt) VALUES (-1, gen_random_uuid(), 0)")
        scene.window.wait_out()


def faults(lease: float) -> list[Fault]:
    return [
        Fault("database-restart", "database", 75, restart, brief=12),
        Fault("database-terminate", "database", 25, terminate),
        Fault("database-connections", "database", 20, take_all_connections, brief=8),
        Fault("database-idle", "database", 120, stay_idle, brief=30),
    ]
