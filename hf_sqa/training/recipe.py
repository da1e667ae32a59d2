"""Recipes: a training run as data, in one YAML file with checked keys and a source for every number.

paper: "Exploring the influence ..."
cites: {training.learning_rate: "We train with ...", ...}     # by dotted key, the sentence that a number comes from
model: {family: wav2vec2_mos, encoder: facebook/wav2vec2-base, config: {mask_padding: false}}
data: {train: [{corpus: nisqa/TRAIN_SIM, root: NISQA_Corpus}], split: {share: 0.2, group: talker_id}}
loss: {kind: l1}
order: {table: ladders/order.csv, weight: 0.1}                # versions of one recording whose order is known
training: {learning_rate: 1e-4, num_train_epochs: 100, metric_for_best_model: utt_mse, early_stopping_patience: 20}
evaluation: [{corpus: nisqa/TEST_FOR, root: NISQA_Corpus}]
output_dir: trained
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hf_sqa.choices import check_choice, did_you_mean
from hf_sqa.options import apply_overrides, dump_yaml, load_yaml, read_options, written
from hf_sqa.shipped import find_file


@dataclass(frozen=True)
class Source:
    """Rated rows from one source: exactly one of `corpus`, `table` and `hub` is set."""

    # `corpus`, `table`, `hub`: name of a corpus or of a part of it, path of a table, repository on the Hub
    corpus: str | None = None
    table: str | None = None
    hub: str | None = None
    # `root` to `on_missing`: as for `hf_sqa.data.load_corpus`
    root: str | None = None
    columns: dict[str, str] | None = None
    scale: list[float] | None = None
    ratings: Literal["mean", "each"] | None = None
    join: str | None = None
    language: str | None = None
    split: str | None = None
    revision: str | None = None
    on_missing: Literal["raise", "drop"] = "raise"
    filter: dict[str, Any] | None = None  # rows to keep, by column: a value, a list of values, or `{min: ..., max: ...}`
    limit: int | None = None  # number of clips to draw, keeping the score distribution

    def __post_init__(self) -> None:
        given = [name for name in ("corpus", "table", "hub") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"Expected one of `corpus`, `table` and `hub` in a source of rows, got {', '.join(given) or 'none'}.")

    @property
    def name(self) -> str:
        """Name of the source for `load_corpus`."""
        return f"hub:{self.hub}" if self.hub is not None else str(self.corpus or self.table)


@dataclass(frozen=True)
class Model:
    """The model to train: a checkpoint, or a new model of a family."""

    checkpoint: str | None = None  # the checkpoint to start from: `default`, a folder or a Hub id
    family: str | None = None  # family of a new model, or the family that the checkpoint is expected to have
    size: str | None = None  # size of a new `distilled_sqa`, see [`DistilledSQAConfig.student`]
    # pre-trained speech encoder to build a new model on: a folder, a Hub id, or `default`, the features of Distill-MOS v7
    encoder: str | None = None
    # folder or Hub id of a MOSANet. A new MTQNet starts from its trunk, and takes its encoder unless `encoder` is given: the
    # knowledge transfer of the paper
    knowledge_from: str | None = None
    encoder_options: dict[str, Any] | None = None  # changes to the encoder's configuration
    config: dict[str, Any] = field(default_factory=dict)  # options of the family's configuration
    scores: list[str] | None = None  # scores to predict; those of the checkpoint, or of the family, if not given
    # names or patterns of modules to keep frozen: `encoder`, `encoder.feature_extractor*`
    freeze: list[str] = field(default_factory=list)
    lora: Lora | None = None  # `r`, `alpha` and `dropout` of a low-rank adapter

    def __post_init__(self) -> None:
        if self.size is not None:
            import hf_sqa.models  # noqa: F401  # registers the families
            from hf_sqa.auto import families

            sizes = families()[self.family][0].sizes if self.family in families() else {}
            if self.checkpoint is not None or not sizes:
                raise ValueError("Expected `size` with `family: distilled_sqa` and no `checkpoint`: it is for a new model.")
            check_choice("model.size", self.size, sizes)
        if self.checkpoint is None and self.family is None:
            raise ValueError("Expected `model.checkpoint` (default, a folder, a Hub id) or `model.family`, got neither.")
        if self.checkpoint is not None and self.encoder is not None:
            raise ValueError("Expected `model.checkpoint` or `model.encoder`, got both: a checkpoint brings its encoder.")
        if self.checkpoint is not None and self.knowledge_from is not None:
            raise ValueError("Expected `model.checkpoint` or `model.knowledge_from`, got both: a checkpoint has its own knowledge.")


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter on queries and values; the heads are trained as a whole."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0


@dataclass(frozen=True)
class Split:
    """The part of the training rows to validate on; see `hf_sqa.data.splits.stratified_split`."""

    share: float = 0.2
    group: str | list[str] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Rows to train and validate on."""

    train: list[Source] = field(default_factory=list)  # sources of the training rows
    # sources of the validation rows. Without this, `split` and `training_set`, the corpora's own split is used: rows marked
    # `validation` validate, and rows marked `test` are left out
    validation: list[Source] | None = None
    split: Split | None = None  # take the validation rows out of the training rows
    training_set: str | None = None  # one of the ten sets of the wav2vec 2.0 study, drawn from the training rows
    pseudo_labels: str | None = None  # table of `hf-sqa pseudo-label`: the teacher's scores replace labels of the same names
    filter: dict[str, Any] | None = None  # filter for all sources, written as for one
    limit: int | None = None  # number of training clips to draw, keeping the score distribution
    seed: int = 0  # seed of the draws

    def __post_init__(self) -> None:
        given = [name for name in ("validation", "split", "training_set") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"Expected one of `data.validation`, `data.split` and `data.training_set`, got {', '.join(given)}.")


