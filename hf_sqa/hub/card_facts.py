"""The facts of a model card, given by the caller or read from the files beside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from hf_sqa.auto import families
from hf_sqa.checkpoint_files import RECIPE_FILE, RESULT_FILES
from hf_sqa.checkpoints import load_checkpoint, read_json, resolve_checkpoint
from hf_sqa.options import load_yaml, read_options
from hf_sqa.short_names import DEFAULT_MODEL

COST_FILES = ("training_result.json", "report.json")
METRIC_TITLES = {
    "lcc": ("pearsonr", "Pearson correlation"),
    "srcc": ("spearmanr", "Spearman correlation"),
    "ktau": ("kendalltau", "Kendall's tau-b"),
    "mse": ("mse", "mean squared error"),
    "rmse": ("rmse", "root mean square error"),
    "mae": ("mae", "mean absolute error"),
    "rmse_mapped": ("rmse", "root mean square error after mapping (ITU-T P.1401)"),
    "rmse_star": ("rmse", "RMSE* (ITU-T P.1401)"),
}
LEVELS = {"utt": "recordings", "sys": "systems", "con": "conditions"}


@dataclass(frozen=True)
class Evaluation:
    """One number in the evaluation section of a card."""

    dataset: str  # Name of the test set
    metric: str  # Key of `hf_sqa.metrics`, level included: `"utt_srcc"`
    value: float  # The metric; NaN if undefined
    low: float | None = None  # Lower end of its 95 % interval
    high: float | None = None  # Upper end
    num_clips: int | None = None  # Number of recordings that were rated and scored
    score: str = "mos"  # Name of the model's score
    split: str | None = None  # Split of the test set
    dataset_id: str | None = None  # Id of the test set on the Hub
    before: float | None = None  # The same metric for the model that this one was made from
    overlaps_training: bool = False  # Whether the test set shares recordings or talkers with the training data

    @classmethod
    def of(cls, given: Evaluation | Mapping[str, Any]) -> Evaluation:
        """Return the given result, or make one from a mapping with its field names; the metric must exist."""
        if not isinstance(given, Evaluation):
            given = read_options(cls, given, "an evaluation result")
        level, _, name = given.metric.partition("_")
        if level not in LEVELS or name not in METRIC_TITLES:
            raise ValueError(
                f"Expected `metric` to be a level ({', '.join(LEVELS)}) and a name ({', '.join(METRIC_TITLES)}) as in 'utt_srcc', "
                f"got {given.metric!r}."
            )
        return given

    @property
    def metric_type(self) -> str:
        """Name of the metric on the Hub."""
        return METRIC_TITLES[self.metric.partition("_")[2]][0]

    @property
    def title(self) -> str:
        """The metric in words."""
        level, _, name = self.metric.partition("_")
        return f"{METRIC_TITLES[name][1]}, {LEVELS[level]}"

    @property
    def interval(self) -> str:
        """The 95 % interval in words."""
        if self.low is None or self.high is None:
            return "not computed"
        return f"{self.low:.3f} to {self.high:.3f}"


@dataclass(frozen=True)
class CardFacts:
    """The facts that a card states beyond the configuration of the checkpoint. All are optional."""

    # Agreement with listeners; if not given, the list `evaluation` of `evaluation.json` or `report.json` in the folder
    results: Sequence[Evaluation | Mapping[str, Any]] | None = None
    # The training recipe, or its file; `recipe.yaml` in the folder if not given. Paths in it are shortened to their last part
    recipe: Mapping[str, Any] | str | Path | None = None
    # Licence of the weights, as the Hub spells it: `"mit"`, `"cc-by-nc-sa-4.0"`, `"other"`. If it is missing, the card says so, and
    # a push refuses the card
    license: str | None = None
    license_name: str | None = None  # Name of the licence if `license` is `"other"`
    license_link: str | None = None  # Address or file with the licence text
    languages: Sequence[str] | None = None  # Codes of the training languages
    training_data: str | None = None  # Markdown; a list made from the recipe if not given
    base_model: str | None = None  # Hub id or short name of the model it was fine-tuned from
    # `seconds`, `device`, `energy_kwh` of the training and `scoring_seconds` on one core per second of audio, as far as known; read
    # from `training_result.json` or `report.json` in the folder if not given
    training_cost: Mapping[str, Any] | None = None
    repo_id: str | None = None  # Repository to publish to; names the model in the code example
    title: str | None = None  # Heading; the checkpoint's name if not given
    summary: str | None = None  # First paragraph; a description of the family if not given
    sample_scores: Mapping[str, float] | None = None  # Scores of the built-in sample, which a push puts beside the weights
    identity: Mapping[str, Any] | None = None  # From `hf_sqa.pipelines.model_identity`; if not given, the model is loaded for it
    use: str | None = None  # Markdown that replaces the code example
    with_code: bool = False  # Whether the code is stored beside the weights
    code_licence: str | None = None  # Licence of the code; that of `hf_sqa`, Apache-2.0, if not given
    licence_note: str | None = None  # A remark on the licence of the weights
    evaluation_note: str | None = None  # Text of the evaluation section if there are no results
    known_failures: Sequence[str] = ()  # Cases in which the scores were found to be wrong, for the section on limits
    citation: str | None = None  # Work to cite; the paper of the family if not given
    score_meanings: Mapping[str, str] | None = None  # Meanings of scores that differ from the usual ones

    def read_from(self, folder: Path, adapter: Mapping[str, Any] | None, metadata: Mapping[str, Any]) -> CardFacts:
        """Return the facts, with missing ones read from the folder, its adapter's configuration and an earlier card's metadata."""
        recipe = read_recipe(folder, self.recipe)
        found = _first_with("evaluation", folder, RESULT_FILES).get("evaluation", [])
        cost = _first_with("seconds", folder, COST_FILES)
        base = self.base_model or (adapter or {}).get("base_model_name_or_path") or _base_of(recipe)
        return replace(
            self,
            results=[Evaluation.of(result) for result in (found if self.results is None else self.results)],
            recipe=recipe,
            license=self.license or metadata.get("license"),
            license_name=self.license_name or metadata.get("license_name"),
            license_link=self.license_link or metadata.get("license_link"),
            languages=list(self.languages or metadata.get("language") or _languages(recipe)),
            base_model=base or metadata.get(BASE_KEY) or metadata.get("base_model"),
            training_cost=self.training_cost or {key: cost[key] for key in ("seconds", "device", "energy_kwh") if key in cost},
            identity=_identity(folder) if self.identity is None else self.identity,
        )


#: Metadata key for a base that is not a repository on the Hub, such as a short name.
BASE_KEY = "hf_sqa_base_model"


def read_configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read the configuration of a checkpoint (for an adapter, that of its base if known), and of the adapter if it is one."""
    adapter_file, config_file = folder / "adapter_config.json", folder / "config.json"
    if not adapter_file.is_file() and not config_file.is_file():
        raise FileNotFoundError(
            f"Expected a checkpoint in {str(folder)!r}: a folder with config.json or adapter_config.json, as "
            "`save_pretrained` writes."
        )
    adapter = read_json(adapter_file) if adapter_file.is_file() else None
    config = read_json(config_file) if config_file.is_file() else {}
    if not config and adapter:
        config = _config_of_base(adapter.get("base_model_name_or_path"))
    if config and config.get("model_type") not in families():
        raise ValueError(
            f"Expected a checkpoint of one of the families {', '.join(families())}, got model_type="
            f"{config.get('model_type')!r} in {str(config_file)!r}. A newer hf_sqa may know it: `pip install --upgrade hf-sqa`."
        )
    return config, adapter


