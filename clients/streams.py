"""Server-sent events as lines (WHATWG HTML 9.2.6)."""

from collections.abc import Iterable, Iterator


def events_of(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each whole event; comments and what is cut off at the end say nothing."""
    name, data = "message", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
        elif field == "event":
            name = value
        elif field == "data":
            data.append(value)
