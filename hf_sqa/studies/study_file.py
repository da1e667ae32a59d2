"""The study file: its keys, and all checks that need no data."""

import itertools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from hf_sqa.choices import did_you_mean
from hf_sqa.evaluation.suite import SuiteOptions
from hf_sqa.options import apply_overrides, dump_yaml, load_yaml, read_options, refuse_unknown, with_values, written
from hf_sqa.shipped import find_file
from hf_sqa.training.recipe import Recipe, Source, load_recipe

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
PARTS = ("train", "validation", "test")
#: Makers that train by a recipe of `hf_sqa.training`.
RECIPE_MAKERS = ("train", "pseudo_labels", "knowledge_transfer")
#: Possible axes for the rows, columns and sections of a table.
TABLE_AXES = ("model", "test_set", "score", "metric")


@dataclass(frozen=True)
class ModelSpec:
    """A model of the study, one column of the grid."""

    name: str  # Letters, digits, `.`, `_`, `+` and `-`. In the file it may hold `{variable}`, see `for`
    checkpoint: str | None = None  # An existing model, `default` or a folder or a Hub id; it is not trained and has no seed
    # How to make it if it is no checkpoint: `train` (a recipe of `hf_sqa.training`), `distill`, `prune`, `pseudo_labels`,
    # `knowledge_transfer`, or a name given to [`run_study`]
    maker: str = "train"
    train: str | None = None  # Set to train on; the recipe's own data if not given
    validation: str | float | None = None  # Set to validate on, or a share of `train` to hold out, with similar scores
    validation_group: str | None = None  # Column whose groups stay whole when a share is held out
    # One of the ten sets of the wav2vec 2.0 study, with its validation clips, drawn anew for each seed from the clips of `train`,
    # which must be the corpora of that study
    training_set: str | None = None
    # Train on this many clips of `train`, drawn anew for each seed; smaller draws are part of larger ones. A held-out share is
    # taken from these
    clips: int | None = None
    recipe: Any = None  # Its recipe, instead of the study's
    set: Mapping[str, Any] = field(default_factory=dict)  # Changes to the recipe by dotted key: `{"training.learning_rate": 0.001}`
    options: Mapping[str, Any] = field(default_factory=dict)  # Options of the maker; `train` has none
    needs: Sequence[str] = ()  # Models whose checkpoints it is made from; they are made first
    # Sets that it was trained on besides `train`, to mark overlap; for a `checkpoint`, or a maker that brings its own data
    trained_on: Sequence[str] | None = None
    series: str | None = None  # Group in the figures
    seeds: Sequence[int] | None = None  # Its seeds, instead of the study's
    test_sets: Sequence[str] | None = None  # Its test sets, instead of the study's; empty for a model that only other models need
    variables: Mapping[str, Any] = field(default_factory=dict)  # Its values of `for`; columns `variable_<name>` of the results

    def __post_init__(self) -> None:
        if self.checkpoint is not None and (self.train or self.set or self.options or self.clips):
            raise ValueError("Expected either a checkpoint or something to train with, got both.")
        if isinstance(self.validation, float) and not 0 < self.validation < 1:
            raise ValueError(f"Expected a set, or a share between 0 and 1, as `validation`, got {self.validation}.")
        if self.training_set is not None:
            from hf_sqa.data.splits import TRAINING_SETS

            if self.training_set not in TRAINING_SETS:
                raise ValueError(f"Expected `training_set` to be one of {', '.join(TRAINING_SETS)}, got {self.training_set!r}.")
            if self.train is None or self.validation is not None or self.clips is not None:
                raise ValueError("Expected `training_set` with a set `train`, and without `validation` and `clips`.")
        if self.clips is not None and (self.clips < 1 or self.train is None):
            raise ValueError(f"Expected `clips` to be 1 or more, and a set `train`; got {self.clips!r}.")


