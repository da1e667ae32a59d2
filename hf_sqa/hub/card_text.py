"""The sections of a model card in Markdown, each made from the facts it states."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_sqa.auto import families
from hf_sqa.cells import visible
from hf_sqa.checkpoint_files import HUB_GRAPHS, graph_files
from hf_sqa.hub.bundle import NEEDED
from hf_sqa.hub.card_facts import CardFacts, Evaluation, as_list, is_hub_id, public_name, training_sets
from hf_sqa.hub.model_table import provenance

PURPOSE = "Predicts how listeners would rate a recording of speech, without a reference."
NOT_COMPARED = "This checkpoint was not compared with listeners, so its agreement with them is unknown."
CODE_LICENCE = "Apache-2.0"
#: Where a licence may be read: a page, or a file beside the card.
LINK = re.compile(r"https?://[^\s()<>]+|[\w.-]+")
#: By so much the measured coverage may fall short before the card says that the interval does not hold.
COVERAGE_TOLERANCE = 0.03
NOT_STATED = "**not stated**"
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


def section_texts(facts: CardFacts, config: Mapping[str, Any], adapter: Mapping[str, Any] | None, folder: Path) -> dict[str, str]:
    """Text of every section of the template, by its name."""
    evaluations = [Evaluation.of(result) for result in facts.results or ()]
    recipe = facts.recipe if isinstance(facts.recipe, Mapping) else {}
    return {
        "summary": facts.summary or _summary(config, adapter, facts.base_model),
        "use": facts.use or _use(facts, folder, is_adapter=adapter is not None),
        "training": facts.training_data or _training(recipe),
        "evaluation": (_evaluation(evaluations) if evaluations else facts.evaluation_note or NOT_COMPARED) + _intervals(config),
        "failures": _failures(facts.known_failures),
        "licences": _licences(facts),
        "cost": _cost(facts.training_cost or {}),
        "identity": _identity(facts.identity or {}, facts.sample_scores),
        "citation": facts.citation or _citation(config),
    }


def as_text(value: Any) -> str:
    """What files and people name, as text of one line: no markup, HTML or cell of a table begins in it."""
    line = visible(" ".join(str(value).split()))
    return re.sub(r"[\\`|\[\]]", r"\\\g<0>", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_code(value: Any) -> str:
    """The same between backticks."""
    return "`" + visible(" ".join(str(value).split())).replace("`", "'").replace("|", "\\|") + "`"


def scale_rows(config: Mapping[str, Any], meanings: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Rows of the table of scores: name, and scale with meaning."""
    if not config:
        return [("those of the base model", "that of the base model")]
    real = families()[config["model_type"]][0](**{key: value for key, value in config.items() if not key.startswith("_")})
    known = {**SCORE_MEANINGS, **real.score_meanings, **(meanings or {})}
    return [
        (as_code(name), f"{real.score_min:g} to {real.score_max:g}; {known.get(name, 'as trained on')}")
        for name in real.score_names
    ]


def _summary(config: Mapping[str, Any], adapter: Mapping[str, Any] | None, base_model: str | None) -> str:
    base = f"Fine-tuned from {_link(base_model)}. " if base_model else ""
    rank = (adapter or {}).get("r", "?")
    if not config:
        return f"{PURPOSE} {base}LoRA adapter (rank {rank})."
    model_class = families()[config["model_type"]][1]
    kind = f"LoRA adapter (rank {rank}) for the class" if adapter else "Class"
    return f"{PURPOSE} {base}{kind} `{model_class.__name__}`. {provenance(model_class)['Title'].rstrip('.')}."


def _link(name: Any) -> str:
    shown = public_name(name)
    return f"[{shown}](https://huggingface.co/{shown})" if is_hub_id(name) else as_code(shown)


