"""Chains: kinds of degradation one after another, drawn with probabilities and ranges from data, and replayed from a record.

A chain is a list of steps, in YAML or as Python dicts:

    - kind: white_noise            # a name from `hf_sqa.degradations.KINDS`
      probability: 0.3             # 1 if not given
      snr_db: [0, 40]              # two numbers: drawn uniformly between them
      speech_level: active         # any other value: used as it is
    - one_of:                      # exactly one branch, drawn by its weight over the sum of the weights
        - {weight: 2, name: mobile, steps: [{kind: amr_nb, bitrate_kbps: {one_of: [4.75, 12.2]}}]}
        - {weight: 1, steps: []}
    - steps: [...]                 # several steps together, or none of them
      probability: 0.5

A parameter can also be `{log_uniform: [low, high]}`, `{integers: [low, high]}` (both ends included), `{one_of: [a, b, c]}` or
`{uniform: [low, high]}`.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_sqa.choices import did_you_mean
from hf_sqa.degradations.kind import KINDS, REQUIREMENTS, checked_sampling_rate, checked_waveform
from hf_sqa.degradations.noise import Recordings
from hf_sqa.options import load_yaml, refuse_unknown

PRESETS = Path(__file__).parent / "presets"
#: Parameters that the chain itself gives to a kind; a step cannot set them.
PROVIDED = ("waveform", "sampling_rate", "rng", "record", "noises", "talkers")
DISTRIBUTIONS = ("uniform", "log_uniform", "integers", "one_of")
#: Notes of a step in which a replay must agree with the record: another library or noise recording gives other samples.
MUST_AGREE = ("library", "noise")
#: Decimals of a drawn number, enough for every unit.
DECIMALS = 4


class Chain:
    """Degradations one after another, drawn at random.

    Args:
        steps (list of `dict`): Steps, in the form that `hf_sqa.degradations.chain` describes.
        name (`str`, *optional*, defaults to `"chain"`): Its name in records.
        description (`str`, *optional*): What it is for.
        noises ([`RecordingFolder`] or list of waveforms, *optional*): For the kinds `recorded_noise` and `background_noise`.
        talkers ([`RecordingFolder`] or list of waveforms, *optional*): For the kind `babble`.

    Raises:
        TypeError: If a step has an unknown key, kind or parameter; the message suggests the nearest known one.
        ValueError: If a probability, a weight or a distribution is invalid.

    Example:

        >>> chain = Chain([{"kind": "white_noise", "snr_db": [0, 30]}, {"kind": "opus", "bitrate_kbps": 12, "probability": 0.5}])
        >>> degraded, record = chain(waveform, 16_000, np.random.default_rng(0))
        >>> again = Chain.replay(record, waveform, 16_000)
    """

    def __init__(
        self,
        steps: Sequence[Mapping[str, Any]],
        *,
        name: str = "chain",
        description: str = "",
        noises: Recordings | None = None,
        talkers: Recordings | None = None,
    ):
        self.steps, self.name, self.description = _checked_steps(steps, name), name, description
        self.noises, self.talkers = noises, talkers

    @classmethod
    def load(cls, preset: str | Path, **sources: Any) -> Chain:
        """Load a preset by its name, or a chain from a YAML file.

        Args:
            preset (`str` or `Path`): A name from [`presets`], or a path that ends in `.yaml` or `.yml`.
            sources: `noises` and `talkers`, as for the class.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If there is no such preset, or the file is not YAML.
            TypeError: If it has unknown keys.
        """
        path = Path(preset)
        if path.suffix not in (".yaml", ".yml"):
            if str(preset) not in presets():
                raise ValueError(
                    f"Unknown preset {str(preset)!r}{did_you_mean(preset, presets())} The presets are {', '.join(presets())}; a "
                    "file of your own ends in .yaml."
                )
            path = PRESETS / f"{preset}.yaml"
        content = load_yaml(path, "chain")
        if "steps" not in content:
            raise ValueError(f"Expected {str(preset)!r} to have `steps`, got {', '.join(content) or 'nothing'}.")
        refuse_unknown(content, ("name", "description", "sources", "steps"), f"the chain {str(preset)!r}")
        name, description = content.get("name", Path(preset).stem), content.get("description", "")
        return cls(content["steps"], name=name, description=description, **sources)

    def __call__(self, waveform: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, Any]]:
        """Draw degradations and apply them.

        Args:
            waveform (`np.ndarray` of shape `(num_samples,)`): Clean speech, floating point, nominally in `[-1, 1]`.
            sampling_rate (`int`): Its rate in Hz.
            rng (`np.random.Generator`): Source of randomness; the draw does not depend on the waveform.

        Returns:
            `(degraded, record)`: float32 samples of shape `(num_samples,)`, and what was drawn, ready for JSON:
            `{"chain": name, "branches": [...], "steps": [{"kind", "parameters", "seed", "notes"}, ...]}`.

        Raises:
            ValueError: If a kind refuses the waveform, silence for example. The message names the kind.
        """
        record = self.draw(rng)
        return _applied(record, waveform, sampling_rate, self.noises, self.talkers), record

    def draw(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw without applying: a record whose steps have no notes yet."""
        record: dict[str, Any] = {"chain": self.name, "branches": [], "steps": []}
        _draw_steps(self.steps, rng, record)
        return record

    @staticmethod
    def replay(record: Mapping[str, Any], waveform: np.ndarray, sampling_rate: int, **sources: Recordings | None) -> np.ndarray:
        """Apply the steps of a record again; the result is the same, sample by sample.

        Args:
            record (`dict`): From a call; it may have been stored as JSON in between.
            waveform (`np.ndarray` of shape `(num_samples,)`): The waveform of that call.
            sampling_rate (`int`): Its rate in Hz.
            sources: `noises` and `talkers`, those of the chain.

        Raises:
            ValueError: If the codec library or the noise recording is not that of the record.
        """
        again = json.loads(json.dumps(record))
        degraded = _applied(again, waveform, sampling_rate, **sources)
        for step, replayed in zip(record["steps"], again["steps"], strict=True):
            for name in MUST_AGREE:
                recorded, now = step["notes"].get(name), replayed["notes"].get(name)
                if recorded != now:
                    raise ValueError(
                        f"The record of {step['kind']!r} was made with the {name} {recorded!r}, here it is {now!r}; install that "
                        "library, or give the same recordings."
                    )
        return degraded

    def select(self, branch: str) -> Chain:
        """Return the same chain, with one branch of a `one_of` always taken.

        Args:
            branch (`str`): Name of the branch.
        """
        alternatives = (other for step in _nested(self.steps) for other in step.get("one_of", ()))
        names = list(dict.fromkeys(other["name"] for other in alternatives if other["name"] is not None))
        if branch not in names:
            known = f" The names are {', '.join(names)}." if names else f" The chain {self.name!r} has no named branches."
            raise ValueError(f"Unknown condition {branch!r}{did_you_mean(branch, names)}{known}")
        chosen = copy.copy(self)
        chosen.steps = _with_branch(self.steps, branch)
        return chosen

    def check_requirements(self) -> None:
        """Raise now the error that a missing library, or missing noise, would raise at the first recording that needs it.

        Raises:
            CodecUnavailableError, ModuleNotFoundError: If a library is missing; the message names the package.
            ValueError: If `recorded_noise` can be drawn and there are no `noises`.
        """
        for step in _nested(self.steps):
            if (requirement := REQUIREMENTS.get(step.get("kind", ""))) is not None:
                requirement(step["parameters"])
            if step.get("kind") == "recorded_noise" and self.noises is None:
                raise ValueError(
                    f"The chain {self.name!r} has the kind 'recorded_noise' and no recordings to draw from; give `noises`."
                )


