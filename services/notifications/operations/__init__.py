"""Use cases of `notifications`: channels and rules, matching events, sending messages."""

from services.notifications.operations.matching import match, repeat
from services.notifications.operations.sending import (
    Order,
    Result,
    complete,
    fail,
    note_failure,
    prepare,
    reopen,
    send,
    verdict,
)
from services.notifications.operations.setting_up import (
    create_channel,
    create_rule,
    delete_channel,
    delete_rule,
    show_channel,
    show_delivery,
    show_rule,
)

__all__ = [
    "Order",
    "Result",
    "complete",
    "create_channel",
    "create_rule",
    "delete_channel",
    "delete_rule",
    "fail",
    "match",
    "note_failure",
    "prepare",
    "reopen",
    "repeat",
    "send",
    "show_channel",
    "show_delivery",
    "show_rule",
    "verdict",
]
