"""Model cards: made from a checkpoint's configuration, recipe and results; what people wrote by hand is kept."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

import hf_sqa.models  # noqa: F401  # registers the families
from hf_sqa.auto import families
from hf_sqa.hub.model_table import provenance
from hf_sqa.runs import write_whole

TEMPLATE = Path(__file__).with_name("card_template.md")
CARD_FILE = "README.md"
RECIPE_FILE, RESULT_FILES = "recipe.yaml", ("evaluation.json", "report.json")
COST_FILES = ("training_result.json", "report.json")
TAGS = ("audio-quality", "speech-quality-assessment", "mean-opinion-score")
#: What every card says of its limits; a push looks for it.
RELATIVE_SENTENCE = "Scores compare systems rated in one test; they are not absolute."
PURPOSE = "Predicts how listeners would rate a recording of speech, without a reference."
OUT_OF_DOMAIN_WORDS = "Out of domain"
CODE_LICENCE = "Apache-2.0"
NOT_STATED = "**not stated**"
NOT_COMPARED = "This checkpoint was not compared with listeners: no agreement is known."
#: Sections of the template, by the name of their marker, with their heading.
SECTIONS = {
    "use": "Use",
    "training": "Training data and languages",
    "evaluation": "Evaluation",
    "limits": "Limits",
    "licences": "Licences",
    "cost": "Time and energy",
    "identity": "Identity",
    "citation": "Citation",
}
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
SCORE_MEANINGS = {
    "mos": "overall quality, higher is better",
    "noisiness": "higher is less noisy",
    "coloration": "higher is less coloured",
    "discontinuity": "higher is less interrupted",
    "loudness": "higher is a better level",
    "s_mos": "3QUEST, quality of the speech",
    "n_mos": "3QUEST, quality of the background",
    "g_mos": "3QUEST, overall quality",
    "pesq": "PESQ predicted without the reference, higher is better",
    "stoi": "STOI predicted without the reference, higher is better",
    "sdi": "speech distortion index predicted without the reference, lower is better",
}
WRITTEN_BY_MACHINES = ("Model Card for Model ID", "generated automatically according to the information the Trainer had access to")
BEGIN, END = "<!-- hf-sqa:{} -->", "<!-- /hf-sqa:{} -->"


@dataclass(frozen=True)
class Evaluation:
    """One number of a card's evaluation.

    Args:
        dataset (`str`): What the test set is called.
        metric (`str`): Key of `hf_sqa.metrics`, level included: `"utt_srcc"`.
        value (`float`): The metric; NaN if undefined.
        low (`float`, *optional*): Lower end of its 95 % interval.
        high (`float`, *optional*): Upper end.
        num_clips (`int`, *optional*): Rated and scored recordings behind it.
        score (`str`, *optional*, defaults to `"mos"`): Which of the model's scores.
        split (`str`, *optional*): Split of the test set.
        dataset_id (`str`, *optional*): The test set on the Hub.
        before (`float`, *optional*): The same metric of the model that this one was made from.
        overlaps_training (`bool`, *optional*, defaults to `False`): The test set shares recordings or talkers with the training.
    """

    dataset: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    num_clips: int | None = None
    score: str = "mos"
    split: str | None = None
    dataset_id: str | None = None
    before: float | None = None
    overlaps_training: bool = False

    @classmethod
    def of(cls, given: Evaluation | Mapping[str, Any]) -> Evaluation:
        """The result itself, or one from a mapping with its names.

        Raises:
            ValueError: If a name is unknown or missing, or the metric does not exist.
        """
        if not isinstance(given, Evaluation):
            known = {field.name for field in fields(cls)}
            if unknown := sorted(set(given) - known):
                raise ValueError(f"Expected an evaluation result with the keys {', '.join(sorted(known))}, got also {unknown}.")
            if lacking := sorted({"dataset", "metric", "value"} - set(given)):
                raise ValueError(
                    f"Expected an evaluation result with dataset, metric and value; it lacks {lacking}: {dict(given)}."
                )
            given = cls(**given)
        level, _, name = given.metric.partition("_")
        if level not in LEVELS or name not in METRIC_TITLES:
            raise ValueError(
                f"Expected `metric` to be a level ({', '.join(LEVELS)}) and a name ({', '.join(METRIC_TITLES)}) as in 'utt_srcc', "
                f"got {given.metric!r}."
            )
        return given

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


def make_card(
    folder: str | Path,
    *,
    results: Iterable[Evaluation | Mapping[str, Any]] | None = None,
    recipe: Mapping[str, Any] | str | Path | None = None,
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    languages: Sequence[str] | None = None,
    training_data: str | None = None,
    base_model: str | None = None,
    training_cost: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
    title: str | None = None,
    summary: str | None = None,
    sample_scores: Mapping[str, float] | None = None,
    identity: Mapping[str, Any] | None = None,
    use: str | None = None,
    code_licence: str | None = None,
    licence_note: str | None = None,
    evaluation_note: str | None = None,
    citation: str | None = None,
    score_meanings: Mapping[str, str] | None = None,
) -> ModelCard:
    """Make the card of a checkpoint, or bring an existing one up to date.

    An existing `README.md` keeps what was written by hand: all text outside the marked parts (`<!-- hf-sqa:use -->`), parts whose
    markers were removed, and every key of its metadata that is not given here.

    Args:
        folder (`str` or `Path`): The checkpoint, or a LoRA adapter.
        results (sequence of [`Evaluation`] or `dict`, *optional*): Agreement with listeners. If not given, the list `evaluation` of
            `evaluation.json` or `report.json` in the folder.
        recipe (`dict`, `str` or `Path`, *optional*): What it was trained by; `recipe.yaml` in the folder if not given. Of
            paths only the last part goes into the card.
        license (`str`, *optional*): Licence of the weights, as the Hub spells it: `"mit"`, `"cc-by-nc-sa-4.0"`, `"other"`. Without
            one the card says so, and a push refuses it.
        license_name (`str`, *optional*): What the licence `"other"` is called.
        license_link (`str`, *optional*): Where it can be read.
        languages (sequence of `str`, *optional*): Codes of the languages trained on.
        training_data (`str`, *optional*): Markdown; what the recipe tells if not given.
        base_model (`str`, *optional*): Hub id or short name of what it was fine-tuned from.
        training_cost (`dict`, *optional*): `seconds`, `device`, `energy_kwh` of the training and `scoring_seconds` of one core for
            a second of audio, as far as known; `seconds` of `training_result.json` or `report.json` in the folder if not given.
        repo_id (`str`, *optional*): Where it will be; names the model in the block to paste.
        title (`str`, *optional*): Heading; the checkpoint's name if not given.
        summary (`str`, *optional*): First paragraph; what the family is if not given.
        sample_scores (`dict[str, float]`, *optional*): Scores of the built-in sample, which a push puts beside the weights.
        identity (`dict`, *optional*): Result of `hf_sqa.pipelines.model_identity`. If not given the model is loaded to find it.
        use (`str`, *optional*): Markdown, replaces the block to paste.
        code_licence (`str`, *optional*, defaults to `"Apache-2.0"`): Licence of the code.
        licence_note (`str`, *optional*): What else to say of the licence of the weights.
        evaluation_note (`str`, *optional*): What to say where there are no results.
        citation (`str`, *optional*): Whom to cite; the paper of the family if not given.
        score_meanings (`dict[str, str]`, *optional*): What a score means, where it is not the usual.

    Raises:
        FileNotFoundError: If the folder holds no checkpoint.
        ValueError: If it is not one of a family of `hf_sqa`, or a result is malformed.
    """
    folder = Path(folder)
    config, adapter = read_configs(folder)
    old = _existing(folder)
    old_data = old.data.to_dict() if old else {}
    evaluations = [Evaluation.of(result) for result in (_read_results(folder) if results is None else results)]
    recipe = read_recipe(folder, recipe)
    base_model = base_model or (adapter or {}).get("base_model_name_or_path") or _base_of(recipe) or _old_base(old)
    if identity is None:
        identity = _identity(folder)
    name = title or _title(config, folder, repo_id)
    described: dict[str, Any] = {
        "language": list(languages) if languages else old_data.get("language") or _languages(recipe) or None,
        "license": license or old_data.get("license"),
        "license_name": license_name or old_data.get("license_name"),
        "license_link": license_link or old_data.get("license_link"),
        "base_model": base_model if _is_hub_id(base_model) else None,
        "base_model_relation": "adapter" if adapter else old_data.get("base_model_relation"),
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": [*dict.fromkeys([*TAGS, *(["lora"] if adapter else []), *old_data.get("tags", [])])],
    }
    index = _model_index(evaluations, repo_id.rsplit("/", 1)[-1] if repo_id else name)
    for key, value in old_data.items():
        if key not in described and key != "model-index":
            described[key] = value
    data = ModelCardData(**{**described, **index}) if index else ModelCardData(**described, **_old_index(old_data))
    sections = {
        "summary": summary or _summary(config, adapter, base_model),
        "use": use or _use(folder, repo_id, sample_scores, adapter),
        "training": training_data or _training(recipe),
        "evaluation": _evaluation(evaluations) if evaluations else evaluation_note or NOT_COMPARED,
        "licences": _licences(described, base_model, code_licence, licence_note),
        "cost": _cost(folder, training_cost),
        "identity": _identity_text(identity, sample_scores),
        "citation": citation or _citation(config),
    }
    card = ModelCard.from_template(
        data, template_path=str(TEMPLATE), title=name, scales=_scales(config, score_meanings or {}), **sections
    )
    if old is None:
        return card
    cost = not sections["cost"].startswith("Time and energy of the training were not")
    kept = _not_given(summary=summary, training=training_data or recipe, evaluation=evaluations, cost=cost)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{_merged(old.text, card.text, kept)}")


def write_card(folder: str | Path, **options: Any) -> Path:
    """Write [`make_card`] into the folder, whole or not at all; returns the path of the card."""
    path = Path(folder) / CARD_FILE
    card = make_card(folder, **options)
    write_whole(path, _clean(str(card)))
    return path


def missing_from_card(card: ModelCard | str) -> list[str]:
    """What a card lacks to be published; nothing if it is complete."""
    card = card if isinstance(card, ModelCard) else ModelCard(card)
    data, text = card.data.to_dict(), " ".join(card.text.split())
    lacking = []
    if not data.get("license"):
        lacking.append(
            'the licence of the weights: pass `--license mit`, in Python `license="mit"` (or `license:` in the card\'s metadata)'
        )
    elif data["license"] == "other" and not data.get("license_name"):
        lacking.append("the name of the licence: `license: other` needs `license_name:`")
    if data.get("pipeline_tag") != "audio-classification" or data.get("library_name") != "transformers":
        lacking.append("`pipeline_tag: audio-classification` and `library_name: transformers`")
    if not set(TAGS) <= set(data.get("tags") or []):
        lacking.append(f"the tags {', '.join(TAGS)}, by which the model is found")
    lacking += [f"the section '## {heading}'" for heading in SECTIONS.values() if not _has_heading(card.text, heading)]
    if "licence of the code" not in text.lower() and "code:" not in text.lower():
        lacking.append("the licence of the code, apart from that of the weights")
    if RELATIVE_SENTENCE not in text:
        lacking.append(f"the sentence {RELATIVE_SENTENCE!r}")
    if OUT_OF_DOMAIN_WORDS not in text:
        lacking.append("the warning about speech out of the training data's domain")
    if "| scale |" not in text:
        lacking.append("the table of scores and their scale")
    return lacking


def read_configs(folder: Path) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Configuration of a checkpoint (of its base, as far as known, for an adapter), and of the adapter if it is one.

    Raises:
        FileNotFoundError: If there is neither.
        ValueError: If a file is not JSON, or the family is unknown.
    """
    adapter_file, config_file = folder / "adapter_config.json", folder / "config.json"
    if not adapter_file.is_file() and not config_file.is_file():
        raise FileNotFoundError(
            f"Expected a checkpoint in {str(folder)!r}: a folder with config.json or adapter_config.json, as "
            "`save_pretrained` writes."
        )
    adapter = _read_json(adapter_file) if adapter_file.is_file() else None
    config = _read_json(config_file) if config_file.is_file() else {}
    if not config and adapter:
        config = _config_of_base(adapter.get("base_model_name_or_path"))
    if config and config.get("model_type") not in families():
        raise ValueError(
            f"Expected a checkpoint of one of the families {', '.join(families())}, got model_type="
            f"{config.get('model_type')!r} in {str(config_file)!r}. A newer hf_sqa may know it: `pip install --upgrade hf-sqa`."
        )
    return config, adapter