@dataclass(frozen=True)
class AugmentationOptions:
    """Degradations drawn for every training clip. The label stays, so only use changes that would not change a rating."""

    preset: str | None = None  # a preset of `hf_sqa.degradations`, or a YAML file with a chain
    steps: list[Any] | None = None  # the steps of a chain
    probability: float = 1.0  # share of the clips that are degraded
    # `noises`, `talkers`: folders of recordings that the chain draws from
    noises: str | None = None
    talkers: str | None = None

    def __post_init__(self) -> None:
        if (self.preset is None) == (self.steps is None):
            raise ValueError("Expected `augmentation.preset` or `augmentation.steps`, and not both.")


@dataclass(frozen=True)
class LossOptions:
    """What training minimises; `None` keeps the value of the model's configuration."""

    # `mse`, `l1`, `huber`, `clipped` (squared error, zero within `margin`), `gaussian` (negative log-likelihood) or
    # `bias_aware` (squared error after a line per corpus)
    kind: Literal["mse", "l1", "huber", "clipped", "gaussian", "bias_aware"] | None = None
    # `huber_delta`, `margin`: options of `huber` and of `clipped`
    huber_delta: float | None = None
    margin: float | None = None
    # `ranking_weight`, `ranking_margin`: weight and margin of a pairwise term on differences of scores
    ranking_weight: float | None = None
    ranking_margin: float | None = None
    variance: Literal["learned", "ratings"] = "learned"  # for `gaussian`: `learned` by the model, or taken from the `ratings`
    residual_std: float = 0.3  # for `gaussian` with `ratings`: the model's own error, besides the listeners' spread
    # `anchor_corpus`, `min_correlation`: options of `bias_aware`, see `hf_sqa.models.nisqa.bias_aware_loss`
    anchor_corpus: str | None = None
    min_correlation: float = 0.7


@dataclass(frozen=True)
class OrderOptions:
    """Versions of recordings with a known order but unknown scores; see `hf_sqa.training.order`."""

    table: str  # CSV file with columns `filepath` (relative to its folder), `group`, `rank` (higher is better) and, if known, `mos`
    weight: float = 0.1  # weight of the term that is added to the loss
    margin: float = 0.2  # desired lead of the better version, in label units

    def __post_init__(self) -> None:
        if not (0 < self.weight < float("inf") and 0 <= self.margin < float("inf")):
            raise ValueError(f"Expected `weight` above 0 and `margin` of 0 or more, got {self.weight} and {self.margin}.")