@dataclass(frozen=True)
class SetSpec:
    """A set of clips."""

    corpus: str | Sequence[str]  # Name of a corpus, or of several whose clips are pooled
    where: Mapping[str, Any] = field(default_factory=dict)  # By column, the value or list of values that a clip must have
    rated: str | None = None  # Keep only clips with this label

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the set's corpora."""
        return (self.corpus,) if isinstance(self.corpus, str) else tuple(self.corpus)


@dataclass(frozen=True)
class PartsSpec:
    """How to divide a corpus into parts with similar scores. Its clips get a column `part`."""

    shares: Mapping[str, float]  # Shares of `train`, `validation` and `test`, two or all three; they add up to 1
    group: str = "source_id"  # Column whose groups stay whole
    within: str = "corpus"  # Column; each of its values is divided by the shares separately

    def __post_init__(self) -> None:
        total = sum(self.shares.values())
        if set(self.shares) - set(PARTS) or len(self.shares) < 2 or not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"Expected shares of two or three of {', '.join(PARTS)} that add up to 1, got {dict(self.shares)}.")


@dataclass(frozen=True)
class TableSpec:
    """A table in the layout of a paper; see [`hf_sqa.studies.tables.paper_table`].

    `rows`, `columns` and `sections` each take one of the four axes `model`, `test_set`, `score` and `metric`, with its values in
    order: a list, or a mapping to their names, `{model: {MPL: [MTQ-Net, MPL]}}`; several words fill several cells. A name may
    contain the value of another axis: `MOS-SSL-{score}`. `only` sets the value of an unused axis, which is otherwise its first.
    """

    file: str  # Name of the files, without suffix
    rows: Mapping[str, Any]
    columns: Mapping[str, Any]
    title: str = ""  # Title above the table
    heads: Sequence[str] = ("",)  # Column heads above the words of each row
    sections: Mapping[str, Any] | None = None  # Parts of the table, one below the other
    only: Mapping[str, str] = field(default_factory=dict)  # Values of the unused axes

    def __post_init__(self) -> None:
        given = [axis for part in (self.rows, self.columns, self.sections or {}, self.only) for axis in part]
        wrong = [axis for axis in given if axis not in TABLE_AXES or given.count(axis) > 1]
        if wrong or any(len(part) != 1 for part in (self.rows, self.columns, self.sections or {"": ""})):
            raise ValueError(
                f"Expected rows, columns and sections of one axis each, out of {', '.join(TABLE_AXES)}, and no axis twice, got "
                f"{', '.join(given) or 'none'}."
            )


@dataclass(frozen=True)
class GpuCost:
    """Estimated cost of a study on a GPU."""

    epochs: float  # Passes over the training clips until training stops
    train_seconds: float  # GPU seconds per clip and training pass
    test_seconds: float  # GPU seconds to score a clip
    source: str  # Source of the numbers