def read_recipe(folder: Path, recipe: Mapping[str, Any] | str | Path | None) -> dict[str, Any]:
    """The recipe as data: the one given, the one in the folder, or none."""
    if isinstance(recipe, Mapping):
        return dict(recipe)
    path = Path(recipe) if recipe else folder / RECIPE_FILE
    if recipe is None and not path.is_file():
        return {}
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"Expected a recipe with sections (model, data, training) in {str(path)!r}, got {type(found).__name__}.")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"Expected JSON in {str(path)!r}, got {error}; save the checkpoint again.") from None
    if not isinstance(found, dict):
        raise ValueError(f"Expected a JSON object in {str(path)!r}, got {type(found).__name__}.")
    return found


def _config_of_base(base: str | None) -> dict[str, Any]:
    """Configuration of an adapter's base, where it is at hand."""
    from transformers import AutoConfig

    from hf_sqa.pipelines import resolve_checkpoint

    try:
        return AutoConfig.from_pretrained(resolve_checkpoint(base)).to_dict() if base else {}
    except (OSError, ValueError):
        return {}


def _existing(folder: Path) -> ModelCard | None:
    """The card in the folder, unless a machine filled in a form: that says nothing."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    content = path.read_text(encoding="utf-8")
    if any(words in content for words in WRITTEN_BY_MACHINES):
        return None
    try:
        return ModelCard(content, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"Expected YAML between the lines `---` of {str(path)!r}, got {error}; repair or remove it.") from None


def _read_results(folder: Path) -> list[Any]:
    for name in RESULT_FILES:
        if (folder / name).is_file():
            found = _read_json(folder / name).get("evaluation", [])
            return found if isinstance(found, list) else []
    return []


def _identity(folder: Path) -> dict[str, Any]:
    from hf_sqa.pipelines import pipeline

    try:
        return pipeline(str(folder), device="cpu").identity()
    except OSError as error:
        if (folder / "adapter_config.json").is_file():
            return {"reason": f"its base is not at hand ({' '.join(str(error).split())[:120]})"}
        raise


def _title(config: Mapping[str, Any], folder: Path, repo_id: str | None) -> str:
    return repo_id.rsplit("/", 1)[-1] if repo_id else config.get("checkpoint_name") or folder.resolve().name


def _public_name(name: Any) -> Any:
    """A Hub id or short name as it is; of a path its last part."""
    if not isinstance(name, str):
        return name
    looks_local = name.startswith((".", "~", "/")) or "\\" in name or name.count("/") > 1 or Path(name).exists()
    return Path(name).name if looks_local else name


def _base_of(recipe: Mapping[str, Any]) -> str | None:
    from hf_sqa.checkpoints import DEFAULT_MODEL

    model = recipe.get("model")
    if isinstance(model, Mapping):
        base = model.get("checkpoint") or model.get("encoder")
        return DEFAULT_MODEL if base == "default" else base
    return None


def _old_base(old: ModelCard | None) -> str | None:
    """Base named in an existing card; short names are no part of its metadata."""
    found = re.search(r"The weights derive from (?:\[([^\]]+)\]|`([^`]+)`)", old.text) if old else None
    return (found[1] or found[2]) if found else (old.data.get("base_model") if old else None)


def _corpora(recipe: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and entry of every training set of a recipe."""
    data = recipe.get("data")
    entries = data.get("train") if isinstance(data, Mapping) else None
    found = []
    for entry in entries if isinstance(entries, list) else [entries] if entries else []:
        entry = entry if isinstance(entry, Mapping) else {"table": entry}
        name = entry.get("corpus") or entry.get("hub") or Path(str(entry.get("table", "?"))).name
        found.append((str(name), dict(entry)))
    return found


