"""The whole system in its real processes, once for all end-to-end tests."""

import base64
import secrets
from collections.abc import Iterator

import pytest

from clients.cli import first_use
from clients.cli.mailbox import Mailbox
from clients.client import Client
from infra.local import ports
from infra.local.stack import Stack
from infra.local.state import Lock, State
from tests.e2e.system import SPLIT_BYTES, Orders, System, furnish, write_orders


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    state = State(tmp_path_factory.mktemp("system") / "state")
    state.create()
    with Lock(state), pytest.MonkeyPatch.context() as environment:
        environment.setenv("INGEST_SPLIT_BYTES", str(SPLIT_BYTES))
        stack = Stack(state, ports.free(), flower=False, lasting=False)
        try:
            stack.start()
            stack.wait()
            gateway = ports.url(stack.ports["api"])
            access = first_use.open_workspace(state, gateway, stack.secrets.keys["operator"])
            with (
                Client(gateway, access["key"]) as client,
                Mailbox(ports.url(stack.ports["mailbox"]), stack.secrets.passwords["web"]) as mailbox,
            ):
                secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
                mailbox.set_hook_secret(secret)
                furnish(client, mailbox, secret)
                yield System(stack, client, mailbox, access["workspace"]["id"], secret)
        finally:
            stack.stop()


@pytest.fixture
def orders(tmp_path) -> Orders:
    return write_orders(tmp_path)