class Saved:
    """A recipe that can be written to a file."""

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as it is written to a file, without the values left at their defaults."""
        content: dict[str, Any] = written(self)
        return content

    def save(self, path: str | Path) -> None:
        """Write the recipe as YAML."""
        Path(path).write_text(dump_yaml(self.to_dict()) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Recipe(Saved):
    """A training run, made by [`load_recipe`]; each section is described by its class."""

    model: Model
    data: Data = field(default_factory=Data)
    augmentation: AugmentationOptions | None = None
    loss: LossOptions = field(default_factory=LossOptions)
    order: OrderOptions | None = None
    training: dict[str, Any] = field(default_factory=dict)
    evaluation: list[Source] = field(default_factory=list)
    output_dir: str = "trained"
    paper: str | None = None
    cites: dict[str, str] = field(default_factory=dict)

    def definition(self) -> dict[str, Any]:
        """Return what determines the weights: the recipe without its folder, evaluation and descriptive keys."""
        about = ("output_dir", "paper", "cites", "evaluation")
        return {name: value for name, value in self.to_dict().items() if name not in about}


def load_recipe(recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check every key.

    Args:
        recipe (path, `dict` or [`Recipe`]): A YAML file, its content, or the name of a recipe of the package, such as `"w2v-ger"`.
        overrides (sequence of `str`): Changes to the recipe, see [`~hf_sqa.options.apply_overrides`]:
            `training.learning_rate=1e-4`, `data.train.0.root=/data/NISQA`, `model.lora.r=4`; `+=` adds to a list.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If a key is unknown; the message suggests the nearest one.
        ValueError: If the file is not YAML, or a value cannot be used.
    """
    if isinstance(recipe, Recipe) and not overrides:
        return recipe
    content, source = read_content(recipe, overrides)
    if "student" in content and "model" not in content:
        raise ValueError(f"Expected a recipe of a training, but {source} is one of a distillation; run it with `hf-sqa distill`.")
    check_training(content, source)
    checked = read_options(Recipe, content, source)
    everything = dataclasses.asdict(checked)
    for key in checked.cites:
        if not _has(everything, key):
            raise ValueError(f"Expected `cites` of {source} to name keys that it sets, got {key!r}.")
    return checked


def read_content(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], str]:
    """Return the content of any recipe, overrides applied, keys unchecked, and its name in errors; see [`load_recipe`]."""
    if isinstance(recipe, Recipe):
        recipe = recipe.to_dict()
    if isinstance(recipe, Mapping):
        return apply_overrides(recipe, overrides), "the recipe"
    return apply_overrides(load_yaml(find_file(recipe, "recipes"), "recipe"), overrides), f"the recipe {str(recipe)!r}"


def check_training(content: Mapping[str, Any], source: str) -> None:
    """Check the keys of the section `training`, and correct in place the values that YAML misreads."""
    from hf_sqa.training.arguments import AudioQualityTrainingArguments

    options = content.get("training")
    if not isinstance(options, dict):  # `read_options` refuses it and names the key
        return
    if "output_dir" in options:
        raise ValueError(f"Expected `output_dir` at the top of {source}, got it in `training`.")
    known = [field.name for field in dataclasses.fields(AudioQualityTrainingArguments) if field.init]
    for name in options:
        if name not in known:
            raise TypeError(
                f"Unknown key {name!r} in `training` of {source}{did_you_mean(name, known)} It takes the options of transformers' "
                "TrainingArguments and of AudioQualityTrainingArguments."
            )
        if name.endswith("_strategy") and options[name] is False:
            options[name] = "no"  # YAML reads `no` as false


def _has(content: Any, key: str) -> bool:
    try:
        for name in key.split("."):
            content = content[int(name) if isinstance(content, list) else name]
    except (KeyError, IndexError, ValueError, TypeError):
        return False
    return True
