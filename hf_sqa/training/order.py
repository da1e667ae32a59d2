"""Ranked versions of one recording, and a loss that teaches a model their order.

Rated speech says how good a recording is. Often less is known: that a coder at 9 kb/s sounds better than at 6 kb/s, for example,
whatever the sentence. A table lists such versions:

    filepath,group,rank,mos
    fr/012_opus6.flac,fr/012 opus,0,2.54        # `mos`: listeners' mean of the condition if there is one, else empty
    fr/012_opus9.flac,fr/012 opus,1,3.69
    fr/012_lyra3.flac,fr/012 lyra,0,
    fr/012_lyra6.flac,fr/012 lyra,1,

Every training step adds one group to the batch and looks at the model's first score. Only differences within a group count, so the
level of a talker, a sentence or a listening test does not matter. A difference of scores should equal the difference of the means
if both are known; otherwise the better version should lead by a margin.

Source: offsets left out as in the contrastive loss of UTMOS (Saeki et al., Interspeech 2022); a hinge loss without known means
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
#: Most versions of a group in one step; from a larger group they are drawn anew in every step.
MAX_VERSIONS = 4


def order_loss(scores: torch.Tensor, groups: torch.Tensor, ranks: torch.Tensor, means: torch.Tensor, margin: float) -> torch.Tensor:
    """Compute the mean loss over pairs of different rank (higher is better) within a group; 0 if there are none.

    It is `max(0, margin - difference)` of the scores, or, if both listeners' means are known (not NaN), the smooth L1 distance
    between the difference of the scores and that of the means. All tensors are `(N,)`, scores and margin in label units.
    """
    better, worse = torch.nonzero((groups[:, None] == groups[None]) & (ranks[:, None] > ranks[None]), as_tuple=True)
    ahead, wanted = scores[better] - scores[worse], means[better] - means[worse]
    losses = torch.where(
        torch.isnan(wanted), F.relu(margin - ahead), F.smooth_l1_loss(ahead, torch.nan_to_num(wanted), reduction="none")
    )
    return losses.sum() / max(1, len(better))


class OrderedGroups:
    """The groups of a table; one is drawn per step. All recordings of a group longer than the window are cut at the same place.

    Raises:
        FileNotFoundError: If a recording does not exist.
        ValueError: If no group of the table has two versions of different rank, or a rank is not a number.
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
        """Return examples for the collator and their `groups`, `ranks` and `means`; the same step always draws the same."""
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
