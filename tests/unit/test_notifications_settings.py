"""Settings of notifications are checked when a process starts."""

from ipaddress import ip_network

import pytest
from pydantic import ValidationError

from services.notifications.settings import NotificationsSettings

GOOD = {
    "MILLRACE_DATABASE_URL": "postgresql://notifications:pw@127.0.0.1/millrace",
    "MILLRACE_BROKER_URL": "redis://127.0.0.1",
    "MILLRACE_OBJECTS_URL": "file:///tmp/objects",
    "NOTIFICATIONS_SMTP_URL": "smtp://127.0.0.1:1025",
    "NOTIFICATIONS_MAIL_FROM": "Millrace <reports@millrace.example>",
}


@pytest.fixture
def environment(monkeypatch):
    def apply(**changes):
        for name, value in {**GOOD, **changes}.items():
            monkeypatch.setenv(name, value)

    return apply


def test_the_defaults_allow_no_private_network(environment):
    environment()
    settings = NotificationsSettings()
    assert settings.allowed_networks == ()
    assert settings.links_url == ""


def test_an_empty_variable_is_not_set(environment):
    environment(NOTIFICATIONS_ALLOWED_NETWORKS="", NOTIFICATIONS_PUBLIC_URL="")
    assert NotificationsSettings().allowed_networks == ()
    environment(NOTIFICATIONS_SMTP_URL="")
    with pytest.raises(ValidationError):
        NotificationsSettings()


def test_networks_are_a_json_list(environment):
    environment(NOTIFICATIONS_ALLOWED_NETWORKS='["127.0.0.0/8", "fd00::/8"]')
    assert NotificationsSettings().allowed_networks == (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))


def test_links_lead_to_the_public_address_or_the_gateway(environment):
    environment(MILLRACE_SERVICE_URLS='{"api": "http://127.0.0.1:8700/"}')
    assert NotificationsSettings().links_url == "http://127.0.0.1:8700"
    environment(NOTIFICATIONS_PUBLIC_URL="https://millrace.example/")
    assert NotificationsSettings().links_url == "https://millrace.example"


@pytest.mark.parametrize(
    "change",
    [
        {"NOTIFICATIONS_SMTP_URL": "http://mail"},
        {"NOTIFICATIONS_SMTP_URL": "smtp://user:hunter2@mail.example"},
        {"NOTIFICATIONS_MAIL_FROM": "nobody"},
        {"NOTIFICATIONS_MAIL_FROM": "a@b\nBcc: c@d"},
        {"NOTIFICATIONS_ALLOWED_NETWORKS": '["127.0.0.1/99"]'},
    ],
)
def test_a_wrong_setting_stops_the_start_and_shows_no_password(environment, change):
    environment(**change)
    with pytest.raises(ValidationError) as refusal:
        NotificationsSettings()
    assert "hunter2" not in str(refusal.value)
