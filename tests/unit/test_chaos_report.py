"""The tables of the documentation are the tool's own."""

import json
import re

import pytest

from infra.chaos.faults import GROUPS, all_faults
from infra.chaos.report import markdown
from tests.architecture.tree import ROOT

PAGE = (ROOT / "docs/reliability.md").read_text()


MEASURED = sorted(path.name for path in (ROOT / "docs/measured").glob("chaos*.json"))


@pytest.mark.parametrize("name", MEASURED)
def test_tables_are_printed_from_what_was_measured(name):
    found = json.loads((ROOT / "docs/measured" / name).read_text())
    [table] = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert table == markdown(found)


def test_every_fault_is_described():
    faults = all_faults(30.0)
    assert {fault.group for fault in faults.values()} == set(GROUPS)
    assert [name for name in faults if f"`{name}`" not in PAGE] == []