def _use(facts: CardFacts, folder: Path, is_adapter: bool) -> str:
    name = facts.repo_id or re.sub(r"[^\w. -]", "_", folder.resolve().name)
    if facts.repo_id:
        imports, recording = "from huggingface_hub import hf_hub_download\n", f'hf_hub_download("{facts.repo_id}", "sample.flac")'
    else:
        imports, recording = "from importlib.resources import files\n\n", 'files("hf_sqa") / "assets/sample.flac"'
    shown = f"print(score({recording}))" + (f"\n# {_rounded(facts.sample_scores)}" if facts.sample_scores else "")
    graphs = [file for file in graph_files(folder) if file in HUB_GRAPHS]
    has_weights = any(folder.glob("*.safetensors"))
    package = "hf-sqa[peft]" if is_adapter else "hf-sqa" if has_weights or not graphs else "hf-sqa[onnx]"
    if facts.with_code:
        code = (
            f"With the code in this repository, which you should read first:\n\n```bash\npip install {' '.join(NEEDED)}\n```\n\n"
            f"```python\n{imports}from transformers import pipeline\n\n"
            f'score = pipeline("audio-quality", model="{name}", trust_remote_code=True)\n{shown}\n```\n\n'
            f"With the package, whose code is then used instead (`pip install {package}`):\n\n"
        )
    elif graphs and not has_weights:
        code = f"This repository holds {' and '.join(f'`{file}`' for file in graphs)}, for `pip install '{package}'`:\n\n"
    else:
        code = (
            f"This repository holds no code: `pip install '{package}'`, and `import hf_sqa` makes the model known to transformers, "
            'where `pipeline("audio-quality")` scores with it.\n\n'
        )
    beside = f'\n\nIts ONNX graph: `hf_sqa.pipeline("{name}", backend="onnx")`.' if graphs and has_weights else ""
    return (
        f"{code}```python\n{imports}import hf_sqa\n\n"
        f'score = hf_sqa.pipeline("{name}")\n{shown}\n```\n\n```bash\nhf-sqa score --model {name} recordings/\n```{beside}'
    )


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in scores.items()}


def _training(recipe: Mapping[str, Any]) -> str:
    from hf_sqa.data.corpora import CORPORA

    lines = []
    for name, entry in training_sets(recipe):
        corpus = CORPORA.get(name.split("/")[0]) if entry.get("corpus") else None
        if corpus:
            lines.append(f"- {corpus.title} ({as_code(name)}): {corpus.language.replace(' ', ', ')}; licence: {corpus.licence}")
        else:
            languages = as_text(", ".join(map(str, as_list(entry.get("language"))))) or "language not stated"
            lines.append(f"- {_link(name) if entry.get('hub') else as_code(name)}: {languages}; licence not stated")
    if not lines:
        return "The training data were not recorded with this checkpoint; state here what it was trained on, in which languages."
    training = recipe.get("training")
    settings = ", ".join(
        f"{key.replace('_', ' ')} {as_text(training[key])}"
        for key in ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed")
        if isinstance(training, Mapping) and key in training
    )
    return "\n".join(lines) + (f"\n\nTrained with {settings}; `recipe.yaml` has every number." if settings else "")


def _evaluation(evaluations: Sequence[Evaluation]) -> str:
    before = any(result.before is not None for result in evaluations)
    head = ["test set", "score", "agreement", "value", "95 % interval", "recordings", *(["before fine-tuning"] if before else [])]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---" + "|---:" * (len(head) - 3) + "|"]
    for result in evaluations:
        name = as_text(f"{result.dataset}, {result.split}" if result.split else result.dataset)
        cells = [name + (" †" if result.overlaps_training else ""), as_code(result.score), result.title, _number(result.value)]
        cells += [result.interval, "" if result.num_clips is None else f"{result.num_clips:,}"]
        cells += [_number(result.before)] if before else []
        lines.append("| " + " | ".join(cells) + " |")
    if any(result.overlaps_training for result in evaluations):
        lines += ["", "† shares recordings or talkers with the training data, so the value is too optimistic."]
    return "\n".join(lines)


