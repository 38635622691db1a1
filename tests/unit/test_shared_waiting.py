"""Waiting ends with the condition, or says what it saw last."""

import pytest

from shared.testing.waiting import until


def test_it_answers_what_came_true() -> None:
    answers = iter([None, 0, "", "there"])
    assert until(lambda: next(answers)) == "there"


def test_it_says_what_it_saw_last() -> None:
    with pytest.raises(AssertionError, match=r"still \[\] after 0\.05 s"):
        until(list, 0.05)
