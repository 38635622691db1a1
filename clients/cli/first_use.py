"""What a fresh stack gets, through the public HTTP API: a workspace with a key, a report, who is told."""

import base64
import secrets
from collections.abc import Iterable
from typing import Any, Final

from clients.cli.mailbox import Mailbox
from clients.client import Client
from clients.problems import ProblemError
from infra.local.state import State, write_private

Json = dict[str, Any]
ACCESS: Final = "access.json"
KEY: Final = "api-key"
"""The first workspace's key alone, for a shell: `$(cat .millrace/api-key)`."""
WORKSPACE: Final = "main"
DEFINITION: Final = "overview"
MAIL_CHANNEL: Final = "team-mail"
HOOK_CHANNEL: Final = "team-webhook"
RECIPIENT: Final = "team@millrace.localhost"
RENDERED: Final = "reports.report.rendered.v1"


def open_workspace(state: State, gateway: str, operator_key: str) -> Json:
    """The first workspace and its key, made when the folder holds none; kept with mode 0600.

    A crash between the making and the keeping leaves a workspace that nobody has a key of; the next start
    makes another under another name.
    """
    access = state.read(ACCESS)
    if "key" in access:
        return access
    with Client(gateway, operator_key) as operator:
        workspace = _new_workspace(operator)
        key = operator.create_workspace_key(workspace["id"], "first", ["read", "write", "admin"])
    access = {"workspace": workspace, "key": key["key"]}
    state.write(ACCESS, access)
    write_private(state.path(KEY), key["key"].encode() + b"\n")
    return access


def furnish(client: Client, mailbox: Mailbox) -> None:
    """A report for every dataset, a mail and a webhook channel, and the rules between; what is there stays."""
    if DEFINITION not in _names(client.definitions()):
        client.create_definition(name=DEFINITION, title="Overview", dataset="*")
    channels = {channel["name"]: channel for channel in client.channels()}
    mail = channels.get(MAIL_CHANNEL) or client.create_channel(
        name=MAIL_CHANNEL, kind="email", config={"to": [RECIPIENT]}
    )
    hook = _hook_channel(client, mailbox, channels.get(HOOK_CHANNEL))
    rules = _names(client.rules())
    for channel in (mail, hook):
        name = f"rendered-to-{channel['name']}"
        if name not in rules:
            client.create_rule(name=name, event_type=RENDERED, channel_id=channel["id"])


def _hook_channel(client: Client, mailbox: Mailbox, found: Json | None) -> Json:
    """The webhook channel, pointed at the mailbox's receiver; made anew when that has moved to another port."""
    if found and found["config"]["url"] == mailbox.hook_url:
        return found
    if found:
        client.delete_channel(found["id"])
    # The receiver knows the secret first: a crash in between leaves no channel that nobody can verify.
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
    mailbox.set_hook_secret(secret)
    return client.create_channel(name=HOOK_CHANNEL, kind="webhook", config={"url": mailbox.hook_url}, secret=secret)


def _new_workspace(operator: Client) -> Json:
    try:
        return operator.create_workspace(WORKSPACE)
    except ProblemError as error:
        if error.status != 409:
            raise
        return operator.create_workspace(f"{WORKSPACE}-{secrets.token_hex(3)}")


def _names(items: Iterable[Json]) -> set[str]:
    return {item["name"] for item in items}
