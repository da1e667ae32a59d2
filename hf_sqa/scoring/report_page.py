"""The report as one HTML page that needs no network: tables, plots inside, and the worst and best recordings to listen to."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.scoring.report import NUM_GROUPS, Difference, Report, RunComparison, Spread
from hf_sqa.scoring.shards import writing_whole

INK, ACCENT, SOFT = "#1d3557", "#2a6f97", "#a9c6d9"
#: Groups drawn in one plot.
NUM_DRAWN = 20

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2733; background: #f4f6f8; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 0 0 12px; color: #1d3557; }
h3 { font-size: 15px; margin: 18px 0 6px; }
section { background: white; border: 1px solid #dde3e9; border-radius: 8px; padding: 20px 22px; margin-top: 18px; }
.small, .identity { color: #5b6875; font-size: 13px; }
.identity code { background: #eef2f5; padding: 1px 5px; border-radius: 4px; }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.card { background: white; border: 1px solid #dde3e9; border-radius: 8px; padding: 12px 18px; flex: 1 1 130px; }
.card b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.card span { color: #5b6875; font-size: 13px; }
.bad b { color: #b2182b; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: #5b6875; font-weight: 600; border-bottom: 2px solid #dde3e9; padding: 5px 12px 5px 0; }
th { white-space: nowrap; }
td { border-bottom: 1px solid #edf0f3; padding: 4px 12px 4px 0; vertical-align: middle; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.reason { color: #5b6875; font-size: 13px; }
.bar { background: #e3ebf1; border-radius: 3px; height: 9px; width: 120px; }
.bar i { display: block; background: #2a6f97; border-radius: 3px; height: 9px; }
audio { height: 30px; width: 210px; vertical-align: middle; }
svg { max-width: 100%; height: auto; }
.note { background: #fff6e0; border-left: 4px solid #e6a400; padding: 8px 14px; border-radius: 4px; margin-top: 14px; }
.fault { background: #fdecec; border-left-color: #b2182b; }
.fine { background: #e9f6ec; border-left-color: #2e7d4f; }
"""


def write_page(report: Report, path: Path, comparison: RunComparison | None = None) -> None:
    """Write the page, whole or not at all."""
    with writing_whole(path) as temporary:
        temporary.write_text(render(report, comparison), encoding="utf-8")


def render(report: Report, comparison: RunComparison | None = None) -> str:
    """The page as HTML."""
    sections = [
        _comparison(comparison) if comparison is not None else "",
        _distribution(report),
        *(_groups(column, spreads, report.score) for column, spreads in report.groups.items()),
        _thresholds(report),
        _failures(report),
        _extremes("Worst recordings", report.worst, report.score),
        _extremes("Best recordings", report.best, report.score),
    ]
    identity = report.run["identity"]
    shown = ", ".join(f"{name} <code>{_text(value)}</code>" for name, value in identity.items() if value is not None)
    notes = ""
    if report.missing_shards:
        known = "rows" in report.run
        lacking = (
            f"{len(report.missing_shards):,} shards are not there yet" if known else "the run has not reached the end of its source"
        )
        notes += f'<p class="note">This run is not finished: {lacking}. The numbers are those of what is there.</p>'
    if report.num_repeated_keys:
        notes += (
            f'<p class="note">Rows whose key occurred before: {report.num_repeated_keys:,}. Each was scored; the column '
            "<code>row</code> tells them apart.</p>"
        )
    name = report.run["source"].rstrip("/").rsplit("/", 1)[-1]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Speech quality of {_text(name)}</title><style>{STYLE}</style></head><body><main>
