"""Which faults a chaos run injects, and in which order."""

import random
from itertools import islice

import pytest

from infra.chaos.command import BadPlan, choose, run_chaos
from infra.chaos.faults import GROUPS, all_faults
from infra.chaos.run import _draw

KNOWN = all_faults(30.0)


def named(*names):
    alone, mixed = choose(names, KNOWN)
    return [fault.name for fault in alone], mixed


def test_faults_are_named_one_by_one_by_group_or_all_at_once():
    assert named("segfault", "beat-two") == (["segfault", "beat-two"], False)
    assert named("beat") == (["beat-kill", "beat-freeze", "beat-two"], False)
    assert named("all", "mixed") == (list(KNOWN), True)
    assert named("mixed") == ([], True)
    assert named("beat", "beat-two")[0] == named("beat")[0]
    assert {fault.group for fault in KNOWN.values()} == set(GROUPS)


@pytest.mark.parametrize("names", [[], ["earthquake"], ["beat", "earthquake"]])
def test_what_is_no_fault_is_refused_before_anything_is_started(names):
    with pytest.raises(BadPlan):
        run_chaos(names, None, 1, print)


@pytest.mark.parametrize("names", [["beat"], ["segfault", "beat-kill"]])
def test_what_stock_celery_has_not_is_refused_before_anything_is_started(names):
    with pytest.raises(BadPlan, match=f"^{names[-1]}: does not apply to stock Celery"):
        run_chaos(names, None, 1, pytest.fail, stock=True)


def test_a_time_that_is_no_number_is_refused():
    with pytest.raises(BadPlan):
        run_chaos(["mixed"], float("nan"), 1, print)


def test_a_plan_is_its_seeds_and_leaves_nothing_out():
    def plan(seed):
        return [fault.name for fault in islice(_draw(list(KNOWN.values()), random.Random(seed)), len(KNOWN))]

    assert plan(1) == plan(1) != plan(2)
    assert sorted(plan(1)) == sorted(KNOWN)
