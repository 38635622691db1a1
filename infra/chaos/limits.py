"""Whether limits were held, by what bodies wrote of themselves and by the starts that the database kept.

A body is in its thing from its record ENTERED on. It is out at the first of these:

- the next record of its process: LEFT, unless that went on to die;
- the end of its process, by our own `kill -9`;
- half a lease after we froze its process: renewed at least three times a lease, it cannot be lost earlier, and whoever
  is frozen for longer may have lost the job to another;
- if none of these came, because its process ended in another way: when the ledger took the job from it.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from infra.chaos.record import Crash
from infra.probe.record import ENTERED
from infra.probe.record import Record as Deed

KIND: Final = "share"
THINGS: Final = ("one", "other")
CONCURRENCY: Final = 2
"""Of each thing."""
PER_SECOND: Final = 4.0
BURST: Final = 4
"""Of the kind."""
RULES: Final[dict[str, dict[str, Any]]] = {
    "each:thing": {"concurrency": CONCURRENCY},
    f"kind:probe.thing.{KIND}": {"per_second": PER_SECOND, "burst": BURST},
}
SLACK_SECONDS: Final = 0.25
"""Between a token's time, taken as the claim begins, and that of the move, noted as it ends."""
FOREVER: Final = 2**63


@dataclass
class Held:
    """What was found; by thing, and by number of the job."""

    most: Counter[str] = field(default_factory=Counter)
    """Bodies that were in it at once."""
    exceeded: list[int] = field(default_factory=list)
    """Jobs whose bodies entered where already as many were as may be."""


def hold(
    things: dict[int, str], done: Sequence[Deed], crashes: Sequence[Crash], taken: dict[int, list[int]], lease: float
) -> Held:
    """`things`: by number of the job. `taken`: when the ledger had each job leave `running`, nanoseconds. `lease`:
    seconds."""
    by_process: dict[int, list[Deed]] = defaultdict(list)
    for deed in done:
        by_process[deed.pid].append(deed)
    marks: list[tuple[int, int, int]] = []
    for pid, deeds in by_process.items():
        ends = sorted(
            crash.at_ns + (int(lease / 2 * 1e9) if crash.frozen else 0) for crash in crashes if pid in crash.pids
        )
        for deed, following in zip(deeds, [*deeds[1:], None], strict=True):
            if deed.deed == ENTERED and deed.number in things:
                known = [following.at_ns] if following is not None else []
                known += [at for at in ends if at >= deed.at_ns][:1]
                known = known or [at for at in taken.get(deed.number, ()) if at >= deed.at_ns][:1]
                marks += [(deed.at_ns, 1, deed.number), (min(known, default=FOREVER), -1, deed.number)]
    return _count(things, sorted(marks))


def _count(things: dict[int, str], marks: Iterable[tuple[int, int, int]]) -> Held:
    """`marks` in their order: when, in (1) or out (-1), whose; at the same instant out comes first."""
    found, inside = Held(), Counter[str]()
    for _, change, number in marks:
        thing = things[number]
        inside[thing] += change
        found.most[thing] = max(found.most[thing], inside[thing])
        if change > 0 and inside[thing] > CONCURRENCY:
            found.exceeded.append(number)
    return found


def too_soon(starts: Iterable[tuple[float, int]]) -> list[int]:
    """Numbers of jobs that began before there was a token for them. In each window of w seconds at most
    BURST + PER_SECOND x (w + SLACK_SECONDS) may; `starts`: seconds and number, in their order."""
    most = BURST + PER_SECOND * SLACK_SECONDS
    tokens, before, found = most, 0.0, []
    for at, number in starts:
        tokens, before = min(most, tokens + (at - before) * PER_SECOND), at
        if tokens < 1:
            found.append(number)
        else:
            tokens -= 1
    return found