def _languages(recipe: Mapping[str, Any]) -> list[str]:
    from hf_sqa.data.corpora import CORPORA

    spoken: list[str] = []
    for name, entry in _corpora(recipe):
        corpus = CORPORA.get(name.split("/")[0]) if entry.get("corpus") else None
        spoken += corpus.language.split() if corpus else _as_list(entry.get("language"))
    return list(dict.fromkeys(spoken))


def _as_list(value: Any) -> list[str]:
    return [] if value is None else value.split() if isinstance(value, str) else list(value)


def _summary(config: Mapping[str, Any], adapter: Mapping[str, Any] | None, base_model: str | None) -> str:
    base = f"Fine-tuned from {_link(base_model)}. " if base_model else ""
    if not config:
        return f"{PURPOSE} {base}LoRA adapter (rank {_rank(adapter)})."
    model_class = families()[config["model_type"]][1]
    header = provenance(model_class)["Title"].rstrip(".")
    kind = f"LoRA adapter (rank {_rank(adapter)}) for the class" if adapter else "Class"
    return f"{PURPOSE} {base}{kind} `{model_class.__name__}`. {header}."


def _rank(adapter: Mapping[str, Any] | None) -> Any:
    return (adapter or {}).get("r", "?")


def _link(base_model: Any) -> str:
    name = _public_name(base_model)
    return f"[{name}](https://huggingface.co/{name})" if _is_hub_id(base_model) else f"`{name}`"


