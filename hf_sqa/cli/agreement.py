"""Agreement with listeners as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def print_agreement(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for each test set, score and level, with the metrics and their intervals.

    Args:
        rows (sequence of `dict`): Rows of [`~hf_sqa.evaluation.suite.SuiteResult`].
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200  # a pipe or a file has no edge to wrap at
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("test set", "score", "level"):
        table.add_column(name, no_wrap=True)
    for name in (*metrics, "clips", "failed", "drawn"):
        table.add_column(name, justify="right", no_wrap=True)
    lines: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((row["test_set"], row["score"], row["level"]), {})[row["metric"]] = row
    for names, by_metric in lines.items():
        values = [f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" for row in by_metric.values()]
        first = next(iter(by_metric.values()))
        counts = (str(first["num_clips"]), str(first["num_failed"]), f"{first['num_units']} x {first['unit']}")
        table.add_row(*names, *values, *counts)
    console.print(table)
