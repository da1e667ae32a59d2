"""Limits of the numbers in a configuration, checked before anything is built by them.

No checkpoint comes near them: what lies beyond is a mistake, or was made to exhaust memory.
"""

from collections.abc import Mapping
from typing import Any

#: Least and largest value, by kind of option.
COUNT, SIZE, SAMPLES, SHARE, WEIGHT = (1, 1024), (1, 65_536), (1, 2**24), (0, 1), (0, 1e6)


def check_bounds(options: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    """Refuse options that are outside their bounds, or not numbers; those that are `None` or not given pass."""
    for option, (lowest, highest) in bounds.items():
        waiting = [options.get(option)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list | tuple):
                waiting += value
            elif value is not None and not (isinstance(value, int | float) and lowest <= value <= highest):  # not NaN either
                raise ValueError(f"Expected `{option}` between {lowest:,} and {highest:,}, got {value!r}.")


def check_multiple(config: Any, size: str, part: str, more: str = "") -> None:
    """Refuse a size, such as a width, that is no multiple of another option, such as the number of heads."""
    if getattr(config, size) % getattr(config, part):
        raise ValueError(
            f"Expected `{size}` to be a multiple of `{part}`, got {getattr(config, size)} and {getattr(config, part)}{more}."
        )


def check_hop(config: Any, hop: str, length: str, what: str = "windows") -> None:
    """Refuse a distance between the starts of windows that would leave gaps."""
    if not 0 < getattr(config, hop) <= getattr(config, length):
        raise ValueError(
            f"Expected `{hop}` above 0 and at most `{length}` = {getattr(config, length)} ({what} must not leave gaps), got "
            f"{getattr(config, hop)}."
        )