def _is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and name.count("/") == 1 and _public_name(name) == name


def _scales(config: Mapping[str, Any], meanings: Mapping[str, str]) -> list[tuple[str, str]]:
    if not config:
        return [("those of the base model", "that of the base model")]
    real = families()[config["model_type"]][0](**{key: value for key, value in config.items() if not key.startswith("_")})
    return [
        (f"`{name}`", f"{real.score_min:g} to {real.score_max:g}; {(SCORE_MEANINGS | dict(meanings)).get(name, 'as trained on')}")
        for name in real.score_names
    ]


def _use(folder: Path, repo_id: str | None, sample_scores: Mapping[str, float] | None, adapter: Any) -> str:
    name = repo_id or folder.resolve().name
    if repo_id:
        imports = "import hf_sqa\nfrom huggingface_hub import hf_hub_download"
        recording = f'hf_hub_download("{repo_id}", "sample.flac")'
    else:
        imports = "from importlib.resources import files\n\nimport hf_sqa"
        recording = 'files("hf_sqa") / "assets/sample.flac"'
    shown = f"\n# {_rounded(sample_scores)}" if sample_scores else ""
    install = "hf-sqa[peft]" if adapter else "hf-sqa"
    return (
        f'```python\n{imports}\n\nscore = hf_sqa.pipeline("{name}")\nprint(score({recording})){shown}\n```\n\n'
        f"```bash\npip install '{install}'\nhf-sqa score --model {name} recordings/\n```"
    )


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in scores.items()}


