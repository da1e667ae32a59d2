"""Versions of one recording that listeners have ranked, and a loss that holds a model to their order.

Rated speech says how good a recording is; often less is known: that a coder at 9 kb/s beats itself at 6, on any sentence. The table
names such versions,

    filepath,group,rank,mos
    fr/012_opus6.flac,fr/012 opus,0,2.54        # `mos`: listeners' mean of the condition, where there is one; else empty
    fr/012_opus9.flac,fr/012 opus,1,3.69
    fr/012_lyra3.flac,fr/012 lyra,0,
    fr/012_lyra6.flac,fr/012 lyra,1,

and a group takes part in every step besides the batch, by the model's first score. Only differences within a group count, so
the level of a talker, a sentence or a listening test does not matter: they should equal the difference of the means where these are
known; else the better version should lead by a margin.

Source: offsets left out as in the contrastive loss of UTMOS (Saeki et al., Interspeech 2022); where no mean is known, a hinge
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hf_sqa.audio import load_recording
from hf_sqa.training.examples import Draw, make_example
from hf_sqa.training.recipe import OrderOptions

COLUMNS = ("filepath", "group", "rank")
#: Versions of a group that take part in a step at most; of more, others every time.
MAX_VERSIONS = 4


def order_loss(scores: torch.Tensor, groups: torch.Tensor, ranks: torch.Tensor, means: torch.Tensor, margin: float) -> torch.Tensor:
    """Loss of the pairs of a group whose ranks differ: `max(0, margin - difference)`, or the smooth L1 distance of their difference
    from that of their means where both are known.

    Args:
        scores (`torch.Tensor` of shape `(N,)`): Scores of the versions, in label units.
        groups, ranks (`torch.Tensor` of shape `(N,)`): Group of each version, and its rank in it; higher is better.
        means (`torch.Tensor` of shape `(N,)`): Listeners' means, NaN where there is none.
        margin (`float`): By how much the better version should lead, in label units.

    Returns:
        `torch.Tensor` of shape `()`: Mean over the pairs; 0 if there is none.
    """
    better, worse = torch.nonzero((groups[:, None] == groups[None]) & (ranks[:, None] > ranks[None]), as_tuple=True)
    ahead, wanted = scores[better] - scores[worse], means[better] - means[worse]
    losses = torch.where(
        torch.isnan(wanted), F.relu(margin - ahead), F.smooth_l1_loss(ahead, torch.nan_to_num(wanted), reduction="none")
    )
    return losses.sum() / max(1, len(better))


class OrderedGroups:
    """The groups of a table, one of them for every step; recordings longer than a window are cut, all of a group at one place.

    Raises:
        FileNotFoundError: If a recording is not there.
        ValueError: If the table has no group of two versions of different rank, or a rank that is no number.
    """

    def __init__(
        self, options: OrderOptions, num_labels: int, sampling_rate: int | None, window_samples: int | None = None, seed: int = 0
    ):
        self.options, self.num_labels, self.seed = options, num_labels, seed
        self.sampling_rate, self.window_samples = sampling_rate, window_samples
        table = Path(options.table)
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
                raise ValueError(
                    f"Expected the columns {', '.join(COLUMNS)} in {str(table)!r}, got {', '.join(reader.fieldnames or [])}; "
                    f"missing: {', '.join(missing)}."
                )
            rows = list(reader)
        by_group: dict[str, list[tuple[Path, float, float]]] = {}
        for row in rows:
            path = table.parent / row["filepath"]
            if not path.is_file():
                raise FileNotFoundError(f"Expected the recording {str(path)!r} of {str(table)!r}, which is not there.")
            try:
                rank, mean = float(row["rank"]), float(row.get("mos") or "nan")
            except ValueError:
                raise ValueError(
                    f"Expected numbers as `rank` and `mos` of {row['filepath']!r} in {str(table)!r}, got {row['rank']!r} and "
                    f"{row.get('mos')!r}."
                ) from None
            by_group.setdefault(row["group"], []).append((path, rank, mean))
        self.groups = [versions for versions in by_group.values() if len({rank for _, rank, _ in versions}) > 1]
        if not self.groups:
            raise ValueError(f"Expected groups of two versions or more of different `rank` in {str(table)!r}, got none.")

    def draw(self, step: int, process: int = 0) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
        """Examples for the collator, and `groups`, `ranks` and `means` of them; the same for the same step."""
        rng = np.random.default_rng([self.seed, step, process])
        examples, facts = [], []
        (index,) = rng.integers(len(self.groups), size=1)
        versions = self.groups[index]
        if len(versions) > MAX_VERSIONS:
            versions = [versions[place] for place in sorted(rng.permutation(len(versions))[:MAX_VERSIONS])]
        place = rng.random()
        for path, rank, mean in versions:
            recording = load_recording(path, sampling_rate=self.sampling_rate)
            waveform = recording.waveform
            if self.window_samples is not None and len(waveform) > self.window_samples:
                start = int(place * (len(waveform) - self.window_samples))
                waveform = waveform[start : start + self.window_samples]
            unlabelled = np.full(self.num_labels, np.nan, np.float32)
            examples.append(make_example(Draw(-1), unlabelled, waveform, recording.sampling_rate, offset=place))
            facts.append((0, rank, mean))
        groups, ranks, means = torch.tensor(facts, dtype=torch.float32).unbind(1)
        return examples, {"groups": groups, "ranks": ranks, "means": means}