@dataclass(frozen=True)
class Study:
    """A study as read from its file; see `train_scripts/studies/` for examples."""

    name: str  # Name of the study
    models: tuple[ModelSpec, ...]  # Columns of the grid
    test_sets: tuple[str, ...]  # Names of `sets`
    about: str = ""  # The question, in words
    cites: Mapping[str, Any] = field(default_factory=dict)  # The sentence that each number comes from
    # Rated speech by name, as in a recipe: `{table: mine.csv}`, `{corpus: nisqa/TEST_FOR, root: ...}` or `{hub: <repo>}`. Paths are
    # relative to the current folder
    corpora: Mapping[str, Source] = field(default_factory=dict)
    parts: Mapping[str, PartsSpec] = field(default_factory=dict)  # How to divide a corpus, by corpus
    sets: Mapping[str, SetSpec] = field(default_factory=dict)  # Sets to train or test on, by name
    recipe: Any = None  # A recipe of `hf_sqa.training`, or its path, that the models share
    seeds: tuple[int, ...] = (0,)  # Every trained model is made once per seed
    evaluation: SuiteOptions = field(default_factory=SuiteOptions)  # How the models are evaluated
    figures: tuple[Mapping[str, Any], ...] = ()  # `{kind: ..., file: ...}` and options of [`hf_sqa.studies.figures.draw`]
    tables: tuple[TableSpec, ...] = ()  # Tables in the layout of a paper, written as Markdown, LaTeX and CSV
    # Whether features of frozen encoders are computed once and kept, in `features/` of the output folder or in the folder that
    # `HF_SQA_FEATURE_CACHE` names
    keep_features: bool = False
    gpu_cost: GpuCost | None = None  # Cost on a GPU, for the estimate of `--dry-run`

    def model(self, name: str) -> ModelSpec:
        """Return a model by name."""
        return next(model for model in self.models if model.name == name)

    def test_sets_of(self, model: ModelSpec) -> tuple[str, ...]:
        return self.test_sets if model.test_sets is None else tuple(model.test_sets)

    def seeds_of(self, model: ModelSpec) -> tuple[int | None, ...]:
        if model.checkpoint is not None:
            return (None,)
        return self.seeds if model.seeds is None else tuple(model.seeds)

    def seed_of(self, name: str, seed: int | None) -> int | None:
        """Return the seed of a needed model: the same seed if it is made with that, else its first."""
        seeds = self.seeds_of(self.model(name))
        return seed if seed in seeds else seeds[0]

    def recipe_of(self, model: ModelSpec) -> Any:
        """Return the recipe of a model as given, its own or the study's, without the changes in `set`."""
        return self.recipe if model.recipe is None else model.recipe

    def training_recipe(self, model: ModelSpec) -> Recipe | None:
        """Return the recipe that trains a model, changes included; `None` if it is made in another way or has no recipe."""
        recipe = self.recipe_of(model)
        if model.checkpoint is not None or model.maker not in RECIPE_MAKERS or recipe is None:
            return None
        return load_recipe(with_values(load_recipe(recipe).to_dict(), model.set))


def load_study(
    source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = (), variant: str | None = None
) -> Study:
    """Read a study and check everything that can be checked without its data.

    A file may have `variants`, each with sections that replace the file's own, and `options` whose values replace `{option}`
    anywhere in it.

    Args:
        source (path or `dict`): The file, its content, or the name of a study of the package, such as `"mtq_losses"`.
        overrides (sequence of `str`, *optional*): `dotted.key=value` with a value as in YAML: `"seeds=[0]"`,
            `"corpora.bench.table=bench.csv"`, `"encoder=folder"` for the option `encoder` of the study.
        variant (`str`, *optional*): One of the study's variants; its first if not given.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If a key is unknown; the message suggests the nearest.
        ValueError: If a value is of another type, or a name is not defined.
    """
    file = source if isinstance(source, Mapping) else load_yaml(find_file(source, "studies"), "study")
    content = _chosen(file, variant)
    known = content.get("options") or {}
    content = apply_overrides(
        content, [f"options.{change}" if change.partition("=")[0] in known else change for change in overrides]
    )
    options = content.pop("options", None) or {}
    content = {name: _filled(value, options) for name, value in content.items()}
    if isinstance(content.get("seeds"), int):
        content["seeds"] = [content["seeds"]]
    models = content.get("models")
    if isinstance(models, Mapping):
        content["models"] = [model for name, entry in models.items() for model in _models(str(name), dict(entry or {}))]
    study = read_options(Study, content, "the study" if isinstance(source, Mapping) else f"the study {str(source)!r}")
    _check(study)
    return study


def _chosen(file: Mapping[str, Any], variant: str | None) -> dict[str, Any]:
    """Return the file's content with the sections of a variant. The variant is part of the study's name unless it is the first."""
    content = dict(file)
    variants = content.pop("variants", None) or {}
    if variant is not None and variant not in variants:
        there = ", ".join(variants) or "none"
        raise ValueError(
            f"Expected the variant to be one of the study's ({there}), got {variant!r}{did_you_mean(variant, variants)}"
        )
    if variants:
        first, chosen = next(iter(variants)), variant or next(iter(variants))
        if chosen != first:
            content["name"] = f"{content.get('name')}-{chosen}"
        content |= variants[chosen] or {}
    return content


