"""Pulling: from branches, tags, commits, private repositories and adapters, by name, in fresh processes; and what is refused.

Weights read from a file lie elsewhere in memory than weights just made, and processors round products by where they lie:
scores of two processes agree to 1e-5, not to the last bit.
"""

import json

import pytest
import torch
import transformers

import hf_sqa
from hf_sqa import checkpoints
from hf_sqa.checkpoints import split_revision
from hf_sqa.hub.publish import publish, publish_model
from hf_sqa.short_names import short_names
from tests.hub.conftest import ALICE, AT_THE_HUB, BOB
from tests.processes import command

REPO = "alice/tiny-mos"
SCORE = """
import json, hf_sqa
score = hf_sqa.pipeline({model!r}, device="cpu")
print(json.dumps(score({audio!r}, return_details=True)))
"""


@pytest.fixture
def audio(tmp_path, speech_like):
    import soundfile

    soundfile.write(tmp_path / "call.wav", speech_like(1.5), 16_000)
    return str(tmp_path / "call.wav")


def local_score(model, audio):
    pipe = hf_sqa.pipelines.AudioQualityPipeline(model=model.eval(), feature_extractor=model.make_feature_extractor(), device="cpu")
    return pipe(audio)["mos"]


def approx(score):
    return pytest.approx(score, abs=1e-5, rel=0)


