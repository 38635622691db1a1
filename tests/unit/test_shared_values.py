"""Whatever comes, something that jsonb takes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.ledger.values import storable, text_of


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no words")


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters())
    | st.binary()
    | st.uuids()
    | st.datetimes()
    | st.builds(Evil)
    | st.builds(pow, st.just(10), st.just(5000))
    | st.just("\x00\ud800"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=4)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=20,
)


def takes(value: Any) -> bool:
    """What PostgreSQL's jsonb asks of a text: it is JSON, without NUL, lone surrogates, NaN or infinity."""
    written = json.dumps(value, allow_nan=False)
    json.dumps(value, ensure_ascii=False).encode()
    return "\\u0000" not in written


@given(anything)
def test_whatever_comes_can_be_stored(value: Any) -> None:
    assert takes(storable(value))


@given(anything)
def test_what_was_stored_stays_as_it_is(value: Any) -> None:
    once = storable(value)
    assert storable(once) == once


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    # Text without NUL and surrogates.
    | st.text(alphabet=st.characters(min_codepoint=1, exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(alphabet=st.characters(min_codepoint=1, exclude_categories=["Cs"])), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(json_values)
def test_json_is_kept_as_it_is(value: Any) -> None:
    assert storable(value) == value


def test_what_holds_itself_comes_to_an_end() -> None:
    value: list[Any] = []
    value.append(value)
    assert takes(storable({"a": value}))


def test_texts_are_cut() -> None:
    assert storable({"k" * 10: ["v" * 10, Evil()]}, 4) == {"kkkk": ["vvvv", "(Evi"]}


def test_a_text_is_had_of_everything() -> None:
    assert text_of(Evil()) == "(Evil: its text could not be read)"
    assert text_of("nul \x00") == "nul "
