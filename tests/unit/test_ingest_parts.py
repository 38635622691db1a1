"""A file that is read in parts gives what it gives when it is read in one go."""

import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from services.ingest.adapters import PartRead, Plan, join_parts, plan_parts, read_part
from services.ingest.errors import FileRefused, NoValidRows, WrongEncoding
from tests.unit.ingest_loading import Stored, load, read

PLAIN = "id,name,amount\n" + "".join(f"{n},name {n},{n}.50\n" for n in range(200))
QUOTED = "id,name,amount\n" + "".join(f'{n},"two\nlines, ""{n}""",{n}\n' for n in range(200))


def nothing(done: int, total: int) -> None:
    """Hears of progress."""


def plan(data: str | bytes, part_bytes: int) -> Plan | None:
    with TemporaryDirectory() as folder:
        source = Path(folder) / "in.csv"
        source.write_bytes(data.encode() if isinstance(data, str) else data)
        return plan_parts(source, part_bytes, nothing)


def load_in_parts(data: str | bytes, part_bytes: int) -> Stored | None:
    """None when it is not cut, or a part does not end between two rows."""
    data = data.encode() if isinstance(data, str) else data
    found = plan(data, part_bytes)
    if found is None:
        return None
    found = Plan.of_json(found.as_json())
    assert b"".join(data[part.start : part.end] for part in found.parts) == data[found.parts[0].start :]
    with TemporaryDirectory() as name:
        folder = Path(name)
        scratch, target, rejects = folder / "scratch", folder / "out.parquet", folder / "rejects"
        scratch.mkdir()
        parts: list[tuple[Path, PartRead]] = []
        for number, part in enumerate(found.parts):
            source, out = folder / "part.csv", scratch / f"{number}"
            source.write_bytes(data[part.start : part.end])
            out.mkdir()
            part_read = read_part(source, found, number, out, nothing)
            if part_read is None:
                return None
            parts.append((out, part_read))
        result = join_parts(found, parts, target, rejects, scratch=scratch, progress=nothing)
        return Stored(result, read(target), read(rejects))


def without_means(stored: Stored) -> Stored:
    """The mean of floats depends on the order in which they are added."""
    columns = [replace(column, mean=None) for column in stored.result.columns]
    return replace(stored, result=replace(stored.result, columns=columns))


def means(stored: Stored) -> list[float]:
    return [column.mean or 0.0 for column in stored.result.columns]


def check(data: str | bytes, part_bytes: int) -> bool:
    """Whether the file was loaded in parts; then it is the same load."""
    try:
        found = load_in_parts(data, part_bytes)
    except FileRefused as refused:
        with pytest.raises(type(refused), match=re.escape(refused.detail)):
            load(data)
        return True
    if found is None:
        return False
    whole_file = load(data)
    assert without_means(found) == without_means(whole_file)
    assert means(found) == pytest.approx(means(whole_file))
    return True


@pytest.mark.parametrize("data", [PLAIN, QUOTED, PLAIN.replace("\n", "\r\n"), "\ufeff" + QUOTED, "\n\n" + PLAIN])
@pytest.mark.parametrize("part_bytes", [100, 999, 2000])
def test_it_is_the_same_load(data: str, part_bytes: int) -> None:
    assert check(data, part_bytes)


def test_there_are_about_as_many_parts_as_fit() -> None:
    found = plan(PLAIN, len(PLAIN) // 4 + 1)
    assert found is not None
    assert len(found.parts) == 4
    assert max(part.end - part.start for part in found.parts) < len(PLAIN) // 4 + 30


def test_rejects_keep_their_lines() -> None:
    data = QUOTED + "n/a,x\n" + QUOTED.partition("\n")[2] + 'x,"y,1\n'
    assert check(data, 500)
    assert load(data).rejects != []


def test_a_row_that_a_cut_goes_through_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stray quote has the quotes come in pairs where they do not."""
    data = 'id,name\n1,5" pipe\n' + "".join(f'{n},"two\nlines"\n' for n in range(100))
    assert load_in_parts(data, 100) is None
    assert len(load(data).rows) == 101


def test_a_file_that_is_one_row_is_not_cut() -> None:
    assert plan('a,b\n1,"' + "\n" * 500 + '"\n', 100) is None


def test_a_file_that_fits_is_one_part() -> None:
    assert plan(PLAIN, len(PLAIN)) is None


def test_what_is_no_text_is_refused_before_it_is_cut() -> None:
    with pytest.raises(WrongEncoding, match="on line 202"):
        plan(PLAIN.encode() + b"1,\xff,2\n", 100)


def test_a_file_without_a_valid_row_says_so() -> None:
    data = "a,b\n" + "1\n" * 100
    with pytest.raises(NoValidRows):
        load_in_parts(data, 50)
    assert check(data, 50)


CELLS = st.one_of(
    st.sampled_from(
        ["1", "2.5", "-7", "n/a", "", "2024-02-29", "true", '"a ""b"""', '"x\ny"', '"x\r\ny"', 'a"b', '"open']
    ),
    st.text(alphabet='ab1,"\n\r é', max_size=6),
)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=4).map(",".join), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=ROWS, part_bytes=st.integers(5, 120), end=st.sampled_from(["\n", "\r\n"]))
def test_whatever_is_in_it_it_is_the_same_load_or_none(rows: list[str], part_bytes: int, end: str) -> None:
    check("id,name,amount" + end + end.join(rows) + end, part_bytes)
