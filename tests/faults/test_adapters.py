"""What a PeftModel or a Trainer with an adapter saves or pushes by its own methods loads again, with the same score."""

import json
import shutil

import pytest
import torch

import hf_sqa
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.training.dry_run import generated_rows
from tests.hub.conftest import hub, hub_process  # noqa: F401  # fixtures

peft = pytest.importorskip("peft", reason="needs the extra peft: pip install 'hf-sqa[peft]'")

CLIP = generated_rows(["mos"], 1)[0]["audio"]
#: MOS points: an adapter that is attached, and one that is merged, round otherwise.
ROUNDING = 1e-4


@pytest.fixture
def adapted(tiny_folder):
    """A tiny model with a random adapter, its score, and that of its base."""
    model = load_checkpoint(tiny_folder).model
    base = model.score_recordings([recording(model)], model.make_feature_extractor())[0].scores[0]
    torch.manual_seed(1)
    options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], modules_to_save=["score_head"], init_lora_weights=False)
    made = peft.get_peft_model(model, options)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "modules_to_save" in name:
                parameter.add_(0.1)
    made.eval()
    score = float(made.base_model.model.score_recordings([recording(model)], model.make_feature_extractor())[0].scores[0])
    assert abs(score - float(base)) > 0.01, "the adapter changes nothing: this would prove nothing"
    return made, score


def recording(model):
    from hf_sqa.audio import load_recording

    return load_recording(CLIP, sampling_rate=model.config.sampling_rate)


def scores(*places):
    return [hf_sqa.pipeline(str(place), device="cpu")(CLIP)["mos"] for place in places]


def test_a_saved_peft_model_scores_as_it_did(adapted, tmp_path):
    model, expected = adapted
    model.save_pretrained(tmp_path / "adapter")

    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
    }
    assert scores(tmp_path / "adapter") == pytest.approx([expected], abs=ROUNDING)
    merged = load_checkpoint(tmp_path / "adapter", merge=True).model
    merged.save_pretrained(tmp_path / "merged")
    assert scores(tmp_path / "merged") == pytest.approx([expected], abs=ROUNDING)


def test_a_merged_peft_model_scores_as_it_did(adapted, tmp_path):
    model, expected = adapted
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    hf_sqa.pipeline(model=merged, feature_extractor=merged.make_feature_extractor(), device="cpu").save_pretrained(
        tmp_path / "pipe"
    )

    assert scores(tmp_path / "merged", tmp_path / "pipe") == pytest.approx([expected] * 2, abs=ROUNDING)


def test_a_peft_model_that_was_pushed_scores_as_it_did(adapted, hub):  # noqa: F811
    model, expected = adapted
    model.push_to_hub("alice/adapter")

    assert not [file for file in hub.api().list_repo_files("alice/adapter") if file.endswith((".bin", ".pt", ".pkl"))]
    assert scores("alice/adapter") == pytest.approx([expected], abs=ROUNDING)


def test_what_a_trainer_pushes_and_saves_of_an_adapter_scores_as_it_did(adapted, tiny_folder, hub, tmp_path):  # noqa: F811
    from hf_sqa.training import AudioQualityTrainer, AudioQualityTrainingArguments

    model, _ = adapted
    base = hf_sqa.pipeline(str(tiny_folder), device="cpu")
    base.push_to_hub("alice/base", license="mit", with_code=False)
    model.peft_config["default"].base_model_name_or_path = "alice/base"
    rows = generated_rows(["mos"], 6)
    options = {"max_steps": 2, "per_device_train_batch_size": 3, "use_cpu": True, "report_to": "none", "eval_strategy": "no"}
    arguments = AudioQualityTrainingArguments(str(tmp_path / "run"), hub_model_id="alice/tuned", save_strategy="no", **options)
    trainer = AudioQualityTrainer(model, arguments, train_dataset=rows)
    trainer.train()
    model.eval()
    expected = float(model.base_model.model.score_recordings([recording(base.model)], base.feature_extractor)[0].scores[0])

    trainer.save_model(str(tmp_path / "saved"))
    trainer.push_to_hub(license="mit", with_code=False)

    assert scores(tmp_path / "saved", "alice/tuned") == pytest.approx([expected] * 2, abs=ROUNDING)
    assert json.loads((tmp_path / "saved" / "adapter_config.json").read_text())["base_model_name_or_path"] == "alice/base"
    assert not [file for file in hub.api().list_repo_files("alice/tuned") if file.endswith((".bin", ".pt", ".pkl"))]
    shutil.rmtree(tmp_path / "saved")
