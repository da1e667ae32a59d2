"""The studies of the papers: variants, what they need, and the whole of each on miniature corpora with tiny encoders."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, Wav2Vec2FeatureExtractor
from typer.testing import CliRunner

from hf_sqa.blocks.speech_encoder import TINY_ENCODER
from hf_sqa.cli import app
from hf_sqa.data import splits
from hf_sqa.models.mosa_net import MOSANet, MOSANetConfig
from hf_sqa.models.nisqa import NISQA, NISQAConfig
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig
from hf_sqa.options import load_yaml
from hf_sqa.shipped import find_file
from hf_sqa.studies import load_study, read_results, run_study
from hf_sqa.studies.requirements import gpu_hours, needed_corpora
from tests.data import miniature
from tests.made_speech import write_talker

STUDIES = ("paper_one", "paper_two", "paper_three")
#: Counts of Table 1 of paper one, for corpora of three clips.
TINY_SETS = {
    "w2v_ger": (2, 1),
    "w2v_cn": (3, 1),
    "w2v_en": (2, 1),
    "w2v_all": (8, 3),
    "w2v_1k": (2, 1),
    "w2v_10k": (3, 1),
    "w2v_50k": (5, 2),
}


def study_of(content, **changes):
    tiny = {
        "name": "s",
        "corpora": {"mine": {"table": "{folder}/mine.csv"}},
        "sets": {"test": {"corpus": "mine"}},
        "models": {"m": {"checkpoint": "default"}},
        "test_sets": ["test"],
    }
    return tiny | content | changes


# --- Variants and options ---


def test_the_first_variant_is_meant_where_none_is_named():
    content = study_of({"options": {"folder": "here"}, "variants": {"paper": {"seeds": [1, 2]}, "small": {"seeds": [3]}}})

    first, small = load_study(content), load_study(content, variant="small")

    assert (first.name, first.seeds, small.name, small.seeds) == ("s", (1, 2), "s-small", (3,))
    with pytest.raises(ValueError, match=r"one of the study's \(paper, small\), got 'smal'; did you mean 'small'"):
        load_study(content, variant="smal")


def test_an_option_fills_its_places_and_is_changed_by_its_name():
    content = study_of({"options": {"folder": "here", "draws": 20}, "evaluation": {"num_draws": "{draws}"}})

    study = load_study(content, ["folder=there", "seeds=[4]"])

    assert study.corpora["mine"].table == "there/mine.csv"
    assert (study.evaluation.num_draws, study.seeds) == (20, (4,))


# --- What a study needs ---


@pytest.mark.parametrize("name", STUDIES)
def test_the_variants_of_a_paper_can_be_read(name):
    variants = load_yaml(find_file(name, "studies"))["variants"]

    assert next(iter(variants)) == "paper" and "small" in variants
    assert all(load_study(name, variant=variant).models for variant in variants)


def test_what_paper_one_needs_is_listed_with_size_licence_and_hours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    told = CliRunner().invoke(app, ["study", "paper_one", "--output", "one", "--dry-run"])

    assert told.exit_code == 0, told.output
    used, further = told.stdout.split("Further corpora")
    assert used.count("NOT THERE") == 13 and "pstn (pstn): 58,709 clips, 163 h, 9.4 GB, licence: unknown" in used
    assert "urgent2024" in further and "licence: CC BY-NC-SA 4.0" in further
    assert "facebook/wav2vec2-base is not on this machine" in told.stdout
    assert "hours of a GPU, an estimate" in told.stdout and "10 runs" in told.stdout


def test_hours_grow_with_clips_epochs_and_seeds():
    cost = {"epochs": 10, "train_seconds": 1.0, "test_seconds": 0.5, "source": "made up"}
    models = {"m": {"train": "test", "validation": 0.25}}
    content = study_of({"corpora": {"mine": {"corpus": "tcd-voip"}}, "models": models, "gpu_cost": cost, "seeds": [0, 1]})
    study = load_study(content)

    assert needed_corpora(study)[0].clips == 384
    assert gpu_hours(study) == pytest.approx(2 * (288 * 10 * 1.0 + 384 * 0.5) / 3600)


def test_an_encoder_that_is_nowhere_is_named_with_what_to_give(tmp_path):
    (tmp_path / "mine.csv").write_text("audio,mos\n" + "".join(f"{n}.wav,{n % 4 + 1}\n" for n in range(6)))
    for number in range(6):
        miniature.recording(tmp_path / f"{number}.wav")
    recipe = {"model": {"family": "wav2vec2_mos", "encoder": str(tmp_path / "whisper")}}
    models = {"m": {"train": "test", "validation": 0.5}}
    study = load_study(study_of({"options": {"folder": str(tmp_path)}, "models": models, "recipe": recipe}))

    report = run_study(study, tmp_path / "out")

    assert "Expected the speech encoder" in str(report.failures) and "encoder=<folder>" in str(report.failures)


# --- The whole of a paper, in miniature ---


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A tiny wav2vec 2.0, HuBERT and WavLM as the Hub has them: folders by name."""
    options = {name: value for name, value in TINY_ENCODER.items() if name != "model_type"}
    folders = {name: tmp_path_factory.mktemp(name) for name in ("wav2vec2", "hubert", "wavlm")}
    for name, folder in folders.items():
        torch.manual_seed(0)
        AutoModel.from_config(AutoConfig.for_model(name, **options)).save_pretrained(folder)
        Wav2Vec2FeatureExtractor(sampling_rate=16_000).save_pretrained(folder)
    return folders