def _training(recipe: Mapping[str, Any]) -> str:
    from hf_sqa.data.corpora import CORPORA

    lines = []
    for name, entry in _corpora(recipe):
        corpus = CORPORA.get(name.split("/")[0]) if entry.get("corpus") else None
        if corpus:
            lines.append(f"- {corpus.title} (`{name}`): {corpus.language.replace(' ', ', ')}; licence: {corpus.licence}")
        else:
            spoken = ", ".join(_as_list(entry.get("language"))) or "language not stated"
            lines.append(f"- {_link(name) if entry.get('hub') else f'`{name}`'}: {spoken}; licence not stated")
    if not lines:
        return "The training data were not recorded with this checkpoint; say here what it was trained on, and in which languages."
    training = recipe.get("training")
    settings = ", ".join(
        f"{key.replace('_', ' ')} {training[key]}"
        for key in ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed")
        if isinstance(training, Mapping) and key in training
    )
    return "\n".join(lines) + (f"\n\nTrained with {settings}; `recipe.yaml` has every number." if settings else "")


def _evaluation(evaluations: Sequence[Evaluation]) -> str:
    before = any(result.before is not None for result in evaluations)
    head = ["test set", "score", "agreement", "value", "95 % interval", "recordings", *(["before fine-tuning"] if before else [])]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---" + "|---:" * (len(head) - 3) + "|"]
    for result in evaluations:
        name = f"{result.dataset}, {result.split}" if result.split else result.dataset
        cells = [name + (" †" if result.overlaps_training else ""), f"`{result.score}`", result.title, _number(result.value)]
        cells += [result.interval, "" if result.num_clips is None else f"{result.num_clips:,}"]
        cells += [_number(result.before)] if before else []
        lines.append("| " + " | ".join(cells) + " |")
    if any(result.overlaps_training for result in evaluations):
        lines += ["", "† shares recordings or talkers with the training data: the number flatters."]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else "undefined" if math.isnan(value) else f"{value:.3f}"