def read_recipe(folder: Path, recipe: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """Return the recipe as data: the given one, the one in the folder, or an empty one."""
    if isinstance(recipe, Mapping):
        return dict(recipe)
    path = Path(recipe) if recipe else folder / RECIPE_FILE
    if recipe is None and not path.is_file():
        return {}
    return load_yaml(path, "recipe")


def public_name(name: Any) -> Any:
    """Return a Hub id or short name unchanged, and only the last part of a path."""
    if not isinstance(name, str):
        return name
    looks_local = name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or Path(name).exists()
    return Path(name).name if looks_local else name


def is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and public_name(name) == name


def training_sets(recipe: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return name and entry of every training set of a recipe."""
    data = recipe.get("data")
    entries = data.get("train") if isinstance(data, Mapping) else None
    sets = []
    for entry in entries if isinstance(entries, list) else [entries] if entries else []:
        entry = entry if isinstance(entry, Mapping) else {"table": entry}
        name = entry.get("corpus") or entry.get("hub") or Path(str(entry.get("table", "?"))).name
        sets.append((str(name), dict(entry)))
    return sets


def hub_sets(recipe: Any) -> list[str]:
    """Return the ids of the training sets that came from the Hub."""
    return [name for name, entry in training_sets(recipe) if entry.get("hub") and is_hub_id(name)]


def as_list(value: Any) -> list[str]:
    """Return a list unchanged, or a text split at spaces."""
    return [] if value is None else value.split() if isinstance(value, str) else list(value)


def _config_of_base(base: str | None) -> dict[str, Any]:
    """Return the configuration of an adapter's base, if it can be read without the network."""
    try:
        return AutoConfig.from_pretrained(resolve_checkpoint(base)).to_dict() if base else {}
    except (OSError, ValueError):
        return {}


def _first_with(key: str, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Return the content of the first of the named files that has a key; empty if none has it."""
    contents = (read_json(folder / name) for name in names if (folder / name).is_file())
    return next((content for content in contents if key in content), {})


def _identity(folder: Path) -> dict[str, Any]:
    try:
        loaded = load_checkpoint(folder)
        return loaded.identity(mode=loaded.model.modes[0], hop_seconds=None)
    except OSError as error:
        if (folder / "adapter_config.json").is_file():
            return {"reason": f"its base cannot be loaded ({' '.join(str(error).split())[:120]})"}
        raise


def _base_of(recipe: Mapping[str, Any]) -> str | None:
    model = recipe.get("model")
    if isinstance(model, Mapping):
        base = model.get("checkpoint") or model.get("encoder")
        return DEFAULT_MODEL if base == "default" else base
    return None


def _languages(recipe: Mapping[str, Any]) -> list[str]:
    from hf_sqa.data.corpora import CORPORA

    languages: list[str] = []
    for name, entry in training_sets(recipe):
        corpus = CORPORA.get(name.split("/")[0]) if entry.get("corpus") else None
        languages += as_list(corpus.language if corpus else entry.get("language"))
    return list(dict.fromkeys(languages))
