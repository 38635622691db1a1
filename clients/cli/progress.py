"""How far a job is, in words."""

from typing import Any

from rich.filesize import decimal

from clients.cli.trace import duration


def far(progress: dict[str, Any]) -> str:
    """How far it is: 450 of 1,000 rows (45 %), 120 rows a second, 4.58 s left, reading."""
    unit, total = progress["unit"], progress["total"]
    done = _amount(progress["done"], unit, named=total is None)
    parts = [done if total is None else f"{done} of {_amount(total, unit)}"]
    if total:
        parts[0] += f" ({100 * progress['done'] / total:.0f} %)"
    if progress["rate"]:
        parts.append(f"{_amount(progress['rate'], unit)} a second")
    if progress["remaining_seconds"]:
        parts.append(f"{duration(progress['remaining_seconds'])} left")
    if progress["message"]:
        parts.append(progress["message"])
    return ", ".join(parts)


def _amount(number: float, unit: str, *, named: bool = True) -> str:
    if unit == "bytes":
        return decimal(int(number))
    said = f"{number:,.1f}" if number % 1 and number < 100 else f"{number:,.0f}"
    return f"{said} {unit}".strip() if named else said
