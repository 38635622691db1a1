"""What end-to-end tests know of the running system, and the data they send."""

import csv
from dataclasses import dataclass
from pathlib import Path

from clients.cli.mailbox import Mailbox
from clients.client import Client
from infra.local import ports, postgres
from infra.local.stack import Stack
from shared.testing.waiting import until

RUN_SECONDS = 90
SPLIT_BYTES = 40_000_000
"""Larger uploads are read in parts."""


@dataclass
class System:
    """The running stack as its user has it: the gateway with a key, and the mailbox as a witness."""

    stack: Stack
    client: Client
    mailbox: Mailbox
    workspace: str
    secret: str
    """Of the webhook channel."""

    def database(self, role: str) -> str:
        """The URL of a service's role, or of the superuser."""
        password = self.stack.secrets.passwords[role]
        return f"postgresql://{role}:{password}@{ports.HOST}:{self.stack.ports['postgres']}/millrace"

    @property
    def admin(self) -> str:
        return postgres.admin_url(self.stack.ports["postgres"], self.stack.secrets.passwords["postgres"], "millrace")

    def pid(self, process: str) -> int | None:
        """The process' id now; None between its end and its next start."""
        return next(view.pid for view in self.stack.views() if view.name == process)

    def end_of(self, run: str, seconds: float = RUN_SECONDS) -> dict:
        """The run, once it has ended."""

        def ended() -> dict | None:
            found = self.client.run(run)
            return found if found["state"] != "running" else None

        return until(ended, seconds)


def furnish(client: Client, mailbox: Mailbox, secret: str) -> None:
    """A report on every dataset, told of by mail and by webhook; failures by mail."""
    client.create_definition(name="overview", title="Overview", dataset="*")
    mail = client.create_channel(name="mail", kind="email", config={"to": ["team@example.org"]})
    hook = client.create_channel(name="hook", kind="webhook", config={"url": mailbox.hook_url}, secret=secret)
    client.create_rule(name="mail", event_type="reports.report.rendered.v1", channel_id=mail["id"])
    client.create_rule(name="hook", event_type="reports.report.rendered.v1", channel_id=hook["id"])
    client.create_rule(name="alarm", event_type="ingest.dataset.failed.v1", channel_id=mail["id"])


@dataclass(frozen=True)
class Orders:
    """A small CSV of which everything is known."""

    path: Path
    rows: int
    bad_lines: dict[int, str]
    """Line → the value that does not fit."""
    total: str


def write_orders(folder: Path) -> Orders:
    path, bad, cents = folder / "orders.csv", {}, 0
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["order_id", "day", "region", "amount"])
        for number in range(1, 1001):
            amount = number * 7
            said = f"{amount // 100}.{amount % 100:02d}"
            if number in (100, 500, 900):
                said = bad[number + 1] = f"about {number}"
            else:
                cents += amount
            writer.writerow([number, f"2026-{number % 12 + 1:02d}-01", ("north", "south")[number % 2], said])
    return Orders(path, 1000, bad, f"{cents // 100}.{cents % 100:02d}")
