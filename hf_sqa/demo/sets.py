"""Two sets of recordings on the page: means with intervals, the difference, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from hf_sqa.demo.page import colour
from hf_sqa.demo.scorers import Judgement, Scale, Scorers
from hf_sqa.metrics import SystemMean, compare_systems


def judged_sets(scorers: Scorers, model: str, first: Sequence[str], second: Sequence[str]) -> str:
    """Score the files of two sets by a model and compare them, by file names where these match, as HTML.

    Args:
        scorers ([`Scorers`]): The models.
        model (`str`): Name of the one to use.
        first (sequence of `str`), second (sequence of `str`): Paths of the files of A and of B.

    Raises:
        OSError, ValueError: If the model cannot be loaded.
    """
    sets = {"A": list(first), "B": list(second)}
    judgements = [(name, path, scorers.judge(model, path)) for name, paths in sets.items() for path in paths]
    scale = judgements[0][2].scales[0]
    compared = compare_systems(
        [judgement.row[scale.name] if judgement.is_scored else math.nan for _, _, judgement in judgements],
        [name for name, _, _ in judgements],
        items=[Path(path).stem for _, path, _ in judgements],
        score_name=scale.name,
    )
    rows = "".join(
        f'<tr><td class="sqa-label">{escape(system.name)}</td><td>{system.num_clips}</td><td>{system.num_failed}</td>'
        f'<td class="sqa-number" style="--sqa-colour:{_colour(scale, system.mean.value)}">{_mean(system)}</td></tr>'
        for system in compared.systems
    )
    return (
        f'<div class="sqa-result"><p class="sqa-difference">{escape(compared.verdict)}</p><div class="sqa-table"><table><thead><tr>'
        f"<th>set</th><th>scored</th><th>without</th><th>mean {escape(scale.name)}, 95 % interval</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{_unscored([(name, judgement) for name, _, judgement in judgements])}"
        '<p class="sqa-hint">Files of one name are compared with each other. The interval is for other recordings of this kind; '
        "the errors of the model come on top.</p></div>"
    )


def _colour(scale: Scale, mean: float) -> str:
    return "#888888" if math.isnan(mean) else colour(scale, mean)


def _mean(system: SystemMean) -> str:
    mean = system.mean
    if math.isnan(mean.value):
        return "none"
    return f"{mean.value:.2f}" + ("" if math.isnan(mean.low) else f" ({mean.low:.2f} to {mean.high:.2f})")


def _unscored(judgements: Sequence[tuple[str, Judgement]]) -> str:
    refused = [
        f"{escape(judgement.name)} of {name} (<code>{escape(judgement.row['code'])}</code>)"
        for name, judgement in judgements
        if not judgement.is_scored
    ]
    return f'<p class="sqa-refused" role="alert">Without a score, and not compared: {", ".join(refused)}</p>' if refused else ""
