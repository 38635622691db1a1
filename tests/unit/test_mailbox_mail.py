"""The mailbox keeps mail and webhooks as files, and reads mail of any shape."""

import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.local.mailbox.mail import Reader, parse
from infra.local.mailbox.store import MAX_ARRIVALS, Hooks, Messages, NotFound, new_id

MIXED = b"""From: Ann <ann@example.com>\r
To: bob@example.com\r
Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r
Message-ID: <1@example.com>\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=m\r
\r
--m\r
Content-Type: multipart/alternative; boundary=a\r
\r
--a\r
Content-Type: text/plain; charset=utf-8\r
\r
plain \xc3\xbc\r
--a\r
Content-Type: text/html; charset=utf-8\r
\r
<p>html</p>\r
--a--\r
--m\r
Content-Type: application/pdf\r
Content-Disposition: attachment; filename*=utf-8''%C3%A4.pdf\r
Content-Transfer-Encoding: base64\r
\r
JVBERg==\r
--m\r
Content-Type: text/html\r
Content-Disposition: attachment; filename="../../evil.html"\r
\r
<script>\r
--m--\r
"""


def test_a_message_is_read_with_its_parts():
    mail = parse(new_id(), MIXED)
    assert (mail.sender, mail.to, mail.subject) == ("Ann <ann@example.com>", "bob@example.com", "Grüße")
    assert mail.message_id == "<1@example.com>"
    assert (mail.text.strip(), mail.html.strip()) == ("plain ü", "<p>html</p>")
    assert [(file.filename, file.media_type) for file in mail.attachments] == [
        ("ä.pdf", "application/pdf"),
        (".._.._evil.html", "text/html"),
    ]
    assert mail.attachments[0].content == b"%PDF"


BROKEN = {
    "empty": b"",
    "no header": b"\x00\xff\xfe just bytes",
    "no end of header": b"Subject: x",
    "bad encoding": b"Content-Type: text/plain; charset=nonsense\r\n\r\n\xff\xfe",
    "bad boundary": b"Content-Type: multipart/mixed; boundary=x\r\n\r\nno such boundary",
    "no boundary": b"Content-Type: multipart/mixed\r\n\r\n--x\r\n\r\ny\r\n--x--",
    "bad base64": b"Content-Type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n!!!=",
    "bad type": b"Content-Type: ///\r\n\r\nx",
    "deep": b"".join(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(3000)),
    "bad headers": b"Subject: =?utf-8?b?!!!?=\r\nFrom: <<<>>>,,;\r\nTo: \xff\r\nDate: never\r\n\r\nx",
    "forwarded": b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nx",
}


@pytest.mark.parametrize("raw", BROKEN.values(), ids=BROKEN)
def test_something_is_shown_of_every_broken_message(raw):
    mail = parse(new_id(), raw)
    for text in (mail.sender, mail.to, mail.subject, mail.text or "", mail.html or ""):
        text.encode()


@given(st.binary(max_size=2000))
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_bytes_break_the_reader(raw):
    parse(new_id(), raw)
    parse(new_id(), b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n" + raw)


def test_a_forwarded_message_is_one_file():
    mail = parse(new_id(), BROKEN["forwarded"])
    assert [(file.media_type, b"inner" in file.content) for file in mail.attachments] == [("message/rfc822", True)]


def test_a_message_is_kept_with_its_envelope(tmp_path):
    messages = Messages(tmp_path)
    entry = messages.add("ann@example.com", ["bob@example.com", "eve@example.com"], MIXED)
    raw = messages.read(entry)
    assert raw.endswith(MIXED)
    assert raw.startswith(b"Return-Path: <ann@example.com>\r\nDelivered-To: bob@example.com\r\n")
    assert Reader(messages).get(entry).recipients == ["bob@example.com", "eve@example.com"]
    assert [path.suffix for path in (tmp_path / "messages").iterdir()] == [".eml"]


def test_an_envelope_cannot_add_headers(tmp_path):
    messages = Messages(tmp_path)
    entry = messages.add("a\r\nX-Evil: 1", ["b\nX-Evil: 2\u2028"], b"Subject: x\r\n\r\n")
    assert not [name for name, _ in Reader(messages).get(entry).headers if name == "X-Evil"]


def test_messages_come_newest_first_and_survive(tmp_path):
    first, second = (Messages(tmp_path).add("a@b", ["c@d"], b"Subject: x\r\n\r\n") for _ in range(2))
    assert Messages(tmp_path).ids() == [second, first]


@pytest.mark.parametrize("entry", ["", "..", "../hooks", "1", "0" * 19 + "-zzzzzzzz", "0" * 19 + "-00000000"])
def test_an_id_is_never_a_path(tmp_path, entry):
    with pytest.raises(NotFound):
        Messages(tmp_path).read(entry)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "A", "a b", "-a", "a" * 64, "a\n"])
def test_a_hooks_name_is_never_a_path(tmp_path, name):
    with pytest.raises(NotFound):
        Hooks(tmp_path).set_secret(name, "x")


def test_a_secret_is_the_owners_alone(tmp_path):
    hooks = Hooks(tmp_path)
    hooks.set_secret("team", "whsec_x")
    assert Hooks(tmp_path).secret("team") == "whsec_x"
    assert stat.S_IMODE((tmp_path / "hooks" / "team" / "secret").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "hooks" / "team").stat().st_mode) == 0o700


def test_arrivals_are_kept_up_to_a_number(tmp_path):
    hooks = Hooks(tmp_path)
    hooks.set_secret("team", "whsec_x")
    kept = [hooks.add("team", {}, "{}", None).id for _ in range(MAX_ARRIVALS + 3)]
    assert hooks.ids("team") == kept[:2:-1]