def last_line(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_a_checkpoint_is_pulled_by_name_in_another_process_with_the_same_score(hub, fresh, make_tiny, audio):
    done = publish_model(make_tiny(), REPO, license="mit", with_code=False)

    pulled = last_line(fresh(SCORE.format(model=REPO, audio=audio)))

    assert pulled["mos"] == approx(local_score(make_tiny(), audio))
    assert (pulled["model"]["id"], pulled["model"]["revision"]) == (REPO, done.commit)


def test_branches_tags_and_commits_are_named_after_an_at_sign(hub, fresh, make_tiny, audio):
    first = publish_model(make_tiny(1), REPO, license="mit", with_code=False)
    hub.api().create_tag(REPO, tag="v1")
    publish_model(make_tiny(2), REPO, license="mit", with_code=False)
    publish_model(make_tiny(3), REPO, license="mit", with_code=False, revision="next")
    expected = {"v1": 1, first.commit: 1, "main": 2, "next": 3}

    code = "import hf_sqa\n" + "".join(
        f"print(hf_sqa.pipeline('{REPO}@{name}', device='cpu')({audio!r})['mos'])\n" for name in expected
    )
    result = fresh(code)

    assert result.returncode == 0, result.stderr
    assert [float(line) for line in result.stdout.split()] == approx(
        [local_score(make_tiny(seed), audio) for seed in expected.values()]
    )


def test_the_command_line_scores_with_a_model_at_a_revision(hub, fresh, make_tiny, audio):
    publish_model(make_tiny(1), REPO, license="mit", with_code=False)
    publish_model(make_tiny(2), REPO, license="mit", with_code=False, revision="next")

    result = fresh(command("score", audio, "--model", f"{REPO}@next", "--output", "-"))

    assert json.loads(result.stdout.splitlines()[0])["mos"] == approx(local_score(make_tiny(2), audio)), result.stderr


def test_every_auto_class_and_the_stock_pipeline_pull_it(hub, fresh, make_tiny, audio):
    publish_model(make_tiny(), REPO, license="mit", with_code=False)
    code = f"""
import hf_sqa, transformers
for auto in (hf_sqa.AutoModelForAudioQuality, transformers.AutoModel, transformers.AutoModelForAudioClassification):
    print(type(auto.from_pretrained("{REPO}")).__name__)
print(transformers.pipeline("audio-quality", model="{REPO}", device="cpu")({audio!r})["mos"])
"""
    result = fresh(code)

    assert result.returncode == 0, result.stderr
    *classes, score = result.stdout.split()
    assert classes == ["DistilledSQA"] * 3 and float(score) == approx(local_score(make_tiny(), audio))


def test_a_private_repository_needs_the_token_of_somebody_who_may(hub, fresh, make_tiny, audio):
    publish_model(make_tiny(), REPO, license="mit", with_code=False, private=True)
    code = SCORE.format(model=REPO, audio=audio)

    assert last_line(fresh(code, token=ALICE))["mos"] == approx(local_score(make_tiny(), audio))
    for token in ("", BOB):
        refused = fresh(code, token=token)
        assert refused.returncode == 1
        assert "a private one needs `hf auth login` or HF_TOKEN" in refused.stderr


@pytest.mark.slow
def test_what_was_pulled_once_scores_offline(hub, fresh, nursery, make_tiny, audio):
    publish_model(make_tiny(), REPO, license="mit", with_code=False)
    once = last_line(fresh(SCORE.format(model=REPO, audio=audio)))
    hub.control(forget=True)
    code = AT_THE_HUB.format(address=hub.address) + "constants.HF_HUB_OFFLINE = True\n" + SCORE.format(model=REPO, audio=audio)

    offline = nursery.start(code)
    offline.communicate()

    again = last_line(offline)
    assert again["mos"] == approx(once["mos"]) and again["model"] == once["model"]
    assert hub.requests() == []


# Adapters


@pytest.fixture
def adapter(hub, make_tiny, tmp_path):
    """A LoRA adapter as trained, and the score function of base and adapter together."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = make_tiny(1)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "score_head" not in name]
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=linear[:3], modules_to_save=["score_head"], init_lora_weights=False)
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.eval().save_pretrained(tmp_path / "adapter")
    model.make_feature_extractor().save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "README.md").unlink()
    return tmp_path / "adapter", adapted.base_model.model


@pytest.mark.parametrize("at", ["", "@v2"])
def test_an_adapter_over_its_base_scores_as_it_did_when_trained(hub, fresh, make_tiny, adapter, audio, at):
    folder, adapted = adapter
    publish_model(make_tiny(1), REPO, license="mit", with_code=False)
    publish(folder, "alice/adapter", license="mit", base_model=REPO)
    hub.api().create_tag("alice/adapter", tag="v2")
    base = local_score(make_tiny(1), audio)

    pulled = last_line(fresh(SCORE.format(model=f"alice/adapter{at}", audio=audio)))

    assert pulled["mos"] == approx(local_score(adapted, audio)) != approx(base)
    assert pulled["model"]["id"] == "alice/adapter"
    assert pulled["model"]["revision"] == hub.api().model_info("alice/adapter").sha


def test_an_adapter_over_a_shipped_model_finds_it_by_its_short_name(default_scorer, tmp_path, audio):
    peft = pytest.importorskip("peft")
    model = hf_sqa.AutoModelForAudioQuality.from_pretrained(hf_sqa.default_checkpoint())
    name = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and "score_head" not in name)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=[name], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "distill-mos-v7"
    adapted.eval().save_pretrained(tmp_path / "adapter")

    scored = hf_sqa.pipeline(str(tmp_path / "adapter"), device="cpu")(audio)["mos"]

    assert scored == approx(local_score(adapted.base_model.model, audio))


@pytest.mark.parametrize("beside", ["config.json", "config.json and weights"])
def test_an_adapter_in_a_folder_that_holds_a_checkpoint_is_an_adapter(beside, adapter, make_tiny, audio):
    folder, adapted = adapter
    expected, base = local_score(adapted, audio), make_tiny(1)
    save = base.config.save_pretrained if beside == "config.json" else base.save_pretrained
    save(folder)
    base.save_pretrained(folder.parent / "base")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(folder.parent / "base")}))

    assert checkpoints.is_adapter(folder) and expected != approx(local_score(make_tiny(1), audio))
    for made in (
        hf_sqa.pipeline(str(folder), device="cpu"),
        transformers.pipeline("audio-quality", model=str(folder), device="cpu"),
        transformers.pipeline(model=str(folder), device="cpu"),
    ):
        assert made(audio)["mos"] == approx(expected)
    merged = checkpoints.load_checkpoint(folder, merge=True).model
    assert local_score(merged, audio) == pytest.approx(expected, abs=1e-4, rel=0)  # a sum of weights rounds otherwise
    if beside == "config.json":
        with pytest.raises(OSError, match=r"a LoRA adapter beside the configuration of its base: `hf_sqa.AutoModelForAudioQuality"):
            transformers.AutoModel.from_pretrained(folder)


def test_an_adapter_without_peft_says_how_to_get_it(adapter, monkeypatch):
    monkeypatch.setattr(checkpoints, "is_peft_available", lambda: False)

    with pytest.raises(OSError, match=r"is a LoRA adapter, which needs the extra `peft`: `pip install 'hf-sqa\[peft\]'`"):
        hf_sqa.pipeline(str(adapter[0]))


def test_an_adapter_whose_base_is_gone_says_which(hub, fresh, adapter, make_tiny, audio):
    publish_model(make_tiny(1), REPO, license="mit", with_code=False)
    publish(adapter[0], "alice/adapter", license="mit", base_model=REPO)
    hub.api().delete_repo(REPO)

    refused = fresh(SCORE.format(model="alice/adapter", audio=audio))

    assert refused.returncode == 1
    assert f"The adapter 'alice/adapter' belongs to '{REPO}', which cannot be loaded" in refused.stderr


# What is refused


def upload(hub, repo=REPO, **contents):
    hub.api().create_repo(repo, exist_ok=True)
    for path, content in contents.items():
        path = path.replace("__", ".")
        hub.api().upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo)


def refusal(fresh, model, audio, **options):
    result = fresh(command("score", audio, "--model", model), **options)
    assert result.returncode == 2, result.stdout + result.stderr
    return result.stderr


def test_a_missing_repository_gets_the_names_at_hand(hub, fresh, audio):
    told = refusal(fresh, "alice/gone", audio)

    assert "there is no folder 'alice/gone' here, it is no short name (default, distill-mos-v7," in told


def test_a_missing_revision_is_named(hub, fresh, make_tiny, audio):
    publish_model(make_tiny(), REPO, license="mit", with_code=False)

    assert "gone is not a valid git identifier" in refusal(fresh, f"{REPO}@gone", audio)


def test_a_misspelled_short_name_gets_a_suggestion(hub, fresh, audio):
    assert "did you mean 'distill-mos-v7'?" in refusal(fresh, "distil-mos-v7", audio)


def test_a_pickle_in_the_repository_is_refused(hub, fresh, make_tiny, audio, tmp_path):
    torch.save({}, tmp_path / "weights.bin")
    config = json.dumps(make_tiny().config.to_dict()).encode()
    upload(hub, config__json=config, pytorch_model__bin=(tmp_path / "weights.bin").read_bytes())

    told = refusal(fresh, REPO, audio)

    assert "hf_sqa does not read pickled weights (pytorch_model.bin), which can run code" in told
    assert not any("pytorch_model.bin" in request and request.startswith("GET /alice") for request in hub.requests())


def test_a_pickled_adapter_is_refused(hub, fresh, audio):
    pytest.importorskip("peft")
    config = {"peft_type": "LORA", "base_model_name_or_path": REPO, "r": 2, "target_modules": ["linear"]}
    upload(hub, "alice/adapter", adapter_config__json=json.dumps(config).encode(), adapter_model__bin=b"pickle")

    assert "does not read pickled weights (adapter_model.bin)" in refusal(fresh, "alice/adapter", audio)


def test_an_unknown_family_says_who_might_know_it(hub, fresh, audio):
    upload(hub, config__json=b'{"model_type": "sqa_of_tomorrow"}')

    told = refusal(fresh, REPO, audio)

    assert f"is of the family 'sqa_of_tomorrow', which neither hf_sqa {hf_sqa.__version__} (distilled_sqa, " in told
    assert "pip install --upgrade hf-sqa" in told


def test_a_model_that_does_not_score_speech_is_named(hub, fresh, audio):
    upload(hub, config__json=b'{"model_type": "bert"}')

    assert f"'{REPO}' does not score speech: it is a Bert model" in refusal(fresh, REPO, audio)


def test_code_of_a_stranger_is_not_run_without_trust(hub, fresh, audio):
    config = {"model_type": "stranger", "auto_map": {"AutoConfig": "evil.C", "AutoModel": "evil.M"}}
    upload(hub, config__json=json.dumps(config).encode(), evil__py=b"print('I RAN')")

    told = refusal(fresh, REPO, audio)

    assert "I RAN" not in told
    assert "runs code of its own repository" in told and "trust_remote_code=True" in told


def test_options_of_a_newer_version_are_refused_not_ignored(hub, fresh, make_tiny, audio, tmp_path):
    model = make_tiny()
    model.save_pretrained(tmp_path / "new")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    upload(
        hub,
        config__json=json.dumps(config | {"hf_sqa_version": "99.0", "listens_twice": True}).encode(),
        model__safetensors=(tmp_path / "new" / "model.safetensors").read_bytes(),
        preprocessor_config__json=json.dumps(model.make_feature_extractor().to_dict()).encode(),
    )

    told = refusal(fresh, REPO, audio)

    assert "was made by hf_sqa 99.0, this is hf_sqa" in told and "which does not know listens_twice" in told


def test_a_wrong_token_or_no_network_stop_with_one_line(hub, fresh, make_tiny, audio):
    publish_model(make_tiny(), REPO, license="mit", with_code=False)

    for told in (refusal(fresh, REPO, audio, token="hf_" + "z" * 34), refusal(fresh, "alice/other", audio, HTTP_PROXY="")):
        assert told.startswith("hf-sqa: The model ") and len(told.splitlines()) == 1
        assert "zzzz" not in told


# Names


def test_names_and_revisions_are_told_apart(tmp_path, monkeypatch):
    assert split_revision("owner/name@v1.0") == ("owner/name", "v1.0")
    assert split_revision("owner/name@refs/pr/3") == ("owner/name", "refs/pr/3")
    assert split_revision("owner/name") == ("owner/name", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs@night").mkdir()
    assert split_revision("runs@night") == ("runs@night", None)


@pytest.mark.parametrize("name", [name for name in short_names() if name.startswith("xls-r-")])
def test_shipped_heads_have_short_names(name, audio):
    try:
        scorer = hf_sqa.pipeline(name, device="cpu")
    except FileNotFoundError as error:
        pytest.skip(str(error))

    assert scorer.model.config.checkpoint_name == name
    assert 0 < scorer(audio)["mos"] < 6


def test_models_are_listed_from_packages_cache_and_hub(hub, fresh, make_tiny, audio):
    publish_model(make_tiny(), REPO, license="cc-by-4.0", with_code=False)
    publish_model(make_tiny(), "alice/hidden", license="mit", with_code=False, private=True)
    assert fresh(SCORE.format(model=REPO, audio=audio)).returncode == 0

    result = fresh(command("models", "--json"), keep_cache=True)

    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    found = {(row["name"], row["where"], row["license"]) for row in rows}
    assert ("distill-mos-v7", "shipped", "mit") in found
    assert (REPO, "cached", "") in found
    assert (REPO, "hub", "cc-by-4.0") in found
    assert not any(row["name"] == "alice/hidden" for row in rows)


def test_a_hub_that_does_not_answer_leaves_the_other_models_listed(hub, fresh):
    hub.control(fault={"match": "GET /api/models", "status": 403, "times": 1})

    result = fresh(command("models"))

    assert result.returncode == 0
    assert "distill-mos-v7" in result.stdout
    assert "models on the Hub are left out" in result.stderr


# The whole way

TRAIN = """
from hf_sqa.training import run_recipe
rows = [{{"audio": {audio!r}, "mos": 1.0 + number % 4, "utterance_id": str(number)}} for number in range(4)]
recipe = {{
    "model": {model},
    "training": {{"max_steps": 2, "per_device_train_batch_size": 2, "eval_strategy": "no", "save_strategy": "no", "use_cpu": True,
                  "learning_rate": 0.01}},
    "output_dir": "finetuned",
}}
result = run_recipe(recipe, train_dataset=rows, announce=lambda line: None)
import hf_sqa
print(hf_sqa.pipeline({folder!r}, device="cpu", dtype="float32")({audio!r})["mos"])
"""


def number(result):
    assert result.returncode == 0, result.stderr
    return float(result.stdout.split()[-1])


@pytest.mark.slow
def test_fine_tuned_pushed_and_pulled_in_three_processes_the_score_is_the_same(hub, fresh, tiny_folder, audio, tmp_path):
    model = f'{{"checkpoint": {str(tiny_folder)!r}}}'
    trained = number(fresh(TRAIN.format(model=model, audio=audio, folder="finetuned")))
    pushed = fresh(command("push", "finetuned", REPO, "--license", "mit", "--language", "sw", "--without-code"), token=ALICE)
    pulled = fresh(f"import hf_sqa; print(hf_sqa.pipeline({REPO!r}, device='cpu')({audio!r})['mos'])", folder="/")

    assert pushed.returncode == 0, pushed.stderr
    assert "recipe.yaml" in pushed.stdout
    assert number(pulled) == approx(trained) != approx(hf_sqa.pipeline(str(tiny_folder), device="cpu")(audio)["mos"])


@pytest.mark.slow
def test_an_adapter_goes_the_same_way(hub, fresh, make_tiny, audio, tmp_path):
    pytest.importorskip("peft")
    publish_model(make_tiny(), REPO, license="mit", with_code=False)
    model = f'{{"checkpoint": "{REPO}", "lora": {{"r": 2, "alpha": 4}}}}'
    trained = number(fresh(TRAIN.format(model=model, audio=audio, folder="finetuned/adapter")))
    pushed = fresh(command("push", "finetuned/adapter", "alice/adapter", "--license", "mit", "--base", REPO), token=ALICE)
    pulled = fresh(f"import hf_sqa; print(hf_sqa.pipeline('alice/adapter', device='cpu')({audio!r})['mos'])", folder="/")

    assert pushed.returncode == 0, pushed.stderr
    assert number(pulled) == approx(trained) != approx(local_score(make_tiny(), audio))


@pytest.mark.slow
def test_the_trainer_of_transformers_pushes_what_can_be_pulled(hub, fresh, tiny_folder, audio):
    code = f"""
import torch, transformers, hf_sqa
model = hf_sqa.AutoModelForAudioQuality.from_pretrained({str(tiny_folder)!r})
extractor = model.make_feature_extractor()
row = {{"input_values": torch.randn(16000), "attention_mask": torch.ones(16000).long(), "labels": torch.tensor([2.0])}}
rows = [row] * 4
arguments = transformers.TrainingArguments("out", max_steps=2, push_to_hub=True, hub_model_id="{REPO}", use_cpu=True,
    report_to="none", label_names=["labels"], learning_rate=0.01, disable_tqdm=True)
transformers.Trainer(model, arguments, train_dataset=rows, processing_class=extractor).train()
"""
    code += "transformers.Trainer(model, arguments, train_dataset=rows, processing_class=extractor).push_to_hub()\n"
    code += "pipe = hf_sqa.pipelines.AudioQualityPipeline(model=model.eval(), feature_extractor=extractor, device='cpu')\n"
    code += f"print(pipe({audio!r})['mos'])"
    trained = number(fresh(code, token=ALICE))

    assert number(fresh(f"import hf_sqa; print(hf_sqa.pipeline({REPO!r}, device='cpu')({audio!r})['mos'])")) == approx(trained)


@pytest.mark.slow
def test_our_trainer_checks_before_it_pushes_what_can_be_pulled(hub, fresh, tiny_folder, audio):
    code = f"""
import numpy, hf_sqa
from hf_sqa.training import AudioQualityTrainer, AudioQualityTrainingArguments
model = hf_sqa.AutoModelForAudioQuality.from_pretrained({str(tiny_folder)!r})
noise = numpy.random.default_rng(0).standard_normal(16000).astype("float32")
rows = [{{"audio": {{"array": noise, "sampling_rate": 16000}}, "mos": 2.0}}] * 4
arguments = AudioQualityTrainingArguments("out", max_steps=2, push_to_hub=True, hub_model_id="{REPO}", use_cpu=True,
    learning_rate=0.01, eval_strategy="no", save_strategy="no")
trainer = AudioQualityTrainer(model, arguments, train_dataset=rows)
trainer.train()
"""
    refused = fresh(code + "trainer.push_to_hub()", token=ALICE)
    assert refused.returncode != 0 and "licen" in refused.stderr
    assert not hub.writes()

    code += "trainer.push_to_hub(license='mit', with_code=False)\n"
    code += "extractor = trainer.processing_class\n"
    code += "pipe = hf_sqa.pipelines.AudioQualityPipeline(model=model.eval(), feature_extractor=extractor, device='cpu')\n"
    code += f"print(pipe({audio!r})['mos'])"
    trained = number(fresh(code, token=ALICE))

    assert number(fresh(f"import hf_sqa; print(hf_sqa.pipeline({REPO!r}, device='cpu')({audio!r})['mos'])")) == approx(trained)
