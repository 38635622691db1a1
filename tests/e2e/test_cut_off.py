"""An upload that breaks off on its way through the gateway leaves nothing behind."""

import os
import socket

import pytest

from infra.local import ports
from shared.testing.waiting import until

SENT_BYTES = 20_000_000
LINE = b"1,2.50,some name\n"


def traces(system):
    """Everything that an upload would leave: a dataset, a run, its first job, and files of the object store."""
    client = system.client
    uploads = system.stack.state.path("objects") / "uploads"
    return {
        "datasets": {each["id"] for each in client.datasets()},
        "runs": {each["id"] for each in client.runs()},
        "jobs": {each["id"] for each in client.jobs() if each["kind"] == "ingest.dataset.load"},
        # Not rglob, which does not bear that a folder goes while it looks.
        "objects": {os.path.join(folder, name) for folder, _, names in os.walk(uploads) for name in names},
    }


def lengthy(body):
    """As many bytes as were promised, less one."""
    return f"Content-Length: {len(body) + 1}", body


def chunked(body):
    """Without the last chunk, which says that this was all."""
    return "Transfer-Encoding: chunked", f"{len(body):x}\r\n".encode() + body + b"\r\n"


@pytest.mark.parametrize("framed", [lengthy, chunked])
def test_a_cut_off_upload_leaves_nothing(system, framed):
    before = traces(system)
    framing, body = framed(b"id,amount,name\n" + LINE * (SENT_BYTES // len(LINE)))
    head = [
        f"POST /v1/datasets?name=cut-{framed.__name__} HTTP/1.1",
        f"Host: {ports.HOST}",
        f"Authorization: {system.client._http.headers['authorization']}",
        "Content-Type: text/csv",
        framing,
    ]
    with socket.create_connection((ports.HOST, system.stack.ports["api"]), 10) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + body)
        # It is on its way into the store, through gateway and service, and would be whole with one byte more.
        until(lambda: traces(system)["objects"] - before["objects"], 20)
    until(lambda: traces(system)["objects"] == before["objects"], 20)
    assert traces(system) == before
    assert f"cut-{framed.__name__}" not in {each["name"] for each in system.client.datasets()}
