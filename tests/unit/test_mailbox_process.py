"""`python -m infra.local.mailbox` as a process."""

import os
import re
import signal
import smtplib
import socket
import subprocess
import sys

import httpx2 as httpx
import pytest

KEY = "k" * 20
MESSAGE = b"From: a@example.com\r\nTo: b@example.com\r\nSubject: hello\r\n\r\nworld\r\n"


def start(directory, *, key=KEY, **ports):
    ports = {"smtp": 0, "http": 0, **ports}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "infra.local.mailbox", "--directory", str(directory)]
        + [f"--{name}-port={port}" for name, port in ports.items()],
        env={**os.environ, "MAILBOX_KEY": key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def addresses(process):
    """The ports that the started process tells, SMTP and HTTP."""
    line = process.stdout.readline()
    found = re.fullmatch(r"mailbox: mail at smtp://127\.0\.0\.1:(\d+), page at http://127\.0\.0\.1:(\d+)/\n", line)
    assert found, line + process.stderr.read()
    return int(found[1]), int(found[2])


def stop(process):
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    return errors


def test_mail_comes_in_by_smtp_and_out_by_http_and_survives_a_restart(tmp_path):
    for expected in (1, 2):
        process = start(tmp_path / "mail")
        try:
            smtp_port, http_port = addresses(process)
            with smtplib.SMTP("127.0.0.1", smtp_port) as client:
                client.sendmail("a@example.com", ["b@example.com", "c@example.com"], MESSAGE)
            told = httpx.get(f"http://127.0.0.1:{http_port}/messages", headers={"Authorization": f"Bearer {KEY}"})
            assert [mail["subject"] for mail in told.json()] == ["hello"] * expected
            assert told.json()[0]["recipients"] == ["b@example.com", "c@example.com"]
        finally:
            errors = stop(process)
        assert errors == ""


def test_a_message_that_cannot_be_kept_is_not_accepted(tmp_path):
    process = start(tmp_path / "mail")
    try:
        smtp_port, _ = addresses(process)
        (tmp_path / "mail" / "messages").rmdir()
        with smtplib.SMTP("127.0.0.1", smtp_port) as client, pytest.raises(smtplib.SMTPDataError) as refusal:
            client.sendmail("a@example.com", ["b@example.com"], MESSAGE)
        assert refusal.value.smtp_code == 452
    finally:
        stop(process)


@pytest.mark.parametrize("which", ["smtp", "http"])
def test_a_taken_port_is_said_in_one_line(tmp_path, which):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(tmp_path, **{which: port})
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors == f"mailbox: 127.0.0.1:{port} cannot be listened on: Address already in use\n"


@pytest.mark.parametrize("options", [{"key": ""}, {"key": "short"}, {"http": 99999}, {"smtp": -5}])
def test_what_cannot_be_started_is_said_in_one_line(tmp_path, options):
    process = start(tmp_path, **options)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("mailbox: ")
    assert errors.count("\n") == 1
