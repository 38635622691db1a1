"""What is compared with what, and what is to be reached."""

from dataclasses import dataclass
from typing import Any, Final

_NOOP = "complete.noop"
RATIOS: Final[tuple[tuple[str, str, str], ...]] = (
    ("end_to_end", f"{_NOOP}.end_to_end_per_s", f"{_NOOP}.end_to_end_per_s"),
    ("end_to_end_event", "complete.event.end_to_end_per_s", f"{_NOOP}.end_to_end_per_s"),
    ("end_to_end_event_subscribed", "complete.event_subscribed.end_to_end_per_s", f"{_NOOP}.end_to_end_per_s"),
    ("end_to_end_transaction", "complete.transaction.end_to_end_per_s", f"{_NOOP}.end_to_end_per_s"),
    ("drain", f"{_NOOP}.drain_per_s", f"{_NOOP}.drain_per_s"),
    ("drain_event", "complete.event.drain_per_s", f"{_NOOP}.drain_per_s"),
    ("drain_event_subscribed", "complete.event_subscribed.drain_per_s", f"{_NOOP}.drain_per_s"),
    ("drain_transaction", "complete.transaction.drain_per_s", f"{_NOOP}.drain_per_s"),
    ("enqueue_many", f"{_NOOP}.enqueue_per_s", f"{_NOOP}.enqueue_per_s"),
    ("cpu", f"{_NOOP}.cpu_s_per_1000", f"{_NOOP}.cpu_s_per_1000"),
    ("cpu_event", "complete.event.cpu_s_per_1000", f"{_NOOP}.cpu_s_per_1000"),
    ("cpu_event_subscribed", "complete.event_subscribed.cpu_s_per_1000", f"{_NOOP}.cpu_s_per_1000"),
    ("cpu_transaction", "complete.transaction.cpu_s_per_1000", f"{_NOOP}.cpu_s_per_1000"),
    ("start_p50", "start.p50_ms", "start.p50_ms"),
    ("start_p99", "start.p99_ms", "start.p99_ms"),
    ("accept", "accept.bare.per_s", "accept.bare.per_s"),
    ("accept_p99", "accept.bare.p99_ms", "accept.bare.p99_ms"),
    ("accept_no_broker", "accept.bare_no_broker.per_s", "accept.bare.per_s"),
    ("accept_no_broker_p99", "accept.bare_no_broker.p99_ms", "accept.bare.p99_ms"),
    ("accept_route", "accept.route.per_s", "accept.bare.per_s"),
    ("accept_route_p99", "accept.route.p99_ms", "accept.bare.p99_ms"),
    ("accept_route_no_broker", "accept.route_no_broker.per_s", "accept.bare.per_s"),
    ("accept_route_no_broker_p99", "accept.route_no_broker.p99_ms", "accept.bare.p99_ms"),
    ("idle_pss", "idle.pss_mb", "idle.pss_mb"),
)
"""Name, our measure, theirs: ours is divided by theirs."""


@dataclass(frozen=True)
class Target:
    """A ratio to a peer, or a figure of ours, that is to be at least, or at most, so much."""

    text: str
    peer: str
    """A key of the ratios; empty for a figure of ours."""
    measure: str
    at_least: float | None = None
    at_most: float | None = None

    def judged(self, value: float) -> dict[str, Any]:
        reached = value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)
        wanted = f">= {self.at_least:,g}" if self.at_least is not None else f"<= {self.at_most:,g}"
        return {"target": self.text, "wanted": wanted, "found": value, "reached": reached}


def _times(peer: str, ratio: str, text: str, at_least: float) -> Target:
    return Target(f"{text}, times {peer}", f"vs_{peer}", ratio, at_least=at_least)


def _completed(ratio: str, text: str) -> tuple[Target, ...]:
    wanted = {"dramatiq": 2, "celery_plain": 5, "celery_adr": 25}
    return tuple(_times(peer, ratio, f"completed a second, {text}", times) for peer, times in wanted.items())


def _accepted(ratio: str, text: str) -> tuple[Target, ...]:
    return (
        _times("dramatiq", ratio, f"accepted a second, {text}", 1),
        Target(f"p99 of acceptance, {text}, times dramatiq", "vs_dramatiq", f"{ratio}_p99", at_most=1),
    )


TARGETS: Final[tuple[Target, ...]] = (
    *_completed("end_to_end", "shared commit"),
    *_completed("end_to_end_event", "an event stated"),
    *_completed("end_to_end_event_subscribed", "an event with one subscriber, whose job counts"),
    _times("dramatiq_tuned", "end_to_end", "completed a second, shared commit", 2),
    _times("dramatiq", "end_to_end_transaction", "completed a second, a transaction of its own", 1),
    *_accepted("accept", "bare server"),
    *_accepted("accept_no_broker", "bare server, broker stopped"),
    *_accepted("accept_route", "own route"),
    *_accepted("accept_route_no_broker", "own route, broker stopped"),
    Target("commit to start, p50 in ms", "", "start.after_return_p50_ms", at_most=8),
    Target("commit to start, p99 in ms", "", "start.after_return_p99_ms", at_most=30),
    Target("CPU of 1,000 jobs, times celery_plain", "vs_celery_plain", "cpu", at_most=0.7),
    Target("enqueued a second, library call", "", f"{_NOOP}.enqueue_per_s", at_least=10_000),
    Target("enqueued a second, POST /v1/jobs:batch", "", "accept.batch.per_s", at_least=10_000),
    Target("throughput of a full ledger, times an empty one", "", "full_ledger.drain_ratio", at_least=0.9),
)