def _intervals(config: Mapping[str, Any]) -> str:
    """How sure the scores are: the calibration in the configuration, and where its coverage was measured."""
    texts = []
    for name, calibration in (config.get("score_intervals") or {}).items():
        groups = f", left out by {as_text(calibration['grouped_by'])} in turn" if calibration.get("grouped_by") else ""
        data, num_clips = as_text(calibration.get("data", "rated clips")), calibration["num_clips"]
        lines = [
            f"How sure is {as_code(name)}? `interval=0.9` of the pipeline (`--interval 0.9`) gives {as_code(f'{name}_low')} and "
            f"{as_code(f'{name}_high')}, calibrated on {data} ({num_clips} clips). Measured on clips that did not "
            f"calibrate{groups}:",
            "",
            "| clips | asked for | ratings inside | lowest group | mean half-width | recordings |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        short: dict[str, None] = {}
        for measured in calibration.get("measured", ()):
            asked, coverage = measured["asked"], measured["coverage"]
            lowest = f"{measured['lowest']:.2f}" if "lowest" in measured else ""
            cells = [as_text(measured["set"]), f"{asked:.2f}", f"{coverage:.3f}", lowest, f"{measured['half_width']:.2f}"]
            lines.append(f"| {' | '.join(cells)} | {measured['num_clips']:,} |")
            if coverage < asked - COVERAGE_TOLERANCE:
                short[as_text(measured["set"])] = None
        if short:
            lines += ["", f"**The interval does not hold for {', '.join(short)}**: for recordings of that kind it is too short."]
        texts.append("\n".join(lines))
    return "".join(f"\n\n{text}" for text in texts)


def _number(value: float | None) -> str:
    return "" if value is None else "undefined" if math.isnan(value) else f"{value:.3f}"


def _failures(failures: Sequence[str]) -> str:
    return "\n".join(["", "", "Known failures:", "", *(f"- {failure}" for failure in failures)]) if failures else ""


def _licences(facts: CardFacts) -> str:
    stated = facts.license_name or facts.license
    weights = as_text(stated) if stated else NOT_STATED
    if facts.license_link and LINK.fullmatch(facts.license_link):
        weights = f"[{weights}]({facts.license_link})"
    if facts.licence_note:
        weights += f"; {facts.licence_note}"
    code = f": {facts.code_licence}" if facts.code_licence else f" (`hf_sqa`): {CODE_LICENCE}"
    lines = [f"- Licence of the code{code}", f"- Licence of the weights: {weights}"]
    if facts.base_model:
        lines.append(f"- The weights derive from {_link(facts.base_model)}, whose terms apply too")
    lines.append("- The training data have their own terms, given above as far as known")
    return "\n".join(lines)


def _cost(cost: Mapping[str, Any]) -> str:
    scoring = cost.get("scoring_seconds")
    speed = f" Scoring takes {scoring:.2g} s of one processor core for a second of audio." if scoring else ""
    if not cost.get("seconds"):
        return f"Time and energy of the training were not recorded.{speed}"
    place = f" on {as_text(cost['device'])}" if cost.get("device") else ""
    energy = f"{cost['energy_kwh']:.3g} kWh" if cost.get("energy_kwh") is not None else "not measured"
    return f"Training took {_duration(cost['seconds'])}{place}. Energy: {energy}.{speed}"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _identity(identity: Mapping[str, Any], sample_scores: Mapping[str, float] | None) -> str:
    if not identity.get("weights"):
        return f"The digest of the weights is not known: {identity.get('reason', 'it was not computed')}."
    lines = [
        "Equal digests give equal scores; the pipeline returns its own with `return_details=True`.",
        "",
        f"- weights: `{identity['weights']}`",
        f"- preprocessing: `{identity['preprocessing']}`",
    ]
    if sample_scores:
        lines.append(f"- `sample.flac` scores `{_rounded(sample_scores)}` (float32, CPU)")
    return "\n".join(lines)


def _citation(config: Mapping[str, Any]) -> str:
    return provenance(families()[config["model_type"]][1])["Paper"] if config else "Cite the paper of the base model; see its card."