def presets() -> list[str]:
    """Return the names of the chains in the package."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def _checked_steps(steps: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(steps, Sequence) or isinstance(steps, str):
        raise ValueError(f"Expected a list of steps in {where}, got {steps!r}.")
    return [_checked_step(step, f"step {number} of {where}") for number, step in enumerate(steps, start=1)]


def _checked_step(step: Any, where: str) -> dict[str, Any]:
    if not isinstance(step, Mapping) or sum(key in step for key in ("kind", "one_of", "steps")) != 1:
        raise ValueError(f"Expected {where} to be a mapping with one of `kind`, `one_of` and `steps`, got {step!r}.")
    probability = step.get("probability", 1)
    if not _is_number(probability) or not 0 <= probability <= 1:
        raise ValueError(f"Expected a `probability` between 0 and 1 in {where}, got {probability!r}.")
    checked: dict[str, Any] = {"probability": probability}
    if "kind" in step:
        checked["kind"] = kind = step["kind"]
        if kind not in KINDS:
            raise TypeError(f"Unknown kind {kind!r} in {where}{did_you_mean(kind, KINDS)} The kinds are {', '.join(KINDS)}.")
        given = {name: value for name, value in step.items() if name not in ("kind", "probability")}
        checked["parameters"] = _checked_parameters(kind, given, where)
        return checked
    if "steps" in step:
        refuse_unknown(step, ("steps", "probability"), where)
        checked["steps"] = _checked_steps(step["steps"], where)
        return checked
    refuse_unknown(step, ("one_of", "probability"), where)
    if not isinstance(step["one_of"], Sequence) or not step["one_of"]:
        raise ValueError(f"Expected branches in `one_of` of {where}, got {step['one_of']!r}.")
    checked["one_of"] = [_checked_branch(branch, f"branch {n} of {where}") for n, branch in enumerate(step["one_of"], start=1)]
    if sum(branch["weight"] for branch in checked["one_of"]) <= 0:
        raise ValueError(f"Expected a weight above 0 in `one_of` of {where}, got only zeros.")
    return checked


def _checked_branch(branch: Any, where: str) -> dict[str, Any]:
    if not isinstance(branch, Mapping) or "steps" not in branch:
        raise ValueError(f"Expected {where} to be a mapping with `steps`, got {branch!r}.")
    refuse_unknown(branch, ("weight", "name", "steps"), where)
    weight = branch.get("weight", 1)
    if not _is_number(weight) or weight < 0:
        raise ValueError(f"Expected a `weight` of 0 or more in {where}, got {weight!r}.")
    return {"weight": weight, "name": branch.get("name"), "steps": _checked_steps(branch["steps"], where)}


def _checked_parameters(kind: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    known = {name: p for name, p in inspect.signature(KINDS[kind]).parameters.items() if name not in PROVIDED}
    refuse_unknown(given, tuple(known), f"{where}, {kind!r}")
    missing = [name for name, parameter in known.items() if parameter.default is parameter.empty and name not in given]
    if missing:
        raise TypeError(f"Expected {', '.join(map(repr, missing))} in {where}, {kind!r}, got {sorted(given) or 'no parameter'}.")
    return {name: _checked_value(value, f"{name!r} of {where}") for name, value in given.items()}


def _checked_value(value: Any, where: str) -> Any:
    """Check a distribution and return it in its long form; return any other value as it is."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        value = {"uniform": list(value)}
    if not isinstance(value, Mapping):
        return list(value) if isinstance(value, tuple) else value
    if len(value) != 1 or next(iter(value)) not in DISTRIBUTIONS:
        raise ValueError(f"Expected one of {', '.join(DISTRIBUTIONS)} as the distribution of {where}, got {dict(value)!r}.")
    (distribution, range_) = next(iter(value.items()))
    if not isinstance(range_, Sequence) or not range_:
        raise ValueError(f"Expected a list in {distribution!r} for {where}, got {range_!r}.")
    if distribution != "one_of":
        if len(range_) != 2 or not all(map(_is_number, range_)) or range_[0] > range_[1]:
            raise ValueError(f"Expected [low, high] in {distribution!r} for {where}, got {range_!r}.")
        if distribution == "log_uniform" and range_[0] <= 0:
            raise ValueError(f"Expected numbers above 0 in 'log_uniform' for {where}, got {range_!r}.")
        if distribution == "integers" and any(bound != int(bound) for bound in range_):
            raise ValueError(f"Expected whole numbers in 'integers' for {where}, got {range_!r}.")
    return {distribution: list(range_)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _draw_steps(steps: Sequence[Mapping[str, Any]], rng: np.random.Generator, record: dict[str, Any]) -> None:
    for step in steps:
        if step["probability"] < 1 and rng.random() >= step["probability"]:
            continue
        if "steps" in step:
            _draw_steps(step["steps"], rng, record)
        elif "one_of" in step:
            weights = np.array([branch["weight"] for branch in step["one_of"]], float)
            branch = step["one_of"][int(rng.choice(len(weights), p=weights / weights.sum()))]
            if branch["name"] is not None:
                record["branches"].append(branch["name"])
            _draw_steps(branch["steps"], rng, record)
        else:
            parameters = {name: _drawn(value, rng) for name, value in step["parameters"].items()}
            seed = int(rng.integers(2**32))
            record["steps"].append({"kind": step["kind"], "parameters": parameters, "seed": seed, "notes": {}})


def _drawn(value: Any, rng: np.random.Generator) -> Any:
    if not isinstance(value, Mapping):
        return value
    ((distribution, range_),) = value.items()
    if distribution == "one_of":
        return range_[int(rng.integers(len(range_)))]
    low, high = range_
    if distribution == "integers":
        return int(rng.integers(int(low), int(high) + 1))
    if distribution == "log_uniform":
        return min(max(round(float(np.exp(rng.uniform(np.log(low), np.log(high)))), DECIMALS), low), high)
    return min(max(round(float(rng.uniform(low, high)), DECIMALS), low), high)


def _applied(
    record: dict[str, Any], waveform: np.ndarray, sampling_rate: int, noises: Any = None, talkers: Any = None
) -> np.ndarray:
    """Apply the steps of a record, and add their notes to it."""
    degraded, sampling_rate = checked_waveform(waveform), checked_sampling_rate(sampling_rate)
    for step in record["steps"]:
        if step["kind"] not in KINDS:
            raise ValueError(f"Unknown kind {step['kind']!r} in the record, which was made by another version.")
        function = KINDS[step["kind"]]
        notes: dict[str, Any] = {}
        provided = {"rng": np.random.default_rng(step["seed"]), "record": notes, "noises": noises, "talkers": talkers}
        taken = {name: value for name, value in provided.items() if name in inspect.signature(function).parameters}
        try:
            degraded = function(degraded, sampling_rate, **step["parameters"], **taken)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{step['kind']}: {error}") from error
        step["notes"] = notes
    return degraded if len(record["steps"]) else degraded.copy()


def _nested(steps: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for step in steps:
        yield step
        yield from _nested(step.get("steps", ()))
        for branch in step.get("one_of", ()):
            yield from _nested(branch["steps"])


def _with_branch(steps: Sequence[Mapping[str, Any]], branch: str) -> list[dict[str, Any]]:
    """Return the steps; a `one_of` with a branch of this name keeps only this branch."""
    chosen: list[dict[str, Any]] = []
    for step in map(dict, steps):
        if "steps" in step:
            step["steps"] = _with_branch(step["steps"], branch)
        elif "one_of" in step:
            if named := [other | {"weight": 1} for other in step["one_of"] if other["name"] == branch]:
                step |= {"one_of": named, "probability": 1}
            step["one_of"] = [other | {"steps": _with_branch(other["steps"], branch)} for other in step["one_of"]]
        chosen.append(step)
    return chosen
