"""The base class of all configurations: score names, their scale, the sampling rate; misspelled options are refused."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, ClassVar, Self

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from hf_sqa.blocks.bounds import COUNT, WEIGHT, check_bounds
from hf_sqa.blocks.losses import SCORE_LOSSES
from hf_sqa.blocks.score_intervals import check_score_interval
from hf_sqa.blocks.score_mapping import check_score_mapping
from hf_sqa.choices import check_choice, did_you_mean

#: Entries of config.json about a repository's code: where it is, or that the checkpoint needs the package instead.
CODE_ENTRIES = ("auto_map", "custom_pipelines", "hf_sqa_needed")


@strict
class AudioQualityConfig(PreTrainedConfig):
    r"""Base configuration: which scores the model predicts, on which scale, from audio at which rate.

    Args:
        score_min (`float`, *optional*, defaults to `1.0`): Lowest score a listener could give, in label units.
        score_max (`float`, *optional*, defaults to `5.0`): Highest score a listener could give, in label units.
        sampling_rate (`int`, *optional*, defaults to `16000`): Samples per second the model was trained on, in Hz; `None` if it
            takes every recording at its native rate.
        score_loss (`str`, *optional*, defaults to `"mse"`): What `forward` minimises: `"mse"`, `"l1"`, `"huber"` or
            `"clipped"` (squared error, 0 within `clip_margin`).
        huber_delta (`float`, *optional*, defaults to `1.0`): Error in label units above which `"huber"` grows linearly.
        clip_margin (`float`, *optional*, defaults to `0.25`): Error in label units up to which `"clipped"` is 0.
        ranking_weight (`float`, *optional*, defaults to `0.0`): Weight of a loss on differences between the recordings of a batch.
        ranking_margin (`float`, *optional*, defaults to `0.1`): Error of such a difference, in label units, that counts as 0.
        checkpoint_name (`str`, *optional*): Name of the weights in results and cards; set by converters.
        score_mapping (`dict[str, list[float]]`, *optional*): By score name, the mapping that the audio-quality pipeline applies to
            the scores of a recording and of its segments; `forward` does not apply it. See `hf_sqa.blocks.score_mapping`.
        score_intervals (`dict[str, dict]`, *optional*): By score name, the calibration of its interval: tables, the clips behind
            them, the measured coverage. It is valid for the weights that it names. See `hf_sqa.blocks.score_intervals`.
        id2label (`dict[int, str]`, *optional*): Score names in column order; `{0: "mos"}` if not given.

    Raises:
        StrictDataclassError: If a value has the wrong type, or a `validate_*` method refuses it.
        TypeError: If an option looks like a misspelling of a real one, or `num_labels` is given without score names.
    """

    score_min: float | int = 1.0
    score_max: float | int = 5.0
    sampling_rate: int | None = 16000
    score_loss: str = "mse"
    huber_delta: float | int = 1.0
    clip_margin: float | int = 0.25
    ranking_weight: float | int = 0.0
    ranking_margin: float | int = 0.1
    checkpoint_name: str | None = None
    score_mapping: dict[str, list[float | int]] | None = None
    score_intervals: dict[str, dict[str, Any]] | None = None

    keys_to_ignore_at_inference = ["frame_logits", "hidden_states", "attentions"]
    #: Smallest and largest value of an option or of the elements of a list; families add theirs. Checked before anything is built.
    bounds: ClassVar[Mapping[str, tuple[float, float]]] = {
        "score_min": (-1e6, 1e6),
        "score_max": (-1e6, 1e6),
        "sampling_rate": (1000, 768_000),
        "huber_delta": (1e-6, 1e6),
        "clip_margin": WEIGHT,
        "ranking_weight": WEIGHT,
        "ranking_margin": WEIGHT,
    }
    #: Options that are a dict by score name, with the function that checks the name's value.
    checks_by_score: ClassVar[Mapping[str, Callable[[str, Any], None]]] = {
        "score_mapping": check_score_mapping,
        "score_intervals": check_score_interval,
    }
    #: Tasks that a checkpoint offers to `transformers.pipeline`: those of its config.json if its own code runs, else the task that
    #: `import hf_sqa` registers and sets here.
    custom_pipelines: ClassVar[Mapping[str, Any]] = {}
    #: Whether the family takes recordings at any rate, so that `sampling_rate` may be `None`.
    takes_any_rate: ClassVar[bool] = False
    #: Meaning of the family's own scores by name, for model cards.
    score_meanings: ClassVar[Mapping[str, str]] = {}
    #: Options of each size of the family, by the size's name; empty for a family of one size.
    sizes: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Options of a model with a few thousand weights; see [`tiny`].
    tiny_options: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self, **kwargs: Any) -> None:
        ours = {field.name for field in fields(self)} - {field.name for field in fields(PreTrainedConfig)}
        for option in kwargs:
            # transformers keeps unknown options as attributes: a typo would silently leave the default in force.
            if hint := did_you_mean(option, ours, likeness=0.85, otherwise=""):
                raise TypeError(f"Unknown option {option!r} for {type(self).__name__}{hint}")
        if type(self).custom_pipelines:
            # hf_sqa is installed: code beside the weights, or a stranger's, neither runs nor is passed on.
            kwargs = {name: value for name, value in kwargs.items() if name not in CODE_ENTRIES}
        self.validate_bounds()
        num_labels = kwargs.pop("num_labels", None)
        self.id2label = _checked_names(self.id2label or self.default_id2label())
        if num_labels is not None and num_labels != len(self.id2label):
            raise TypeError(
                f"Expected scores declared by name, got num_labels={num_labels} beside id2label={self.id2label}; pass "
                '`id2label={0: "mos", 1: "noisiness", ...}` instead of a number.'
            )
        self.label2id = {name: index for index, name in self.id2label.items()}
        self.problem_type = "regression"
        if hasattr(self, "encoder_config"):
            self.encoder_config: Any = copy.deepcopy(self.encoder_config)
        super().__post_init__(**kwargs)
        if getattr(self, "encoder_config", None) is not None:
            # The place that the encoder was read from does not describe it, and may be a private path.
            self.encoder_config._name_or_path = ""

    @classmethod
    def tiny(cls, **kwargs: Any) -> Self:
        """Return a configuration for tests and dry runs: every kind of layer, a few thousand weights; `**kwargs` change options."""
        return cls(**copy.deepcopy(dict(cls.tiny_options)) | kwargs)

    def default_id2label(self) -> dict[int, str]:
        """Return the score names of a configuration that names none."""
        return {0: "mos"}

    def changed_options(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, for a model with other weights, so without calibrated intervals."""
        ours = {field.name for field in fields(self)} - {field.name for field in fields(PreTrainedConfig)} | {"id2label"}
        ours -= {"score_intervals"}
        return {name: value for name, value in self.to_diff_dict().items() if name in ours}

    @property
    def score_names(self) -> list[str]:
        """Score names in column order."""
        return [self.id2label[index] for index in range(len(self.id2label))]

    def validate_bounds(self) -> None:
        check_bounds(vars(self), self.bounds)

    def validate_sampling_rate(self) -> None:
        if self.sampling_rate is None and not self.takes_any_rate:
            raise ValueError(f"Expected `sampling_rate` in Hz, got None: a {self.model_type} model knows one rate only.")

    def validate_score_range(self) -> None:
        if self.score_min >= self.score_max:
            raise ValueError(
                f"Expected `score_min` below `score_max`, got {self.score_min} and {self.score_max}. "
                "The five-point absolute category rating scale is `score_min=1.0, score_max=5.0`."
            )

    def validate_score_loss(self) -> None:
        check_choice("score_loss", self.score_loss, SCORE_LOSSES)

    def validate_scores(self) -> None:
        for option, check in self.checks_by_score.items():
            for name, values in (getattr(self, option) or {}).items():
                if name not in self.label2id:
                    raise ValueError(f"Expected `{option}` for scores of this model ({', '.join(self.label2id)}), got {name!r}.")
                check(name, values)


def _checked_names(id2label: Any) -> dict[int, str]:
    """Return score names by column; in JSON, the column numbers are text."""
    try:
        names = {int(index): name for index, name in id2label.items()}
    except (AttributeError, TypeError, ValueError):
        names = {}
    if (
        sorted(names) != list(range(len(names)))
        or not all(isinstance(name, str) and name for name in names.values())
        or not 0 < len(set(names.values())) == len(names) <= COUNT[1]
    ):
        raise ValueError(
            f'Expected `id2label` to name every column from 0 by a name of its own, {{0: "mos", ...}}, got {id2label!r}.'
        )
    return names
