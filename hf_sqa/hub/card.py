"""Model cards, made from a checkpoint's configuration, recipe and results. Handwritten text is kept."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from hf_sqa.checkpoint_files import CARD_FILE, RECORDS, refuse_links_outside
from hf_sqa.hub.card_facts import BASE_KEY, CardFacts, Evaluation, as_list, hub_sets, is_hub_id, public_name, read_configs
from hf_sqa.hub.card_text import as_text, fillings
from hf_sqa.options import parse_yaml
from hf_sqa.runs import write_whole

SAMPLE_FILE = "sample.flac"
TEMPLATE = Path(__file__).with_name("card_template.md")
TAGS = ("audio-quality", "speech-quality-assessment", "mean-opinion-score")
#: Caveat that every card must state; a push checks for it.
RELATIVE_SENTENCE = "Scores compare systems rated in one test; they are not absolute."
OUT_OF_DOMAIN_WORDS = "Out of domain"
#: Headings of the template's sections, by the name of their marker.
SECTIONS = {
    marker: heading
    for heading, marker in re.findall(r"^## (.+)\n\n<!-- hf-sqa:(\w+) -->", TEMPLATE.read_text(encoding="utf-8"), re.MULTILINE)
}
WRITTEN_BY_MACHINES = ("Model Card for Model ID", "generated automatically according to the information the Trainer had access to")
BEGIN, END = "<!-- hf-sqa:{} -->", "<!-- /hf-sqa:{} -->"


def make_card(folder: str | Path, facts: CardFacts | None = None, **options: Any) -> ModelCard:
    """Make the card of a checkpoint, or update an existing one.

    An existing `README.md` keeps its handwritten parts: all text outside the marked parts (`<!-- hf-sqa:use -->`), parts whose
    markers were removed, and every key of its metadata that is not given here.

    Args:
        folder (`str` or `Path`): The checkpoint, or a LoRA adapter.
        facts ([`CardFacts`], *optional*): What the card states.
        **options: The fields of [`CardFacts`], instead of `facts`: `make_card(folder, license="mit")`.

    Raises:
        FileNotFoundError: If the folder holds no checkpoint.
        ValueError: If the checkpoint is not of a family of `hf_sqa`, a result is malformed, or a file is a link out of the folder.
        TypeError: If an option is not a field of [`CardFacts`], or a key of a result is unknown.
    """
    folder = Path(folder)
    given = facts or CardFacts(**options)
    config, adapter = read_configs(folder)
    refuse_links_outside(folder, [CARD_FILE, *RECORDS])
    old = _existing(folder)
    old_data = old.data.to_dict() if old else {}
    facts = given.read_from(folder, adapter, old_data)
    repository = (facts.repo_id or "").rpartition("/")[2]
    name = facts.title or repository or config.get("checkpoint_name") or folder.resolve().name
    data = _metadata(facts, adapter, old_data, repository or name)
    filled = fillings(facts, config, adapter, folder)
    card = ModelCard.from_template(data, template_path=str(TEMPLATE), title=as_text(name), **filled)
    if old is None:
        return card
    # Keep an existing section if there is nothing new to state in it.
    known = {
        "summary": given.summary,
        "training": facts.training_data or facts.recipe,
        "evaluation": facts.results,
        "limits": given.known_failures,
        "cost": (facts.training_cost or {}).get("seconds"),
    }
    kept = {section for section, value in known.items() if not value}
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{_merged(old.text, card.text, kept)}")


def write_card(folder: str | Path, facts: CardFacts | None = None, **options: Any) -> Path:
    """Write the card of [`make_card`] into the folder, whole or not at all, and return its path."""
    path = Path(folder) / CARD_FILE
    write_whole(path, tidy(make_card(folder, facts, **options)))
    return path


def tidy(card: ModelCard) -> str:
    """Return the text of a card with single blank lines and a final newline."""
    return re.sub(r"\n{3,}", "\n\n", str(card)).rstrip() + "\n"


def missing_from_card(card: ModelCard | str) -> list[str]:
    """Return what a card lacks to be published; an empty list if it is complete."""
    card = card if isinstance(card, ModelCard) else ModelCard(card)
    data, text = card.data.to_dict(), " ".join(card.text.split())
    license_, tasks = data.get("license"), (data.get("pipeline_tag"), data.get("library_name"))
    wanted = {
        "the licence of the weights: pass the one that their authors state, for example `--license mit` or "
        '`--license cc-by-nc-sa-4.0`, in Python `license="mit"` (or `license:` in the card\'s metadata)': license_,
        "the name of the licence: `license: other` needs `license_name:`": license_ != "other" or data.get("license_name"),
        "`pipeline_tag: audio-classification` and `library_name: transformers`": tasks == ("audio-classification", "transformers"),
        f"the tags {', '.join(TAGS)}, by which the model is found": set(TAGS) <= set(data.get("tags") or []),
        **{f"the section '## {heading}'": _has_heading(card.text, heading) for heading in SECTIONS.values()},
        "the licence of the code, apart from that of the weights": re.search(r"licence of the code|code:", text, re.IGNORECASE),
        f"the sentence {RELATIVE_SENTENCE!r}": RELATIVE_SENTENCE in text,
        "the warning about speech out of the training data's domain": OUT_OF_DOMAIN_WORDS in text,
        "the table of scores and their scale": "| scale |" in text,
    }
    return [what for what, is_there in wanted.items() if not is_there]


def _existing(folder: Path) -> ModelCard | None:
    """Return the card in the folder, unless another library generated it from a blank form that says nothing."""
    path = folder / CARD_FILE
    if not path.is_file():
        return None
    content = path.read_text(encoding="utf-8")
    if any(words in content for words in WRITTEN_BY_MACHINES):
        return None
    try:
        if metadata := re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", content, re.DOTALL):
            parse_yaml(metadata[1], CARD_FILE)
        return ModelCard(content, ignore_metadata_errors=True)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"Expected YAML between the lines `---` of {str(path)!r}, got {error}; repair or remove it.") from None


def _metadata(facts: CardFacts, adapter: Mapping[str, Any] | None, old_data: Mapping[str, Any], model_name: str) -> ModelCardData:
    """Return the metadata of the card. Keys of an existing card stay if nothing here replaces them."""
    base = facts.base_model
    evaluations: Any = facts.results
    described: dict[str, Any] = {
        "language": list(facts.languages or ()) or None,
        "license": facts.license,
        "license_name": facts.license_name,
        "license_link": facts.license_link,
        "base_model": base if is_hub_id(base) else None,
        BASE_KEY: None if is_hub_id(base) else public_name(base),
        "base_model_relation": "adapter"
        if adapter
        else old_data.get("base_model_relation", "finetune" if is_hub_id(base) else None),
        "datasets": _together(hub_sets(facts.recipe), old_data.get("datasets")),
        "metrics": _together([result.metric_type for result in evaluations], old_data.get("metrics")),
        "library_name": "transformers",
        "pipeline_tag": "audio-classification",
        "tags": _together([*TAGS, *(["lora"] if adapter else [])], old_data.get("tags")),
        "widget": _widget(facts.sample_scores) or old_data.get("widget"),
    }
    described |= {key: value for key, value in old_data.items() if key not in described and key != "model-index"}
    if results := _eval_results(evaluations):
        return ModelCardData(**described, model_name=model_name, eval_results=results)
    index = {"model-index": old_data["model-index"]} if old_data.get("model-index") else {}
    return ModelCardData(**described, **index)


def _together(found: Sequence[str], old: Any) -> list[str] | None:
    """Merge what was found with what an existing card says, without duplicates."""
    return [*dict.fromkeys([*found, *as_list(old)])] or None


def _widget(sample_scores: Mapping[str, float] | None) -> list[dict[str, Any]] | None:
    """Return the checkpoint's sample as an audio example with scores for its page on the Hub."""
    if not sample_scores:
        return None
    output = [{"label": name, "score": round(value, 3)} for name, value in sample_scores.items()]
    return [{"src": SAMPLE_FILE, "example_title": "The sample of hf_sqa", "output": output}]


def _eval_results(evaluations: Sequence[Evaluation]) -> list[EvalResult]:
    """Return entries of the model index; undefined values are left out."""
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Speech quality assessment",
            dataset_type=result.dataset_id or re.sub(r"[^a-z0-9._/-]+", "-", result.dataset.lower()).strip("-") or "unnamed",
            dataset_name=result.dataset,
            dataset_split=result.split,
            metric_type=result.metric_type,
            metric_name=f"{result.score}: {result.title}",
            metric_value=round(float(result.value), 4),
            metric_args=None
            if result.low is None or result.high is None
            else {"confidence_level": 0.95, "low": round(float(result.low), 4), "high": round(float(result.high), 4)},
        )
        for result in evaluations
        if not math.isnan(result.value)
    ]


def _merged(old: str, new: str, kept: set[str]) -> str:
    """Return the old text with its marked parts renewed and missing sections added."""
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
