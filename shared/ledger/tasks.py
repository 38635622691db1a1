"""Which code runs which job kind: filled by a service's `tasks.py`, read by its worker and its Beat."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlmodel import Session

from shared.ledger.attempts import Attempt
from shared.ledger.messages import JobArgs

A = TypeVar("A", bound=JobArgs)

Body = Callable[[Attempt, Any], Any]
FailureHook = Callable[[Session, Any, dict[str, Any]], None]
RedriveHook = Callable[[Session, Any], None]


@dataclass
class Task:
    """One job kind: its arguments, its body, its limits in seconds, and what else its failure means."""

    args: type[JobArgs]
    body: Body
    time_limit: float
    on_failed: FailureHook | None = None
    on_redriven: RedriveHook | None = None


class Tasks:
    """The job kinds of one service."""

    def __init__(self) -> None:
        self.by_kind: dict[str, Task] = {}

    def job(
        self, args: type[A], *, time_limit: float = 300.0
    ) -> Callable[[Callable[[Attempt, A], Any]], Callable[[Attempt, A], Any]]:
        """Register the body of a kind. What it returns is the job's result (JSON), unless it finished itself."""

        def register(body: Callable[[Attempt, A], Any]) -> Callable[[Attempt, A], Any]:
            if args.kind in self.by_kind:
                raise ValueError(f"{args.kind} has a body already")
            self.by_kind[args.kind] = Task(args, body, time_limit)
            return body

        return register

    def failed(
        self, args: type[A]
    ) -> Callable[[Callable[[Session, A, dict[str, Any]], None]], Callable[[Session, A, dict[str, Any]], None]]:
        """Register what else happens when a job of the kind fails for good or is cancelled: in that very transaction,
        whoever declares it (the attempt itself, the reaper after the worker's last crash, a person)."""

        def register(
            hook: Callable[[Session, A, dict[str, Any]], None],
        ) -> Callable[[Session, A, dict[str, Any]], None]:
            self.by_kind[args.kind].on_failed = hook
            return hook

        return register

    def redriven(self, args: type[A]) -> Callable[[Callable[[Session, A], None]], Callable[[Session, A], None]]:
        """Register what else happens when a job of the kind that failed, or was cancelled, is driven again: in that
        very transaction."""

        def register(hook: Callable[[Session, A], None]) -> Callable[[Session, A], None]:
            self.by_kind[args.kind].on_redriven = hook
            return hook

        return register