#: Changes to a recipe of the package that make it short.
SHORT = {"training.max_steps": 1, "training.use_cpu": True, "training.disable_tqdm": True, "training.report_to": "none"}


def shortened(name):
    """The file of a study, with one step of training for each model."""
    content = load_yaml(find_file(name, "studies"))
    for models in (content.get("models", {}), content["variants"]["paper"].get("models", {})):
        for model in models.values():
            if "checkpoint" not in model:
                model["set"] |= SHORT
    return content


def differ(root):
    """Make the recordings of miniatures long enough to be scored, and no two the same."""
    for number, path in enumerate(sorted(root.rglob("*.wav"))):
        write_talker(path, number, seconds=0.5)


@pytest.fixture
def corpora(tmp_path):
    """The thirteen data sets of paper one and two of the free ones, a few clips each."""
    root = tmp_path / "corpora"
    miniature.nisqa(root, miniature.NISQA_DATABASES)
    for name in ("pstn", "tencent", "iub", "bvcc", "tcd_voip", "tmhint_qi"):
        folder = root / {"tcd_voip": "tcd-voip", "tmhint_qi": "TMHINTQI"}.get(name, name)
        getattr(miniature, name)(folder)
    differ(root)
    return root


def test_paper_one_lacks_only_its_data_and_a_gpu(corpora, encoders, tmp_path, monkeypatch):
    for name, (num_train, num_validation) in TINY_SETS.items():
        whole = splits.TRAINING_SETS[name]
        tiny = splits.TrainingSet(num_train, num_validation, whole.sources)
        monkeypatch.setitem(splits.TRAINING_SETS, name, tiny)
    for name, model in (
        ("w2v_base", Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny())),
        *((f"nq_base{number}", NISQA(NISQAConfig.tiny(id2label={0: "mos"}))) for number in (1, 2)),
    ):
        model.save_pretrained(tmp_path / "checkpoints" / name)
        model.make_feature_extractor().save_pretrained(tmp_path / "checkpoints" / name)
    folders = [f"corpora={corpora}", f"checkpoints={tmp_path / 'checkpoints'}", f"encoder={encoders['wav2vec2']}"]
    study = load_study(shortened("paper_one"), [*folders, "evaluation.num_draws=10", "test_sets+=[TCD-VoIP, TMHINT-QI]"])

    report = run_study(study, tmp_path / "out")

    assert report.failures == {} and report.num_done == 10 * 15
    assert report.remarks == []
    rows = read_results(tmp_path / "out")
    assert {row["test_set"] for row in rows} == set(study.test_sets) and {row["metric"] for row in rows} == {"lcc", "srcc", "mse"}
    overlap = {(row["model"], row["test_set"]): row["overlap"] for row in rows}
    assert overlap["w2v_ger", "NTsLT"] == overlap["nq_base1", "NTrS"] == overlap["w2v_base", "VoMOS"] == "clips"
    assert overlap["w2v_ger", "NTsF"] is None and overlap["w2v_cn", "TcwoR"] == "clips"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"figure1.png", "figure2.png", "experiment1.md", "experiment1.tex", "experiment2.csv"} <= files
    table = (tmp_path / "out" / "experiment1.md").read_text()
    assert table.count("| w2v_ger |") == 3 and "NTsP501" in table and "† some of these recordings were trained on" in table


