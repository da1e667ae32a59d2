"""The study of paper three: its whole on miniature corpora with tiny encoders, and what it says of its own size."""

import pytest
import torch

from hf_sqa.models.distilled_sqa import DistilledSQA, DistilledSQAConfig
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import STUDENTS
from hf_sqa.models.xlsr_sqa import XLSRSQA, XLSRSQAConfig
from hf_sqa.studies import load_study, read_results, run_study
from tests.distillation.test_distillation import STUDENT
from tests.studies.test_paper_studies import corpora, encoders  # noqa: F401  # fixtures


def test_the_shares_of_both_variants_are_those_of_the_paper_and_more():
    for variant in ("paper", "small"):
        study = load_study("paper_three", variant=variant)
        shares = {model.set.get("labelled.share", 0) for model in study.models if model.maker == "distill"}

        assert shares == {0, 0.1, 0.2, 0.4, 0.8}
        assert study.figures[0]["clip_weighted"] and study.figures[0]["metric"] == "lcc"


def test_the_teacher_of_the_paper_is_a_frozen_encoder_to_its_tenth_layer():
    recipe = load_study("paper_three").model("teacher").recipe["model"]

    assert recipe["encoder"] == "facebook/wav2vec2-xls-r-2b"
    assert recipe["config"] == {"layers": [10], "freeze_encoder": True}


def test_what_measures_the_small_study_has_other_conditions_than_what_teaches():
    sets = load_study("paper_three", variant="small").sets

    taught = set(sets["rated"].where["condition_id"])
    assert taught.isdisjoint(sets["p808"].where["condition_id"])
    assert taught.isdisjoint(sets["new-talkers"].where["condition_id"])


def test_paper_three_lacks_only_its_data_and_a_gpu(corpora, encoders, speech, tmp_path, monkeypatch):  # noqa: F811
    for size in STUDENTS:
        monkeypatch.setitem(STUDENTS, size, STUDENT)
    torch.manual_seed(0)
    for name, model in (
        ("xls-r-sqa-2b-l10", XLSRSQA(XLSRSQAConfig.tiny())),
        ("published", DistilledSQA(DistilledSQAConfig.tiny())),
    ):
        model.save_pretrained(tmp_path / "checkpoints" / name)
        model.make_feature_extractor().save_pretrained(tmp_path / "checkpoints" / name)
    places = {"corpora": corpora, "checkpoints": tmp_path / "checkpoints", "encoder": encoders["wav2vec2"], "speech": speech}
    shorter = [
        *(f"{name}={place}" for name, place in places.items()),
        *(f"labels={tmp_path / 'labels'}", "windows=320", "steps=1", "evaluation.num_draws=5"),
        *(f"parts.{corpus}.shares={{train: 0.6, test: 0.4}}" for corpus in ("pstn", "tencent-without", "tencent-with")),
        *("recipe.degradations={none: 1}", "recipe.speech.validation_share=0.3", "recipe.labels.num_workers=0"),
        "recipe.training.dataloader_num_workers=0",
        f"models.published.checkpoint={tmp_path / 'checkpoints' / 'published'}",
        "tables.0.rows.model=[original, teacher, labels-xxs, distilled-xxs, mixed-xxs, share-0.4, pruned-0.95, published]",
        "models.pruned-{target}.for.target=[0.95]",
        "models.share-{share}.for.share=[0.4]",
    ]
    for model in ("distilled-{size}", "mixed-{size}", "labels-{size}"):
        shorter.append(f"models.{model}.for.size=[xxs]")
    for model in ("teacher", "teacher-bias-aware"):
        shorter.append(f"models.{model}.recipe.model.config.layers=[2]")
    for model in ("teacher", "teacher-bias-aware", "labels-{size}"):
        shorter += [f"models.{model}.recipe.training.{change}" for change in ("dataloader_num_workers=0", "max_steps=1")]
    for option in ("num_windows=24", "num_measured=2", "num_steps=1", "repair_steps=1", "batch_size=2"):
        shorter.append(f"models.pruned-{{target}}.options.{option}")

    study = load_study("paper_three", shorter)
    report = run_study(study, tmp_path / "out")

    assert report.failures == {} and report.num_done == 9 * 7 and report.remarks == []
    rows = read_results(tmp_path / "out")
    weights = {row["model"]: row["num_parameters"] for row in rows}
    assert weights["pruned-0.95"] <= 0.95 * weights["teacher"]
    clips = {row["model"]: row["num_train"] for row in rows}
    assert clips["share-0.4"] == pytest.approx(clips["distilled-xxs"] / 0.6, abs=1)
    overlap = {(row["model"], row["test_set"]): row["overlap"] for row in rows}
    assert overlap["original", "PSTN"] == "clips" and overlap["distilled-xxs", "PSTN"] != "clips"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"figure3.png", "by_test_set.png", "table1.md", "table1.tex", "table1.csv"} <= files
