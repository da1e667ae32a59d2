"""Training options: those of transformers, with defaults for rated speech, and a few of ours."""

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
            short clips, with a mask if the model takes one. `"crop"`: clips of similar length, cut at random to the shortest.
            `"repeat"`: short clips are repeated, as in SHEET. `"equal"`: only clips of exactly equal length. `"auto"`: `"pad"`
            if padding does not change a score, else `"crop"`. A family with windows of fixed length trains on random windows.
            Validation never cuts, repeats or pads in a way that changes a score.
        bucket_by_length (`bool`, *optional*, defaults to `True`): Whether clips of similar length share a batch. If not, any clips
            do, as in the code of SSL-MOS.
        max_seconds (`float`, *optional*): Cut longer clips at random in training, differently in every epoch. Validation clips are
            never cut.
        early_stopping_patience (`int`, *optional*): Stop after this many evaluations without a better `metric_for_best_model`.
        early_stopping_metrics (`list[str]`, *optional*): Metrics to watch instead of `metric_for_best_model`; training goes on
            while any of them improves. NISQA stops by `["corpus_lcc", "corpus_mapped_rmse"]`.
        muon_learning_rate (`float`, *optional*): Train weights that are matrices or filters by Muon at this rate, and the rest by
            AdamW at `learning_rate`. For models trained from scratch: 0.005 to 0.01 halved the steps that a student needed.
        begin_at_mean (`bool`, *optional*, defaults to `False`): Whether the new heads of a MOSA-Net or MTQ-Net start at the mean
            of the training labels. In the authors' code they start at 0, which first drives the trunk into saturation.
        feature_cache (`str`, *optional*): Folder for the features of a frozen encoder, which are then computed once per clip. Runs
            may share it. `"run"`: a folder inside the run's own, reused when the run resumes and removed at its end. A second of
            audio takes 50 frames of `hidden_size` 4-byte numbers for each layer read: 0.2 MB for XLS-R 300M.
        feature_cache_gb (`float`, *optional*, defaults to 50.0): Most that the folder may hold, in GB of 10⁹ bytes. The features
            of further clips are computed in every epoch.
        metric_for_best_model (`str`, *optional*): A metric of `hf_sqa.metrics.agreement`, such as `"sys_srcc"`, `"utt_mse"` or
            `"utt_mae"`; the mean over corpora, `"corpus_lcc"` or `"corpus_mapped_rmse"`; or `"loss"`. Defaults to `"sys_srcc"`
            if the validation rows name at least three systems, else to `"utt_srcc"`. With several scores it is the mean over
            the scores, unless it begins with the name of one: `"noisiness_utt_srcc"`.
        greater_is_better (`bool`, *optional*): Follows from the metric if not given.
        bf16 (`bool`, *optional*, defaults to `False`): As in transformers; without an accelerator, training in bfloat16 on the CPU.
        hub_strategy (`str`, *optional*, defaults to `"end"`): Only `"end"`, because a model is checked before it is published and
            only a finished one passes.
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
    disable_tqdm: bool | None = True  # we show a bar of rich instead, on a terminal only
    remove_unused_columns: bool = False  # our data set picks its columns itself
    logging_nan_inf_filter: bool = False  # log a loss that is NaN, do not hide it
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
        # transformers would set "loss" here. The right metric depends on the validation rows, so our trainer chooses it.
        self.chooses_metric = self.metric_for_best_model is None
        if self.chooses_metric:
            self.metric_for_best_model = "utt_srcc"
        if self.eval_strategy in ("no", None):
            self.load_best_model_at_end = False
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # transformers requires it for bf16 on a CPU, and a recipe cannot know the machine
            warn_if_emulated(torch.bfloat16)
        asked = self.greater_is_better
        super().__post_init__()
        self.greater_is_better = greater_is_better(self.metric_for_best_model) if asked is None else asked


def greater_is_better(metric: str | None) -> bool:
    """Return whether a larger value is better: true for correlations, false for errors and losses."""
    return GREATER_IS_BETTER.get((metric or "").rsplit("_", 1)[-1], False)
