"""A loss that allows every corpus its own scale, because listeners of different tests use the scale differently.

Paper:    Mittag et al., "Bias-Aware Loss for Training Image and Speech Quality Prediction Models from Multiple Datasets",
          QoMEX 2021, arXiv:2104.10217
Code:     https://github.com/gabrielmittag/NISQA, nisqa/NISQA_lib.py (MIT)
Differs:  coefficients are kept once per corpus instead of once per row; with several scores the losses of the scores are added, as
          the trainer of the five-dimension model does; first order only, the only one the original implements.
Shapes:   B batch, R rows of the training set, L labels
"""

import math
from collections.abc import Sequence

import torch
from torch import nn

from hf_sqa.blocks.losses import rated_targets


class BiasAwareLoss(nn.Module):
    """Squared error between labels and predictions that a straight line for each corpus has mapped.

    Call it on every batch, and `update` after every epoch with the predictions made during it. Before the first effective update
    the line is the identity and the loss is the plain squared error. Validation uses predictions as they are. The lines are part of
    the state dict, so training resumes with them.

    Args:
        corpora (`Sequence[str]`): Names of all corpora in training.
        num_labels (`int`, *optional*, defaults to `1`): Scores that the model predicts, each with lines of its own.
        anchor_corpus (`str`, *optional*): Corpus whose line stays the identity, so that predictions stay on its scale.
        min_correlation (`float`, *optional*, defaults to `0.7`): Lines are fitted from the first epoch on in which the correlation
            between all predictions and labels exceeds this: lines through bad predictions would only flatten them.

    Raises:
        ValueError: If the anchor is not among the corpora, or names repeat.
    """

    def __init__(
        self, corpora: Sequence[str], num_labels: int = 1, *, anchor_corpus: str | None = None, min_correlation: float = 0.7
    ):
        super().__init__()
        self.corpora = list(corpora)
        if len(set(self.corpora)) != len(self.corpora):
            raise ValueError(f"Expected every corpus to be named once, got {self.corpora}.")
        if anchor_corpus is not None and anchor_corpus not in self.corpora:
            raise ValueError(f"Expected `anchor_corpus` to be one of {', '.join(self.corpora)}, got {anchor_corpus!r}.")
        self.anchor_corpus, self.min_correlation = anchor_corpus, min_correlation
        self.register_buffer("offset", torch.zeros(len(self.corpora), num_labels))
        self.register_buffer("slope", torch.ones(len(self.corpora), num_labels))
        self.register_buffer("is_fitting", torch.zeros(num_labels, dtype=torch.bool))

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, corpora: Sequence[str]) -> torch.Tensor:
        """Return the loss `()` of predicted against rated scores `(B, L)`, NaN where not rated, with the corpus of every row.

        It is the sum over scores of the mean squared error over the rated rows.
        """
        rows = self._rows(logits, labels, corpora)
        mapped = self.offset[rows].to(logits.dtype) + self.slope[rows].to(logits.dtype) * logits
        targets, rated = rated_targets(mapped, labels)
        return ((mapped - targets).square().sum(dim=0) / rated.sum(dim=0).clamp(min=1)).sum()

    @torch.no_grad()
    def update(self, logits: torch.Tensor, labels: torch.Tensor, corpora: Sequence[str]) -> None:
        """Fit the lines to the predictions made during an epoch, score by score.

        A corpus in which a label of the score is missing keeps its line, as in the original; so does one whose predictions are all
        equal, where no line is determined. The arguments are those of `forward`, for the whole training set, `(R, L)`.
        """
        rows = self._rows(logits, labels, corpora)
        predictions, targets = logits.double(), labels.to(logits.device).double()
        for score in range(logits.shape[1]):
            predicted, rated = predictions[:, score], targets[:, score]
            known = ~torch.isnan(rated)
            # An undefined correlation (NaN) exceeds nothing.
            self.is_fitting[score] |= _correlation(predicted[known], rated[known]) > self.min_correlation
            if not self.is_fitting[score]:
                continue
            for index, corpus in enumerate(self.corpora):
                of_corpus = rows == index
                if corpus == self.anchor_corpus or not of_corpus.any() or torch.isnan(rated[of_corpus]).any():
                    continue
                centred = predicted[of_corpus] - predicted[of_corpus].mean()
                if not centred.any():
                    continue
                slope = (centred * rated[of_corpus]).sum() / centred.square().sum()
                self.slope[index, score] = slope
                self.offset[index, score] = rated[of_corpus].mean() - slope * predicted[of_corpus].mean()

    def _rows(self, logits: torch.Tensor, labels: torch.Tensor, corpora: Sequence[str]) -> torch.Tensor:
        """Return the index of every row's corpus, after checking the arguments."""
        expected = (len(corpora), self.offset.shape[1])
        if tuple(logits.shape) != expected or tuple(labels.shape) != expected:
            raise ValueError(
                f"Expected logits and labels of shape {expected} (rows, num_labels), got {tuple(logits.shape)} and "
                f"{tuple(labels.shape)}."
            )
        if unknown := sorted(set(corpora) - set(self.corpora)):
            raise ValueError(f"Expected corpora among {', '.join(self.corpora)}, got {', '.join(unknown)} too.")
        return torch.tensor([self.corpora.index(corpus) for corpus in corpora], device=logits.device)


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    first, second = first - first.mean(), second - second.mean()
    scale = math.sqrt(float(first.square().sum() * second.square().sum()))
    return float((first * second).sum()) / scale if scale > 0 else math.nan