@pytest.fixture
def tmhint(encoders, tmp_path):
    """TMHINT-QI with a table of 3QUEST, and a MOSA-Net as teacher: the options of paper two that name folders."""
    root = miniature.tmhint_qi(tmp_path / "tmhint", num_train=10, num_test=4)
    differ(root)
    names = sorted(path.name for path in root.rglob("*.wav"))
    scores = [f"{name},{1 + number % 4},{2 + number % 3},{1.5 + number % 3}" for number, name in enumerate(names)]
    miniature.text(root / "3quest.csv", "audio,s_mos,n_mos,g_mos", *scores)
    torch.manual_seed(0)
    scores = {"id2label": dict(enumerate(("pesq", "stoi", "sdi")))}
    teacher = MOSANet.from_encoder(str(encoders["hubert"]), MOSANetConfig.tiny(**scores))
    teacher.save_pretrained(tmp_path / "teacher")
    teacher.make_feature_extractor().save_pretrained(tmp_path / "teacher")
    folders = {"tmhint": root, "teacher": tmp_path / "teacher", **encoders}
    return [f"{name}={folder}" for name, folder in folders.items()]


def test_paper_two_lacks_only_its_data_and_a_gpu(tmhint, tmp_path):
    threequest = f"threequest={tmp_path / 'tmhint' / '3quest.csv'}"
    study = load_study(shortened("paper_two"), [*tmhint, threequest, "clips=10", "evaluation.num_draws=10"])

    report = run_study(study, tmp_path / "out")

    assert report.failures == {} and report.num_done == 8 + 1 + 1 + 3 and report.remarks == []
    rows = [row for row in read_results(tmp_path / "out") if row["metric"] == "mse" and row["level"] == "utt"]
    assert {row["score"] for row in rows if row["model"] == "wavlm-MPL"} == {"s_mos", "n_mos", "g_mos"}
    assert {row["score"] for row in rows if row["model"] == "mos_ssl-n_mos"} == {"n_mos"}
    assert {(row["num_train"], row["num_validation"], row["num_clips"]) for row in rows} == {(9, 1, 4)}
    table = (tmp_path / "out" / "table1.md").read_text()
    assert table.count("| MTQ-Net (FT-WavLM) | MPL |") == 3 and "| - |" not in table
    assert "| MOS-SSL |" in (tmp_path / "out" / "table3.md").read_text()
    assert (tmp_path / "out" / "figure2.png").is_file()


def test_paper_two_learns_quality_and_intelligibility_where_3quest_is_not_at_hand(tmhint, tmp_path):
    content = shortened("paper_two") | {"tables": [], "figures": []}
    kept = ("teacher", "hubert-KT", "wavlm-MPL", "mos_ssl-{score}")
    content["models"] = {name: content["models"][name] for name in kept}
    study = load_study(content, [*tmhint, "clips=10", "evaluation.num_draws=10"], "public")

    report = run_study(study, tmp_path / "out")

    assert report.failures == {} and report.num_done == 4
    rows = [row for row in read_results(tmp_path / "out") if row["metric"] == "mse" and row["level"] == "utt"]
    assert {row["score"] for row in rows if row["model"] == "hubert-KT"} == {"mos", "intelligibility"}
    assert all(np.isfinite(row["value"]) for row in rows)
