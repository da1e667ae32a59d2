"""Options of training: those of transformers, with defaults for rated speech, and a few more."""

from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments

from hf_sqa.blocks.precision import warn_if_emulated
from hf_sqa.choices import check_choice
from hf_sqa.metrics.agreement import GREATER_IS_BETTER

BATCHING = ("auto", "pad", "crop", "repeat", "equal")


@dataclass
class AudioQualityTrainingArguments(TrainingArguments):
    """[`TrainingArguments`] whose defaults evaluate and save every epoch and keep the best checkpoint.

    Args:
        batching (`str`, *optional*, defaults to `"auto"`): How clips of different lengths share a batch. `"pad"`: zeros after the
            short clips, with a mask where the model takes one. `"crop"`: clips of similar length, cut at random to the shortest.
            `"repeat"`: short clips are repeated, as in SHEET. `"equal"`: only clips of exactly equal length. `"auto"`: `"pad"`
            where padding does not change a score, else `"crop"`. A family with windows of fixed length trains on random windows.
            Validation never cuts, repeats or pads in a way that changes a score.
        bucket_by_length (`bool`, *optional*, defaults to `True`): Whether clips of similar length share a batch. If not, any clips
            do, as in the code of SSL-MOS.
        max_seconds (`float`, *optional*): Longer clips are cut at random in training, differently in every epoch; never in
            validation.
        early_stopping_patience (`int`, *optional*): Evaluations without a better `metric_for_best_model` after which to stop.
        early_stopping_metrics (`list[str]`, *optional*): Metrics of which one must get better, instead of `metric_for_best_model`:
            `["corpus_lcc", "corpus_mapped_rmse"]`, by which NISQA stops.
        muon_learning_rate (`float`, *optional*): Train weights that are matrices or filters by Muon at this rate, and the rest by
            AdamW at `learning_rate`. For models trained from scratch: 0.005 to 0.01 halved the steps that a student needed.
        begin_at_mean (`bool`, *optional*, defaults to `False`): Whether the new heads of a MOSA-Net or MTQ-Net begin with the mean
            of the training labels, not with 0 as in the authors' code, from where the trunk is driven into saturation first.
        feature_cache (`str`, *optional*): Keep features of a frozen encoder, computed once a clip, in a folder that
            runs may share, or `"run"` for one under the run's own, which a resumed run uses and the end removes. A second
            of audio takes 50 frames of `hidden_size` 4-byte numbers for each layer read: 0.2 MB for XLS-R 300M.
        feature_cache_gb (`float`, *optional*, defaults to 50.0): What the folder may hold, in GB of 10⁹ bytes; the features of
            further clips are computed in every epoch.
        metric_for_best_model (`str`, *optional*): A metric of `hf_sqa.metrics.agreement`, such as `"sys_srcc"`, `"utt_mse"` or
            `"utt_mae"`; the mean of the corpora, `"corpus_lcc"` or `"corpus_mapped_rmse"`; or `"loss"`. By default `"sys_srcc"`
            where the validation rows name three systems or more, else `"utt_srcc"`. With several scores it is a mean over the
            scores unless it begins with a score's name: `"noisiness_utt_srcc"`.
        greater_is_better (`bool`, *optional*): Follows from the metric if not given.
        bf16 (`bool`, *optional*, defaults to `False`): As in transformers; without an accelerator it means the processor.
        hub_strategy (`str`, *optional*, defaults to `"end"`): `"end"` only: what is published is checked, and only a finished model
            passes.
    """

    batching: str = "auto"
    bucket_by_length: bool = True
    max_seconds: float | None = None
    early_stopping_patience: int | None = None
    early_stopping_metrics: list[str] | None = None
    muon_learning_rate: float | None = None
    begin_at_mean: bool = False
    feature_cache: str | None = None
    feature_cache_gb: float = 50.0

    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    logging_strategy: str = "epoch"
    save_total_limit: int | None = 2  # the best checkpoint is one of them
    load_best_model_at_end: bool = True
    report_to: str | list[str] | None = "none"
    disable_tqdm: bool | None = True  # there is a bar of rich, on a terminal only
    remove_unused_columns: bool = False  # the data set picks its columns itself
    logging_nan_inf_filter: bool = False  # a loss that is not a number is logged, not hidden
    hub_strategy: str = "end"
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])

    def __post_init__(self) -> None:
        check_choice("batching", self.batching, BATCHING)
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"Expected `max_seconds` above 0, got {self.max_seconds!r}.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"Expected `early_stopping_patience` of 1 or more, got {self.early_stopping_patience!r}.")
        if self.muon_learning_rate is not None and not 0 < self.muon_learning_rate < 1:
            raise ValueError(f"Expected `muon_learning_rate` between 0 and 1, got {self.muon_learning_rate!r}.")
        if not self.feature_cache_gb > 0:
            raise ValueError(f"Expected `feature_cache_gb` above 0, got {self.feature_cache_gb!r}.")
        if str(getattr(self.hub_strategy, "value", self.hub_strategy)) != "end":
            raise ValueError(
                f"Expected `hub_strategy` to be 'end', got {self.hub_strategy!r}: checkpoints on the way are not checked, so they "
                "are not published."
            )
        if self.push_to_hub and "/" not in (self.hub_model_id or ""):
            raise ValueError(f"Expected `hub_model_id` as 'owner/name' with `push_to_hub=True`, got {self.hub_model_id!r}.")
        # The Trainer would set "loss" here; which metric it is depends on the validation rows, so the trainer chooses.
        self.chooses_metric = self.metric_for_best_model is None
        if self.chooses_metric:
            self.metric_for_best_model = "utt_srcc"
        if self.eval_strategy in ("no", None):
            self.load_best_model_at_end = False
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # transformers asks for it by name, and a recipe cannot know the machine
            warn_if_emulated(torch.bfloat16)
        asked = self.greater_is_better
        super().__post_init__()
        self.greater_is_better = greater_is_better(self.metric_for_best_model) if asked is None else asked


def greater_is_better(metric: str | None) -> bool:
    """Whether more is better: true for correlations, false for errors and losses."""
    return GREATER_IS_BETTER.get((metric or "").rsplit("_", 1)[-1], False)
