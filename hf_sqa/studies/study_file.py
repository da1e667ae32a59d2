"""The file of a study: what is in it, and everything about it that can be checked without its data."""

from __future__ import annotations

import copy
import difflib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_sqa.evaluation.suite import SuiteOptions

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class ModelSpec:
    """A column of the grid.

    Args:
        name (`str`): Of letters, digits, `.`, `_`, `+` and `-`. In the file it may hold `{variable}`, see `for`.
        checkpoint (`str`, *optional*): A model that is there already, `default` or a folder or a Hub id: not trained, no seed.
        maker (`str`): What makes it otherwise: `train` (a recipe of `hf_sqa.training`), a name given to [`run_study`], or
            `module:function` inside hf_sqa.
        train (`str`, *optional*): Set to train on. Without, the recipe's own data.
        validation (`str` or `float`, *optional*): Set to validate on, or a share of `train` to hold out, with scores alike.
        validation_group (`str`, *optional*): Column whose values a held-out share does not divide.
        clips (`int`, *optional*): Train on so many clips of `train`, drawn anew by each seed, smaller draws part of larger ones. A
            held-out share is taken from these.
        recipe (`dict` or `str`, *optional*): Instead of the study's.
        set (`dict`): Changes to the recipe by dotted key: `{"training.learning_rate": 0.001}`.
        options (`dict`): For makers other than `train`.
        needs (sequence of `str`): Models whose checkpoints it is made from; they are made first.
        trained_on (sequence of `str`, *optional*): For a `checkpoint`: sets it was trained on, for the marks of overlap.
        series (`str`, *optional*): What figures group it under.
        seeds (sequence of `int`, *optional*): Instead of the study's.
        test_sets (sequence of `str`, *optional*): Instead of the study's; empty for one that others only need.
        variables (`dict`): The values of `for` that this one stands for; columns `variable_<name>` of the results.
    """

    name: str
    checkpoint: str | None = None
    maker: str = "train"
    train: str | None = None
    validation: str | float | None = None
    validation_group: str | None = None
    clips: int | None = None
    recipe: Any = None
    set: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    trained_on: Sequence[str] | None = None
    series: str | None = None
    seeds: Sequence[int] | None = None
    test_sets: Sequence[str] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A study as read from its file; see `train_scripts/studies/` for examples.

    Args:
        name (`str`): Of the study.
        about (`str`): What it asks, in words.
        cites (`dict`): The sentence each number comes from.
        corpora (`dict`): Rated speech by name, `{table: mine.csv}`, `{corpus: nisqa/TEST_FOR, root: ...}` or `{hub: <repo>}`, with
            any other option of [`~hf_sqa.data.load_corpus`]. Paths begin in the current folder.
        parts (`dict`): By corpus, how to cut it: `{group: source_id, within: language, shares: {train: 0.6, test: 0.4}, seed: 0}`;
            its clips get a `part`, and clips of one group the same.
        sets (`dict`): By name, what to train or test on: `{corpus: ..., where: {<column>: <value or values>}, rated: mos}`; `rated`
            keeps only clips with that label.
        recipe (`dict` or `str`, *optional*): Of `hf_sqa.training`, or a path; what models have in common.
        models (tuple of [`ModelSpec`]): Columns of the grid.
        seeds (tuple of `int`): Each trained model is made once for each.
        test_sets (tuple of `str`): Names out of `sets`.
        evaluation ([`SuiteOptions`]): How they are evaluated.
        figures (tuple of `dict`): `{kind: ..., file: ...}` and options of [`hf_sqa.studies.figures.draw`].
    """

    name: str
    about: str = ""
    cites: Mapping[str, Any] = field(default_factory=dict)
    corpora: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)
    sets: Mapping[str, Any] = field(default_factory=dict)
    recipe: Any = None
    models: tuple[ModelSpec, ...] = ()
    seeds: tuple[int, ...] = (0,)
    test_sets: tuple[str, ...] = ()
    evaluation: SuiteOptions = field(default_factory=SuiteOptions)
    figures: tuple[Mapping[str, Any], ...] = ()

    def model(self, name: str) -> ModelSpec:
        """The model of that name."""
        return next(model for model in self.models if model.name == name)

    def test_sets_of(self, model: ModelSpec) -> tuple[str, ...]:
        return self.test_sets if model.test_sets is None else tuple(model.test_sets)

    def seeds_of(self, model: ModelSpec) -> tuple[int | None, ...]:
        if model.checkpoint is not None:
            return (None,)
        return self.seeds if model.seeds is None else tuple(model.seeds)


def load_study(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()) -> Study:
    """Read a study and check all that can be checked without its data.

    Args:
        source (path or `dict`): The file, or what is in it.
        overrides (sequence of `str`, *optional*): `dotted.key=value` with a value as in YAML: `"seeds=[0]"`,
            `"corpora.bench.table=bench.csv"`. New keys are accepted only where names are free: below `corpora`, `sets`, `models`,
            `recipe`, ...

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a key is unknown (with a suggestion), a name not defined, or nothing is to be done.
    """
    import yaml

    if isinstance(source, Mapping):
        content = json.loads(json.dumps(source))
    else:
        path = Path(source)
        if not path.is_file():
            raise FileNotFoundError(f"Expected a study in YAML, but there is no file {str(path)!r}.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"Expected a study in YAML, got {str(path)!r}, which cannot be parsed: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"Expected a study to be a mapping with name, models and test_sets, got {type(content).__name__}.")
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ValueError(f"Expected key=value, such as seeds=[0], got {override!r}.")
        set_dotted(content, key, yaml.safe_load(text))
    return _study(content)


def _study(content: dict[str, Any]) -> Study:
    _refuse_unknown(content, [one.name for one in fields(Study)], "a study")
    for key in ("name", "models", "test_sets"):
        if not content.get(key):
            raise ValueError(f"Expected {key!r} in the study, got none.")
    evaluation = dict(content.get("evaluation") or {})
    _refuse_unknown(evaluation, [one.name for one in fields(SuiteOptions)], "evaluation")
    models = tuple(model for name, entry in content["models"].items() for model in _models(str(name), dict(entry or {})))
    values = {**content, "models": models, "evaluation": SuiteOptions(**evaluation)}
    for key in ("seeds", "test_sets", "figures"):
        if key in content:
            values[key] = tuple(content[key] if isinstance(content[key], list) else [content[key]])
    study = Study(**{key: value for key, value in values.items() if value is not None})
    _check(study)
    return study


def _models(name: str, entry: dict[str, Any]) -> list[ModelSpec]:
    """One model, or one for every combination of the values in `for` (or for each of a list of combinations)."""
    combinations = entry.pop("for", None) or [{}]
    if isinstance(combinations, dict):
        values = [value if isinstance(value, list) else [value] for value in combinations.values()]
        combinations = [dict(zip(combinations, chosen, strict=True)) for chosen in itertools.product(*values)]
    known = [one.name for one in fields(ModelSpec) if one.name not in ("name", "variables")]
    _refuse_unknown(entry, [*known, "for"], f"the model {name!r}")
    return [ModelSpec(name=str(_filled(name, chosen)), **_filled(entry, chosen), variables=chosen) for chosen in combinations]


def _filled(value: Any, variables: Mapping[str, Any]) -> Any:
    """`{variable}` replaced; a text that is nothing else becomes the value itself, a number stays a number."""
    if isinstance(value, dict):
        return {_filled(key, variables): _filled(one, variables) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, variables) for one in value]
    if isinstance(value, str):
        for name, chosen in variables.items():
            if value == f"{{{name}}}":
                return chosen
            value = value.replace(f"{{{name}}}", str(chosen))
    return value


def _check(study: Study) -> None:
    names = [model.name for model in study.models]
    for name in (study.name, *names, *study.sets, *study.test_sets):
        if not NAME.fullmatch(str(name)):
            raise ValueError(f"Expected names of letters, digits and . _ + -, for they become folders, got {name!r}.")
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"Expected a name of its own for every model, got {twice[0]!r} twice; put {{variable}} into the name.")
    for corpus, entry in study.corpora.items():
        if sum(key in entry for key in ("corpus", "table", "hub")) != 1:
            raise ValueError(f"Expected one of corpus, table and hub in corpora.{corpus}, got {', '.join(entry) or 'nothing'}.")
    for name, entry in study.sets.items():
        _refuse_unknown(entry, ["corpus", "where", "rated"], f"the set {name!r}")
        _among(entry.get("corpus"), study.corpora, f"corpus of the set {name!r}")
    for corpus, entry in study.parts.items():
        _among(corpus, study.corpora, "corpus of parts")
        _refuse_unknown(entry, ["group", "within", "shares", "seed", "score"], f"parts.{corpus}")
        shares = entry.get("shares") or {}
        if set(shares) - set(PARTS) or len(shares) < 2 or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
            raise ValueError(f"Expected shares of two or three of {', '.join(PARTS)} that add up to 1, got {shares}.")
    for model in study.models:
        for test_set in study.test_sets_of(model):
            _among(test_set, study.sets, f"test set of {model.name!r}")
        for used in filter(None, (model.train, model.validation if isinstance(model.validation, str) else None)):
            _among(used, study.sets, f"set of the model {model.name!r}")
        for needed in model.needs:
            _among(needed, names, f"need of the model {model.name!r}")
        for used in model.trained_on or ():
            _among(used, study.sets, f"trained_on of the model {model.name!r}")
        if model.checkpoint is not None and (model.train or model.set or model.options or model.clips):
            raise ValueError(f"Expected either a checkpoint or something to train with for the model {model.name!r}, got both.")
        if isinstance(model.validation, (int, float)) and not 0 < model.validation < 1:
            raise ValueError(
                f"Expected a set, or a share between 0 and 1, as validation of {model.name!r}, got {model.validation}."
            )
        if model.clips is not None and (not isinstance(model.clips, int) or model.clips < 1 or model.train is None):
            raise ValueError(f"Expected `clips` of {model.name!r} to be a whole number, and a set `train`; got {model.clips!r}.")
    models_in_order(study)


def models_in_order(study: Study) -> list[ModelSpec]:
    """Models with those they need before them."""
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


def _refuse_unknown(entry: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    if not isinstance(entry, Mapping):
        raise ValueError(f"Expected keys and values in {where}, got {entry!r}.")
    for key in entry:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}."
            raise ValueError(f"Unknown key {key!r} in {where}; {hint}")


def _among(name: Any, known: Any, what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(str(name), list(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known) or 'none'}."
        raise ValueError(f"Expected the {what} to be defined, got {name!r}{hint}")


def set_dotted(content: dict[str, Any], key: str, value: Any) -> None:
    *outer, last = key.split(".")
    at = content
    for depth, name in enumerate(outer):
        if not isinstance(at.setdefault(name, {}), dict):
            raise ValueError(f"Expected keys below {'.'.join(outer[: depth + 1])!r} to set {key!r}, got {at[name]!r} there.")
        at = at[name]
    at[last] = copy.deepcopy(value)  # a later key may change it
