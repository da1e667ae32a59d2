"""The cards of published checkpoints, from `facts.yaml` and the results of `--measure` on rated speech (`results.json`).

python model_cards/make_cards.py                           # writes the cards
python model_cards/make_cards.py --measure ../shared       # scores the P.808 clips in shared/data first, with the weights available
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import yaml

from hf_sqa.auto import AutoModelForAudioQuality, families
from hf_sqa.hub.card import make_card, tidy
from hf_sqa.hub.card_facts import CardFacts
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import CHECKPOINT_NAME, INTERVALS
from hf_sqa.short_names import students

HERE = Path(__file__).parent
METRICS = ("utt_lcc", "utt_srcc", "utt_rmse")
DATA_SET = "P.808 reference clips"


def measure(facts: dict, shared: Path, results: dict) -> None:
    """Score both P.808 studies with every available checkpoint; intervals are bootstrapped over conditions."""
    import importlib

    import pandas
    import torch
    import transformers

    from hf_sqa.metrics import bootstrap_agreement
    from hf_sqa.pipelines import AudioQualityPipeline

    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    labels = pandas.read_csv(shared / "data" / "p808" / "labels.csv")
    files = [str(shared / "data" / "p808" / path) for path in labels["filepath"]]
    for name, fact in facts.items():
        if name in students():
            model = AutoModelForAudioQuality.from_pretrained(students()[name]).eval()
        elif "checkpoint" in fact:
            convert = importlib.import_module(f"hf_sqa.models.{fact['family']}.convert_{fact['family']}").convert
            file = shared / "checkpoints" / str(fact["checkpoint"])
            model = convert(file if file.is_file() else fact["checkpoint"]).eval()
        else:
            continue
        scorer = AudioQualityPipeline(model=model, feature_extractor=model.make_feature_extractor(), device="cpu")
        sample = Path(sys.modules["hf_sqa"].__file__).parent / "assets" / "sample.flac"
        scores = scorer(str(sample))
        started = time.process_time()
        rows = [scorer(file, on_error="row", return_details=True) for file in files]
        spent = time.process_time() - started
        identity = rows[0]["model"]
        evaluation = []
        for study in sorted(set(labels["study"])):
            chosen = (labels["study"] == study).to_numpy()
            for score, column in fact.get("compare", {"mos": "mos"}).items():
                predicted = [
                    float("nan") if row[score] is None else row[score]
                    for row, is_chosen in zip(rows, chosen, strict=True)
                    if is_chosen
                ]
                truth = labels.loc[chosen, column].to_numpy()
                intervals = bootstrap_agreement(
                    predicted, truth, metrics=METRICS, clusters=list(labels.loc[chosen, "condition_id"]), num_draws=5000, rng=0
                )
                evaluation += [
                    {
                        "dataset": DATA_SET,
                        "split": study,
                        **({} if score == "mos" else {"score": score}),
                        "metric": metric,
                        "value": round(interval.value, 4),
                        "low": round(interval.low, 4),
                        "high": round(interval.high, 4),
                        "num_clips": int(chosen.sum()),
                    }
                    for metric, interval in intervals.items()
                ]
        teacher = results.get(name, {}).get("teacher")
        results[name] = ({"teacher": teacher} if teacher else {}) | {
            "identity": {key: identity[key] for key in ("weights", "preprocessing")},
            "sample_scores": scores,
            "scoring_cost": round(spent / sum(row["duration_seconds"] for row in rows), 4),
            "evaluation": evaluation,
        }
        sys.stdout.write(f"{name} {evaluation}\n")


def card(name: str, fact: dict, result: dict) -> str:
    """Text of one card."""
    config_class, _ = families()[fact["family"]]
    options = {"id2label": dict(enumerate(fact["scores"]))} if "scores" in fact else {}
    options["score_intervals"] = intervals(name)
    with tempfile.TemporaryDirectory() as folder:
        config_class(checkpoint_name=name, **options).save_pretrained(folder)
        facts = CardFacts(
            title=fact["title"],
            summary=fact["summary"],
            results=result.get("teacher", []) + result.get("evaluation", []),
            license=fact["license"],
            license_name=fact.get("license_name"),
            license_link=fact.get("license_link"),
            languages=fact["languages"],
            training_data=fact["training"],
            base_model=fact.get("base_model"),
            training_cost={"scoring_seconds": result["scoring_cost"]} if "scoring_cost" in result else None,
            sample_scores=result.get("sample_scores"),
            identity=result.get("identity", {"reason": "the weights were not available; `hf-sqa card <folder>` computes it"}),
            use=use(name, fact, result),
            code_licence=fact["code_licence"],
            licence_note=fact.get("licence_note"),
            citation=fact.get("citation"),
            known_failures=fact.get("fails", ()),
            evaluation_note=fact.get("evaluation"),
            score_meanings={"mos": fact["meaning"]} if "meaning" in fact else None,
        )
        return tidy(make_card(folder, facts))


def intervals(name: str) -> dict | None:
    """The calibration of a checkpoint's intervals, if it has one: see `benchmarks/interval_coverage.py`."""
    if name == CHECKPOINT_NAME:
        return json.loads(INTERVALS.read_text(encoding="utf-8"))
    if name in students():
        return json.loads((students()[name] / "config.json").read_text(encoding="utf-8")).get("score_intervals")
    return None


def use(name: str, fact: dict, result: dict) -> str:
    """The section on use: a short name, or a conversion first."""
    if "convert" in fact:
        return f"```bash\n{fact['convert'].strip()}\n```"
    first = ""
    if fact.get("short_name"):
        install = f"{fact['install']}\n" if "install" in fact else ""
        shell = f"{install}hf-sqa score --model {name} recordings/"
    else:
        file = Path(fact["checkpoint"]).name
        shell = f"hf-sqa convert {fact['family']} {file} {name}      # the authors' file\nhf-sqa score --model {name} recordings/"
        first = "  # the folder that `hf-sqa convert` wrote"
    shown = {score: round(value, 2) for score, value in result.get("sample_scores", {}).items()}
    comment = f"\n# {shown}" if shown else ""
    return (
        f"```bash\n{shell}\n```\n\n```python\nfrom importlib.resources import files\n\nimport hf_sqa\n\n"
        f'score = hf_sqa.pipeline("{name}"){first}\nprint(score(files("hf_sqa") / "assets/sample.flac")){comment}\n```'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="SHARED", help="folder with data/p808 and checkpoints/")
    parser.add_argument("--only", nargs="*", help="checkpoints to measure")
    arguments = parser.parse_args()
    facts = yaml.safe_load((HERE / "facts.yaml").read_text(encoding="utf-8"))
    path = HERE / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if arguments.measure:
        chosen = {name: fact for name, fact in facts.items() if not arguments.only or name in arguments.only}
        measure(chosen, arguments.measure, results)
        path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for name, fact in facts.items():
        text = card(name, fact, results.get(name, {}))
        (HERE / f"{name}.md").write_text(text, encoding="utf-8")
        if name in students():
            (students()[name] / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
