"""Texts that fill the template of a model card, besides the facts themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_sqa.auto import families
from hf_sqa.cells import visible
from hf_sqa.checkpoint_files import HUB_GRAPHS, graph_files
from hf_sqa.hub.bundle import NEEDED
from hf_sqa.hub.card_facts import CardFacts, as_list, is_hub_id, public_name, training_sets
from hf_sqa.hub.doc_tables import provenance

PURPOSE = "Predicts how listeners would rate a recording of speech, without a reference."
#: Pattern of a link to a licence: a page, or a file beside the card.
LINK = re.compile(r"https?://[^\s()<>]+|[\w.-]+")
#: If the measured coverage falls short by more than this, the card says that the interval does not hold.
COVERAGE_TOLERANCE = 0.03
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


def fillings(facts: CardFacts, config: Mapping[str, Any], adapter: Mapping[str, Any] | None, folder: Path) -> dict[str, Any]:
    """Return the variables and functions of `card_template.md`, from facts completed by [`CardFacts.read_from`]."""
    if facts.repo_id:
        imports, recording = "from huggingface_hub import hf_hub_download\n", f'hf_hub_download("{facts.repo_id}", "sample.flac")'
    else:
        imports, recording = "from importlib.resources import files\n\n", 'files("hf_sqa") / "assets/sample.flac"'
    graphs = [file for file in graph_files(folder) if file in HUB_GRAPHS]
    has_weights = any(folder.glob("*.safetensors"))
    return {
        "facts": facts,
        "summary": _summary(config, adapter, facts.base_model),
        "scales": _scale_rows(config, facts.score_meanings),
        "name": facts.repo_id or re.sub(r"[^\w. -]", "_", folder.resolve().name),
        "needed": " ".join(NEEDED),
        "package": "hf-sqa[peft]" if adapter is not None else "hf-sqa" if has_weights or not graphs else "hf-sqa[onnx]",
        "imports": imports,
        "shown": f"print(score({recording}))" + (f"\n# {_rounded(facts.sample_scores)}" if facts.sample_scores else ""),
        "graphs": graphs,
        "has_weights": has_weights,
        "training_sets": _training_rows(facts.recipe),
        "settings": _training_settings(facts.recipe),
        "intervals": config.get("score_intervals") or {},
        "licence": _licence(facts),
        "citation": provenance(families()[config["model_type"]][1])["Paper"]
        if config
        else "Cite the paper of the base model; see its card.",
        "text": as_text,
        "code": as_code,
        "link": _link,
        "number": _number,
        "rounded": _rounded,
        "duration": _duration,
        "short": _too_short_for,
    }


def as_text(value: Any) -> str:
    """Escape a value from files or users as one line of text that cannot begin markup, HTML or a table cell."""
    line = visible(" ".join(str(value).split()))
    return re.sub(r"[\\`|\[\]]", r"\\\g<0>", line).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def as_code(value: Any) -> str:
    """Escape a value like [`as_text`], for use between backticks."""
    return "`" + visible(" ".join(str(value).split())).replace("`", "'").replace("|", "\\|") + "`"


def _scale_rows(config: Mapping[str, Any], meanings: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """Return rows of the table of scores: name, and scale with meaning."""
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


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in scores.items()}


def _training_rows(recipe: Any) -> list[tuple[str, str, str]]:
    """Return names, languages and licences of the training sets; empty if unknown."""
    from hf_sqa.data.corpora import CORPORA

    rows = []
    for name, entry in training_sets(recipe):
        if corpus := CORPORA.get(name.split("/")[0]) if entry.get("corpus") else None:
            rows.append((f"{corpus.title} ({as_code(name)})", corpus.language.replace(" ", ", "), corpus.licence))
        else:
            languages = as_text(", ".join(map(str, as_list(entry.get("language")))))
            rows.append((_link(name) if entry.get("hub") else as_code(name), languages, ""))
    return rows


def _training_settings(recipe: Any) -> str:
    training = recipe.get("training")
    keys = ("learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed")
    given = [key for key in keys if isinstance(training, Mapping) and key in training]
    return ", ".join(f"{key.replace('_', ' ')} {as_text(training[key])}" for key in given)


def _too_short_for(calibration: Mapping[str, Any]) -> str:
    """Return the sets on which the measured coverage of the interval is too low."""
    measured = calibration.get("measured", ())
    short = [as_text(each["set"]) for each in measured if each["coverage"] < each["asked"] - COVERAGE_TOLERANCE]
    return ", ".join(dict.fromkeys(short))


def _number(value: float | None) -> str:
    return "" if value is None else "undefined" if math.isnan(value) else f"{value:.3f}"


def _licence(facts: CardFacts) -> str:
    stated = facts.license_name or facts.license
    weights = as_text(stated) if stated else "**not stated**"
    return f"[{weights}]({facts.license_link})" if facts.license_link and LINK.fullmatch(facts.license_link) else weights


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