def _models(name: str, entry: dict[str, Any]) -> list[ModelSpec]:
    """Return one model, or one for every combination of the values in `for` (or for each of a list of combinations)."""
    combinations = entry.pop("for", None) or [{}]
    if isinstance(combinations, dict):
        values = [value if isinstance(value, list) else [value] for value in combinations.values()]
        combinations = [dict(zip(combinations, chosen, strict=True)) for chosen in itertools.product(*values)]
    place = f"the model {name!r}"
    refuse_unknown(
        entry, ["for", *(option.name for option in fields(ModelSpec) if option.name not in ("name", "variables"))], place
    )
    return [
        read_options(ModelSpec, {**_filled(entry, chosen), "name": str(_filled(name, chosen)), "variables": chosen}, place)
        for chosen in combinations
    ]


def _filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """Replace every `{variable}`. A text that is only a variable becomes the value itself, so that a number stays a number."""
    if isinstance(value, dict):
        return {_filled(key, variables): _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    if isinstance(value, str):
        for name, chosen in variables.items():
            if value == f"{{{name}}}":
                return chosen
            value = value.replace(f"{{{name}}}", str(chosen))
    return value


def _check(study: Study) -> None:
    names = [model.name for model in study.models]
    if not names or not study.test_sets:
        raise ValueError("Expected `models` and `test_sets` in the study, got none.")
    for name in (study.name, *names, *study.sets, *study.test_sets):
        if not NAME.fullmatch(name):
            raise ValueError(f"Expected names of letters, digits and . _ + -, for they become folders, got {name!r}.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"Expected a name of its own for every model, got {twice[0]!r} twice; put {{variable}} into the name.")
    uses: list[tuple[str, Iterable[str], Any]] = [("corpus of parts", study.parts, study.corpora)]
    uses += [(f"corpus of the set {name!r}", clips.corpora, study.corpora) for name, clips in study.sets.items()]
    for model in study.models:
        named = [name for name in (model.train, model.validation) if isinstance(name, str)]
        uses += [
            (f"test set of {model.name!r}", study.test_sets_of(model), study.sets),
            (f"set of the model {model.name!r}", named, study.sets),
            (f"need of the model {model.name!r}", model.needs, names),
            (f"trained_on of the model {model.name!r}", model.trained_on or (), study.sets),
        ]
    defined = {"model": names, "test_set": study.sets}
    for table in study.tables:
        for part in (table.rows, table.columns, table.sections or {}):
            for axis in defined.keys() & part:
                plain = [name for name in part[axis] if "{" not in name]
                uses.append((f"{axis.replace('_', ' ')} of the table {table.file!r}", plain, defined[axis]))
    for what, used, known in uses:
        for name in used:
            if name not in known:
                hint = did_you_mean(name, known)
                there = f" There are {', '.join(known) or 'none'}." if hint == "." else ""
                raise ValueError(f"Expected the {what} to be defined, got {name!r}{hint}{there}")
    models_in_order(study)


def models_in_order(study: Study) -> list[ModelSpec]:
    """Return the models, each after those it needs."""
    ordered: dict[str, ModelSpec] = {}

    def visit(model: ModelSpec, path: tuple[str, ...]) -> None:
        if model.name in path:
            raise ValueError(f"Expected needs without a circle, got {' -> '.join((*path, model.name))}.")
        for needed in model.needs:
            visit(study.model(needed), (*path, model.name))
        ordered[model.name] = model

    for model in study.models:
        visit(model, ())
    return list(ordered.values())


def study_as_yaml(study: Study) -> str:
    """Return a study as text that [`load_study`] reads, with its models written out."""
    models = {model.name: {**written(model)} for model in study.models}
    for entry in models.values():
        entry.pop("name")
        entry.pop("variables", None)
    return dump_yaml({**written(study), "models": models}) + "\n"
