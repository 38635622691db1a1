"""What jsonb can hold of any value: reasons, progress and effects are recorded whatever is in them."""

import math
from typing import Any

DEPTH = 32
"""Levels below which a value is kept as its text: what holds itself has no end."""
INTEGER_BITS = 1024


def storable(value: Any, characters: int | None = None, depth: int = DEPTH) -> Any:
    """`value` as JSON that PostgreSQL takes: NUL and lone surrogates dropped, what JSON does not know as its
    text, each text cut to `characters`. Never raises."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return value if value.bit_length() <= INTEGER_BITS else f"{value:#x}"[:characters]
    if isinstance(value, str):
        return _clean(value)[:characters]
    if depth > 0 and isinstance(value, dict):
        return {text_of(key)[:characters]: storable(item, characters, depth - 1) for key, item in value.items()}
    if depth > 0 and isinstance(value, list | tuple):
        return [storable(item, characters, depth - 1) for item in value]
    return text_of(value)[:characters]


def text_of(value: Any) -> str:
    """Its text, whatever it does when it is asked for it."""
    try:
        return _clean(str(value))
    except Exception:
        return f"({type(value).__name__}: its text could not be read)"


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode().replace("\x00", "")
