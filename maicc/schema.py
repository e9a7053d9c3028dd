"""What an option may be: limits of numbers, choices, and options as plain values.

The options themselves are in config.py and baselines/options.py.
"""

from __future__ import annotations

from dataclasses import field, fields, is_dataclass
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from maicc.types import UserError


class Limits(NamedTuple):
    """Numbers that an option may be."""

    low: float
    high: float = float("inf")
    ends: str = "[]"  # "(" or ")" where an end itself is not allowed

    def hold(self, value: Any) -> bool:
        """True if a value is a number within the limits; NaN never is."""
        if not isinstance(value, int | float):
            return False
        above = self.low < value if self.ends[0] == "(" else self.low <= value
        return above and (value < self.high if self.ends[1] == ")" else value <= self.high)

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'above' if self.ends[0] == '(' else 'at least'} {self.low:g}"
        if self.high > 1e6:
            return f"at least {self.low:g} and at most {self.high:.0f}"
        if self.ends == "[]":
            return f"between {self.low:g} and {self.high:g}"
        return f"in {self.ends[0]}{self.low:g}, {self.high:g}{self.ends[1]}"


def limited(
    default: float,
    low: float,
    high: float = float("inf"),
    ends: str = "",
    *,
    changes_results: bool = True,
) -> Any:
    """Makes a field of a number with limits.

    Args:
        ends: As of `Limits`; without it a number is finite, and may be either end.
        changes_results: False for options that say where and how wide the work runs.
    """
    limits = Limits(low, high, ends or ("[)" if high == float("inf") else "[]"))
    return field(default=default, metadata={"limits": limits, "changes_results": changes_results})


def identity(config: Any) -> dict[str, Any]:
    """Plain values of those options that change results."""
    return {
        option.name: identity(value) if is_dataclass(value) else value
        for option in fields(config)
        if option.metadata.get("changes_results", True)
        for value in [getattr(config, option.name)]
    }


def from_json(kind: type, values: Any, where: str) -> Any:
    """Makes a configuration from its plain values; missing options get their defaults.

    Args:
        kind: Class of the configuration.
        values: Plain values, by the names of the options.
        where: Name of their file, for the message.

    Raises:
        UserError: the values are no configuration.
    """
    hints = get_type_hints(kind)
    try:
        return kind(
            **{
                name: from_json(hints[name], value, where) if is_dataclass(hints[name]) else value
                for name, value in values.items()
                if name in hints
            }
        )
    except (AttributeError, TypeError):
        raise UserError(
            f"{where}: not the configuration of a run ({values!r:.60}); remove it and make it again"
        ) from None


def check_options(config: Any, name: str = "") -> None:
    """Checks every option against its choices and limits.

    Raises:
        UserError: names the first option that is wrong, and what it may be.
    """
    hints = get_type_hints(type(config))
    for option in fields(config):
        key, value = f"{name}.{option.name}".lstrip("."), getattr(config, option.name)
        choices = get_args(hints[option.name])
        limits = option.metadata.get("limits")
        if is_dataclass(value):
            check_options(value, key)
        elif get_origin(hints[option.name]) is Literal and value not in choices:
            raise UserError(f"{key}={value!r} is not one of: {', '.join(map(str, choices))}")
        elif limits is not None and not limits.hold(value):
            raise UserError(f"{key}={value} must be {limits}")