<h1>Speech quality of {_text(name)}</h1>
<p class="identity">{_text(report.run["source"])}<br>{shown}</p>
{_cards(report)}{notes}
{"".join(sections)}
<p class="small">Scores compare recordings; they are not absolute, and say nothing of languages or defects the model never met.</p>
</main></body></html>
"""


def _cards(report: Report) -> str:
    spread = report.spreads[report.score]
    without = report.num_rows - report.statuses["ok"]
    cards = [
        (f"{report.num_rows:,}", "rows", ""),
        (_hours(report.hours), "hours of audio", ""),
        (_number(spread.mean), f"mean {report.score}", ""),
        (_number(spread.percentiles[5]), "5 % are below", ""),
        (f"{without:,}", "without a score", " bad" if without else ""),
    ]
    shown = "".join(f'<div class="card{kind}"><b>{value}</b><span>{label}</span></div>' for value, label, kind in cards)
    return f'<div class="cards">{shown}</div>'


def _distribution(report: Report) -> str:
    head = ["score", "scored", "mean", "deviation", *(f"{at} %" for at in next(iter(report.spreads.values())).percentiles)]
    rows = [
        [
            name,
            f"{spread.num_scored:,}",
            _number(spread.mean),
            _number(spread.deviation),
            *map(_number, spread.percentiles.values()),
        ]
        for name, spread in report.spreads.items()
    ]
    plot = _histogram(report.scores, report.score, report.seconds) if len(report.scores) else "<p>No row has a score.</p>"
    return f"<section><h2>Distribution</h2>{plot}{_table(head, rows)}</section>"


def _groups(column: str, spreads: Sequence[Spread], score: str) -> str:
    longest = max((spread.hours for spread in spreads), default=0.0) or 1.0
    rows = [
        [
            _text(spread.name),
            f"{spread.num_rows:,}",
            f"{spread.num_rows - spread.num_scored:,}",
            _hours(spread.hours),
            f'<div class="bar"><i style="width:{100 * spread.hours / longest:.0f}%"></i></div>',
            _number(spread.mean),
            *(_number(spread.percentiles[at]) for at in (5, 50, 95)),
        ]
        for spread in spreads[:NUM_GROUPS]
    ]
    rest = f'<p class="small">{len(spreads) - NUM_GROUPS:,} smaller ones are not listed.</p>' if len(spreads) > NUM_GROUPS else ""
    head = [column, "rows", "no score", "hours", "", f"mean {score}", "5 %", "50 %", "95 %"]
    plot = _boxes(spreads, score)
    return f"<section><h2>By {_text(column)}</h2>{plot}{_table(head, rows, left=(0, 4), raw=(4,))}{rest}</section>"


def _thresholds(report: Report) -> str:
    if not report.thresholds:
        return ""
    all_rows, all_hours = len(report.scores), float(report.seconds.sum()) / 3600
    rows = [
        [
            f"{at:.2f}",
            f"{kept:,}",
            f"{kept / all_rows:.1%}",
            _hours(hours),
            f"{hours / all_hours:.1%}" if all_hours else "",
            f'<div class="bar"><i style="width:{100 * hours / all_hours if all_hours else 0:.0f}%"></i></div>',
        ]
        for at, kept, hours in report.thresholds
    ]
    head = [f"{report.score} from", "rows", "", "hours kept", "", ""]
    how = "<p class='small'><code>hf-sqa filter</code> on this folder with <code>--min-mos 3.5</code> writes what stays.</p>"
    return f"<section><h2>What a threshold keeps</h2>{_table(head, rows, left=(5,), raw=(5,))}{how}</section>"


def _failures(report: Report) -> str:
    parts = []
    if report.reasons:
        rows = [
            [_text(status), _text(code), f"{count:,}", f'<span class="reason">{_text(_short(example))}</span>']
            for (status, code), (count, example) in report.reasons.items()
        ]
        parts.append(
            "<h3>Rows without a score</h3>" + _table(["status", "code", "rows", "example"], rows, left=(0, 1, 3), raw=(3,))
        )
    else:
        parts.append("<p>Every row has a score.</p>")
    if report.warnings:
        scored = max(1, report.statuses["ok"])
        rows = [[_text(code), f"{count:,}", f"{count / scored:.1%}"] for code, count in report.warnings.most_common()]
        parts.append("<h3>Doubtful scores</h3>" + _table(["warning", "rows", "of the scored"], rows))
    return f"<section><h2>Failures and warnings</h2>{''.join(parts)}</section>"


def _extremes(title: str, extremes: Iterable[dict[str, Any]], score: str) -> str:
    rows = []
    for row in extremes:
        path = Path(row["audio"])
        player = f'<audio controls preload="none" src="{_text(path.resolve().as_uri())}"></audio>' if path.is_file() else ""
        seconds = row["duration_seconds"]
        rows.append(
            [
                _text(row["key"]),
                _number(row["score"]),
                f"{seconds:.1f}" if seconds else "",
                _text(", ".join(row["warnings"] or ())),
                player,
            ]
        )
    if not rows:
        return ""
    players = any(row[-1] for row in rows)
    rows = [row if players else row[:-1] for row in rows]
    head = ["key", score, "seconds", "warnings", *([""] if players else [])]
    return f"<section><h2>{title}</h2>{_table(head, rows, left=(0, 3, 4), raw=(4,))}</section>"


def _comparison(comparison: RunComparison) -> str:
    faults = comparison.faults
    verdict = "".join(f'<p class="note fault">{_text(fault)}</p>' for fault in faults[:20])
    if not faults:
        verdict = '<p class="note fine">No loss is shown.</p>'
    tables = _table(_DIFFERENCE_HEAD, [_difference_row("all", comparison.overall)])
    for column, differences in comparison.groups.items():
        ordered = sorted(differences, key=lambda group: (math.isnan(group.mean), group.mean))
        rows = [_difference_row(group.name, group) for group in ordered[:NUM_GROUPS]]
        tables += f"<h3>By {_text(column)}, largest loss first</h3>" + _table([column, *_DIFFERENCE_HEAD[1:]], rows)
    if comparison.most_worse:
        rows = [
            [_text(row["key"]), _number(row["before"]), _number(row["after"]), f"{row['after'] - row['before']:+.3f}"]
            for row in comparison.most_worse
        ]
        tables += "<h3>Recordings that lost most</h3>" + _table(["key", "before", "now", "difference"], rows)
    counts = (
        f"Recordings that are new: {comparison.only_here:,}; gone: {comparison.only_there:,}; that lost their score: "
        f"{len(comparison.lost):,}; that gained one: {len(comparison.won):,}."
    )
    plot = _histogram(comparison.differences, f"difference in {comparison.score}", None) if len(comparison.differences) > 1 else ""
    return f"<section><h2>Against the other run</h2>{verdict}<p>{counts}</p>{plot}{tables}</section>"


_DIFFERENCE_HEAD = ["", "pairs", "before", "now", "difference", "95 % interval"]


def _difference_row(name: str, group: Difference) -> list[str]:
    interval = "" if math.isnan(group.low) else f"{group.low:+.3f} to {group.high:+.3f}"
    difference = "" if math.isnan(group.mean) else f"{group.mean:+.3f}"
    return [_text(name), f"{group.num_pairs:,}", _number(group.before), _number(group.after), difference, interval]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,), raw: Sequence[int] = ()) -> str:
    """A table; columns are numbers but those named in `left`. Cells are escaped already; `raw` names those that hold markup."""
    kinds = ["" if index in left else ' class="number"' for index in range(len(head))]
    cells = "".join(f"<th{kind}>{_text(name)}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds, row, strict=True)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _histogram(values: np.ndarray, label: str, seconds: np.ndarray | None) -> str:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    bins = np.linspace(low, high, min(60, max(8, round(math.sqrt(len(values))))) + 1)
    figure, axis = _figure(3.0)
    weights = None if seconds is None else np.nan_to_num(seconds) / 3600
    axis.hist(values, bins=bins, weights=weights, color=SOFT, edgecolor=ACCENT, linewidth=0.5)
    mean = float(values.mean())
    axis.axvline(mean, color=INK, linewidth=1.2, linestyle="--")
    axis.text(mean, axis.get_ylim()[1] * 1.02, f"mean {mean:.2f}", ha="center", va="bottom", color=INK, fontsize=9)
    axis.set(xlabel=label, ylabel="recordings" if seconds is None else "hours", xlim=(low, high))
    return _svg(figure)


def _boxes(spreads: Sequence[Spread], score: str) -> str:
    drawn = [spread for spread in spreads if spread.num_scored][:NUM_DRAWN]
    if len(drawn) < 2:
        return ""
    drawn.sort(key=lambda spread: spread.percentiles[50])
    figure, axis = _figure(0.7 + 0.27 * len(drawn))
    for place, spread in enumerate(drawn):
        at = spread.percentiles
        axis.plot([at[5], at[95]], [place, place], color=ACCENT, linewidth=1)
        axis.barh(place, at[75] - at[25], left=at[25], height=0.55, color=SOFT, edgecolor=ACCENT, linewidth=0.8)
        axis.plot([at[50], at[50]], [place - 0.275, place + 0.275], color=INK, linewidth=1.8)
    names = [spread.name if len(spread.name) <= 28 else f"{spread.name[:27]}…" for spread in drawn]
    axis.set_yticks(range(len(drawn)), [name.replace("$", r"\$") for name in names])
    axis.set(xlabel=f"{score}: median, half of the recordings, 5 to 95 %", ylim=(-0.7, len(drawn) - 0.3))
    return _svg(figure)


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    axis.grid(axis="x", color="#e6eaee", linewidth=0.7)
    axis.set_axisbelow(True)
    return figure, axis


def _svg(figure: Any) -> str:
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hf-sqa", "font.family": "sans-serif"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    content = file.getvalue()
    return content[content.index("<svg") :]


def _text(value: Any) -> str:
    return html.escape(str(value))


def _short(text: str, most: int = 220) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _number(value: float) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 1000 else f"{hours:.1f}" if hours >= 10 else f"{hours:.3f}"