def _model_index(evaluations: Sequence[Evaluation], model_name: str) -> dict[str, Any]:
    entries = [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech quality assessment",
            dataset_type=result.dataset_id or _slug(result.dataset),
            dataset_name=result.dataset,
            dataset_split=result.split,
            metric_type=METRIC_TITLES[result.metric.partition("_")[2]][0],
            metric_name=f"{result.score}: {result.title}",
            metric_value=round(float(result.value), 4),
            metric_args=None
            if result.low is None or result.high is None
            else {"confidence_level": 0.95, "low": round(float(result.low), 4), "high": round(float(result.high), 4)},
        )
        for result in evaluations
        if not math.isnan(result.value)
    ]
    return {"model_name": model_name, "eval_results": entries} if entries else {}


def _old_index(old_data: Mapping[str, Any]) -> dict[str, Any]:
    return {"model-index": old_data["model-index"]} if old_data.get("model-index") else {}


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9._/-]+", "-", name.lower()).strip("-") or "unnamed"


def _licences(data: Mapping[str, Any], base_model: str | None, code: str | None, note: str | None) -> str:
    weights = data.get("license_name") or data.get("license") or NOT_STATED
    if data.get("license_link"):
        weights = f"[{weights}]({data['license_link']})"
    weights = f"{weights}; {note}" if note else weights
    lines = [
        f"- Licence of the code{'' if code else ' (`hf_sqa`)'}: {code or CODE_LICENCE}",
        f"- Licence of the weights: {weights}",
    ]
    if base_model:
        lines.append(f"- The weights derive from {_link(base_model)}, whose terms hold too")
    lines.append("- The training data have terms of their own, named above as far as known")
    return "\n".join(lines)


def _cost(folder: Path, given: Mapping[str, Any] | None) -> str:
    cost = dict(given or {})
    for name in COST_FILES:
        if not given and (folder / name).is_file() and "seconds" in (found := _read_json(folder / name)):
            cost = {key: found[key] for key in ("seconds", "device", "energy_kwh") if key in found}
            break
    scoring = cost.get("scoring_seconds")
    told = f" Scoring takes {scoring:.2g} s of one processor core for a second of audio." if scoring else ""
    if not cost.get("seconds"):
        return f"Time and energy of the training were not recorded.{told}"
    place = f" on {cost['device']}" if cost.get("device") else ""
    energy = f"{cost['energy_kwh']:.3g} kWh" if cost.get("energy_kwh") is not None else "was not measured"
    return f"Training took {_duration(cost['seconds'])}{place}. Energy: {energy}.{told}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _identity_text(identity: Mapping[str, Any], sample_scores: Mapping[str, float] | None) -> str:
    if not identity.get("weights"):
        return f"The digest of the weights is not known: {identity.get('reason', 'it was not computed')}."
    lines = [
        "Equal digests give equal scores; `return_details=True` of the pipeline shows those in use.",
        "",
        f"- weights: `{identity['weights']}`",
        f"- preprocessing: `{identity['preprocessing']}`",
    ]
    if sample_scores:
        lines.append(f"- `sample.flac` scores `{_rounded(sample_scores)}` (float32, processor)")
    return "\n".join(lines)


def _citation(config: Mapping[str, Any]) -> str:
    return provenance(families()[config["model_type"]][1])["Paper"] if config else "Cite the paper of the base model; see its card."


def _not_given(**given: Any) -> set[str]:
    """Sections about which nothing new is known: what an existing card says there is worth more."""
    return {name for name, value in given.items() if not value}


def _merged(old: str, new: str, kept: set[str]) -> str:
    """The old text with its marked parts renewed; sections that it lacks are added."""
    for name in ["summary", *SECTIONS]:
        begin, end = BEGIN.format(name), END.format(name)
        fresh = new[new.index(begin) : new.index(end) + len(end)]
        if begin in old and end in old:
            if name not in kept:
                old = old[: old.index(begin)] + fresh + old[old.index(end) + len(end) :]
        elif name in SECTIONS and not _has_heading(old, SECTIONS[name]):
            old = f"{old.rstrip()}\n\n## {SECTIONS[name]}\n\n{fresh}\n"
        elif name == "summary" and "| scale |" not in old:
            table = fresh[fresh.index("| scores | scale |") : fresh.index(end)].rstrip()
            old = f"{old.rstrip()}\n\n## Scores\n\n{table}\n"
    return old


def _has_heading(text: str, heading: str) -> bool:
    return re.search(rf"^#+ {re.escape(heading)}\s*$", text, re.MULTILINE) is not None


def _clean(text: str) -> str:
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"
