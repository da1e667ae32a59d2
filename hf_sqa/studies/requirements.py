"""Requirements of a study: corpora with their sizes and licences, encoders, and an estimate of GPU hours."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_sqa.studies.study_file import ModelSpec, Study


@dataclass(frozen=True)
class NeededCorpus:
    """A corpus of a study."""

    name: str  # its name in the study
    source: str  # the name of a corpus, `hub:<repository>`, or a table
    clips: int | None  # number of rated clips: for a table, those in it; for a corpus, as published
    size: str  # its size if known, else empty
    licence: str
    place: str  # where the study looks for it, or where to get it
    is_here: bool | None  # whether `place` exists; `None` for the Hub, which is not queried
    is_used: bool  # whether a model or a test set of the study uses it; others can be added to `test_sets`

    def __str__(self) -> str:
        clips = "" if self.clips is None else f"{self.clips:,} clips"
        facts = ", ".join(filter(None, (clips, self.size, f"licence: {self.licence}" if self.licence else "")))
        state = {True: "found in", False: "NOT THERE:", None: "not asked:"}[self.is_here]
        return f"{self.name} ({self.source}): {facts or 'a table of your own'}; {state} {self.place}"


def needed_corpora(study: Study) -> list[NeededCorpus]:
    """Return the corpora of a study, those in use first."""
    used = {corpus for name in _used_sets(study) for corpus in study.sets[name].corpora}
    return sorted((_described(study, name, name in used) for name in study.corpora), key=lambda corpus: not corpus.is_used)


def _used_sets(study: Study) -> Iterator[str]:
    for model in study.models:
        yield from study.test_sets_of(model)
        yield from (name for name in (model.train, model.validation, *(model.trained_on or ())) if isinstance(name, str))


def _described(study: Study, name: str, is_used: bool) -> NeededCorpus:
    from hf_sqa.data.corpora import CORPORA
    from hf_sqa.data.corpora.loading import find_corpus

    source = study.corpora[name]
    if source.table is not None:
        path = Path(source.table)
        clips = None
        if path.suffix in (".csv", ".tsv") and path.is_file():
            with path.open("rb") as file:
                clips = sum(1 for line in file if line.strip()) - 1
        return NeededCorpus(name, "table", clips, "", "", str(path), path.is_file(), is_used)
    if source.hub is not None:
        corpus, part = next((known for known in CORPORA.values() if known.hub_id == source.hub), None), None
    else:
        corpus, part = find_corpus(source.name)
    if corpus is None:
        page = f"https://huggingface.co/datasets/{source.hub}"
        return NeededCorpus(name, source.name, None, "", "see its page", page, None, is_used)
    clips = sum(sum(corpus.clips[known].values()) for known in corpus.parts(part))
    is_here = None if source.root is None else Path(source.root).exists()
    place = corpus.source if source.root is None else source.root if is_here else f"{source.root}, get it from {corpus.source}"
    return NeededCorpus(name, source.name, clips, corpus.size, corpus.licence, place, is_here, is_used)


def encoder_lines(study: Study) -> list[str]:
    """Return a line for every encoder that the recipes of a study name, saying whether it is on this machine.

    Raises:
        ValueError: If an encoder on this machine is of an unknown kind or lacks the recipe's layers, or a folder does not exist.
    """
    from hf_sqa.training.dry_run import look_at_encoder

    lines: dict[str, list[str]] = {}
    for model in study.models:
        recipe = study.training_recipe(model)
        if recipe is not None and (line := look_at_encoder(recipe)):
            lines.setdefault(line, []).append(model.name)
    return [f"{line} ({', '.join(models)})" for line, models in lines.items()]


def gpu_hours(study: Study) -> float | None:
    """Estimate the GPU hours of a study from the published sizes of its corpora; `None` without `gpu_cost`."""
    cost = study.gpu_cost
    if cost is None:
        return None
    clips_of = {corpus.name: corpus.clips or 0 for corpus in needed_corpora(study)}

    def size(name: str) -> int:
        return sum(clips_of[corpus] for corpus in study.sets[name].corpora)

    seconds = 0.0
    for model in study.models:
        tested = sum(size(name) for name in study.test_sets_of(model)) * cost.test_seconds
        trained = 0.0 if model.checkpoint is not None else num_train_clips(model, size(model.train) if model.train else 0)
        seconds += len(study.seeds_of(model)) * (trained * cost.epochs * cost.train_seconds + tested)
    return seconds / 3600


def num_train_clips(model: ModelSpec, available: int) -> int:
    """Return the number of clips that a model trains on, as far as its description tells without the data."""
    from hf_sqa.data.splits import TRAINING_SETS

    if model.training_set is not None:
        return TRAINING_SETS[model.training_set].num_train
    drawn = model.clips or available
    return round(drawn * (1 - model.validation)) if isinstance(model.validation, float) else drawn
