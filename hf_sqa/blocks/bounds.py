"""Limits on the numbers in a configuration, checked before anything is built from them.

No real checkpoint comes near them: a number beyond them is a mistake, or is meant to exhaust memory.
"""

from collections.abc import Mapping
from typing import Any

#: Smallest and largest value, by kind of option.
COUNT, SIZE, SAMPLES, SHARE, WEIGHT = (1, 1024), (1, 65_536), (1, 2**24), (0, 1), (0, 1e6)


def check_bounds(options: Mapping[str, Any], bounds: Mapping[str, tuple[float, float]]) -> None:
    """Refuse options that are outside their bounds or not numbers; `None` and missing options pass."""
    for option, (lowest, highest) in bounds.items():
        waiting = [options.get(option)]
        while waiting:
            value = waiting.pop()
            if isinstance(value, list | tuple):
                waiting += value
            elif value is not None and not (isinstance(value, int | float) and lowest <= value <= highest):  # NaN fails too
                raise ValueError(f"Expected `{option}` between {lowest:,} and {highest:,}, got {value!r}.")


def check_multiple(config: Any, size: str, part: str, more: str = "") -> None:
    """Refuse a size, such as a width, that is not a multiple of another option, such as the number of heads."""
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
