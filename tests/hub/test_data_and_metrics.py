"""evaluate and datasets on the Hub: a metric as a Space, and scored data that name their model."""

import json
import runpy
from pathlib import Path

import datasets
import pytest
import soundfile

import hf_sqa.metrics
from hf_sqa.hub.scored_data import add_scores, name_scores, score_identities
from tests.hub.conftest import ALICE

METRIC = Path(hf_sqa.metrics.__file__).parent / "hub" / "speech_quality_agreement"


@pytest.fixture
def clips(tmp_path, speech_like):
    """Two recordings that can be scored, and one that cannot."""
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", (0.5 + number / 4) * speech_like(1.0), 16_000, subtype="FLOAT")
    (tmp_path / "2.wav").write_bytes(b"not audio")
    paths = [str(tmp_path / f"{number}.wav") for number in range(3)]
    return datasets.Dataset.from_dict({"audio": paths, "mos": [1.0, 2.0, 3.0]}).cast_column("audio", datasets.Audio(decode=False))


def test_scores_are_added_and_name_their_model(clips, tiny_scorer):
    scored = add_scores(clips, tiny_scorer, name="tiny")

    expected = [row["mos"] for row in tiny_scorer([row["audio"] for row in clips], on_error="row")]
    assert scored["mos__tiny"][:2] == pytest.approx(expected[:2], abs=1e-6)
    assert scored["mos__tiny"][2] is None and scored["status__tiny"][2] == "failed" and scored["reason__tiny"][2]
    assert score_identities(scored) == {"mos__tiny": tiny_scorer.identity()}
    assert scored["mos"] == clips["mos"]


def test_the_identity_survives_files_and_selections(clips, tiny_scorer, tmp_path):
    scored = add_scores(clips, tiny_scorer, name="tiny")
    scored.save_to_disk(tmp_path / "disk")
    scored.to_parquet(tmp_path / "scored.parquet")

    for loaded in (
        datasets.load_from_disk(tmp_path / "disk"),
        datasets.Dataset.from_parquet(str(tmp_path / "scored.parquet"), cache_dir=str(tmp_path / "cache")),
        scored.select([1]),
        scored.filter(lambda row: row["mos"] > 1),
    ):
        assert score_identities(loaded) == {"mos__tiny": tiny_scorer.identity()}


def test_scores_of_elsewhere_can_be_named(clips):
    named = name_scores(clips, {"mos": {"id": "listeners", "weights": None}})

    assert score_identities(named) == {"mos": {"id": "listeners", "weights": None}}
    with pytest.raises(ValueError, match="Expected a column 'gone'"):
        name_scores(clips, {"gone": {}})


def test_columns_are_neither_guessed_nor_overwritten(clips, tiny_scorer):
    with pytest.raises(ValueError, match="Expected a column 'sound' with recordings, got audio, mos"):
        add_scores(clips, tiny_scorer, audio_column="sound")
    with pytest.raises(ValueError, match="Expected new columns, got mos__tiny"):
        add_scores(add_scores(clips, tiny_scorer, name="tiny"), tiny_scorer, name="tiny")


@pytest.mark.slow
def test_a_scored_corpus_goes_to_the_hub_and_comes_back_with_the_identity(hub, fresh, clips, tiny_folder, tiny_scorer, tmp_path):
    clips.save_to_disk(tmp_path / "clips")
    push = f"""
import datasets, hf_sqa
from hf_sqa.hub.scored_data import add_scores
scorer = hf_sqa.pipeline({str(tiny_folder)!r}, device="cpu")
add_scores(datasets.load_from_disk({str(tmp_path / "clips")!r}), scorer, name="tiny").push_to_hub("alice/scored", private=True)
"""
    pull = """
import datasets, json
from hf_sqa.hub.scored_data import score_identities
data = datasets.load_dataset("alice/scored", split="train")
print(json.dumps([score_identities(data), data["mos__tiny"][:2], [len(row["bytes"]) for row in data["audio"]]]))
"""
    pushed = fresh(push, token=ALICE)
    pulled = fresh(pull, token=ALICE)

    assert pushed.returncode == 0, pushed.stderr
    assert pulled.returncode == 0, pulled.stderr
    identities, scores, sizes = json.loads(pulled.stdout.splitlines()[-1])
    assert identities == {"mos__tiny": tiny_scorer.identity()}
    assert scores == pytest.approx([row["mos"] for row in tiny_scorer([row["audio"] for row in clips][:2])], abs=1e-6)
    assert sizes == [(tmp_path / f"{number}.wav").stat().st_size for number in range(3)]
    card = (tmp_path / "README.md").write_bytes(
        Path(hub.api().hf_hub_download("alice/scored", "README.md", repo_type="dataset", cache_dir=tmp_path)).read_bytes()
    )
    assert card and tiny_scorer.identity()["weights"] in (tmp_path / "README.md").read_text()


def test_the_metric_folder_is_a_whole_space():
    header = (METRIC / "README.md").read_text(encoding="utf-8")

    assert {"README.md", "app.py", "requirements.txt", "speech_quality_agreement.py"} <= {path.name for path in METRIC.iterdir()}
    assert "sdk: gradio" in header and "app_file: app.py" in header
    assert (METRIC / "requirements.txt").read_text().startswith("hf-sqa")


def test_the_page_of_the_metric_computes_and_refuses():
    table = runpy.run_path(str(METRIC / "app.py"))["table"]

    assert ["utt_srcc", "1"] in table("1 2 4", "1.5\n2\n4.5", "")
    assert any(name == "sys_lcc" for name, _ in table("1 2 4", "1 2 3", "a b c"))
    with pytest.raises(ValueError):
        table("one", "2", "")


@pytest.mark.slow
def test_the_metric_is_loaded_from_a_space_by_name(hub, fresh):
    hub.api().create_repo("alice/speech_quality_agreement", repo_type="space", space_sdk="gradio")
    hub.api().upload_folder(
        repo_id="alice/speech_quality_agreement", repo_type="space", folder_path=METRIC, ignore_patterns=["__pycache__/*"]
    )
    code = """
import evaluate
metric = evaluate.load("alice/speech_quality_agreement")
print(metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.5, 2.0, 4.5])["utt_srcc"])
"""
    result = fresh(code)

    assert result.returncode == 0, result.stderr
    assert float(result.stdout.split()[-1]) == 1.0
