"""Publishing: what is checked before a byte leaves, what arrives, and that a push survives being killed at any request."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from huggingface_hub import ModelCard

import hf_sqa
from hf_sqa.checkpoint_files import checkpoint_files
from hf_sqa.hub.publish import PublishError, publish, publish_model
from tests.hub.conftest import ALICE, BOB
from tests.processes import command

REPO = "alice/tiny-mos"
COMPLETE = {"README.md", "config.json", "model.safetensors", "parity.json", "preprocessor_config.json", "sample.flac"}


def push(folder, repo_id=REPO, **options):
    return publish(folder, repo_id, **{"license": "mit", "with_code": False, **options})


def published(hub, revision=None, repo=REPO):
    return set(hub.api().list_repo_files(repo, revision=revision)) - {".gitattributes"}


def test_one_commit_holds_weights_configuration_extractor_card_and_sample(hub, checkpoint):
    done = push(checkpoint)

    assert done.changed and set(done.files) == published(hub) == COMPLETE
    assert [commit.title.split(" with ")[0] for commit in hub.api().list_repo_commits(REPO)] == ["Publish", "initial commit"]
    assert sum("/commit/main" in request for request in hub.writes()) == 1


def test_the_folder_is_left_as_it_was(hub, checkpoint):
    before = {path.name: path.read_bytes() for path in checkpoint.iterdir()}

    push(checkpoint)

    assert {path.name: path.read_bytes() for path in checkpoint.iterdir()} == before


def test_the_sample_that_travels_has_the_scores_of_the_model(hub, checkpoint, tmp_path):
    push(checkpoint)
    api = hub.api()
    parity = json.loads(Path(api.hf_hub_download(REPO, "parity.json", cache_dir=tmp_path)).read_text())
    sample = api.hf_hub_download(REPO, "sample.flac", cache_dir=tmp_path)

    scored = hf_sqa.pipeline(str(checkpoint), device="cpu")(sample, return_details=True)

    assert scored["mos"] == pytest.approx(parity["scores"]["mos"], abs=1e-5)
    assert parity["weights"] == scored["model"]["weights"]
    assert parity["preprocessing"] == scored["model"]["preprocessing"]


def test_pushing_again_changes_nothing(hub, checkpoint):
    first, second = push(checkpoint), push(checkpoint)

    assert (second.commit, second.changed) == (first.commit, False)


def test_a_dry_run_lists_what_would_go_and_sends_nothing(hub, checkpoint, fresh):
    (checkpoint / "notes.txt").write_text("mine")
    (checkpoint / "training_args.bin").write_bytes(b"pickle")

    result = fresh(command("push", checkpoint, REPO, "--dry-run", "--license", "mit", "--without-code"), token=ALICE)

    assert result.returncode == 0, result.stderr
    assert hub.requests() == []
    assert all(name in result.stdout for name in COMPLETE)
    assert "notes.txt (not part of a checkpoint)" in result.stdout
    assert "training_args.bin (state of a training run, pickled)" in result.stdout
    assert "Nothing was sent" in result.stdout


def test_private_branch_and_pull_request(hub, checkpoint):
    push(checkpoint, private=True)
    assert hub.api().model_info(REPO).private

    on_branch = push(checkpoint, revision="next", message="second")
    assert published(hub, "next") == COMPLETE and on_branch.url.endswith("/tree/next")

    torch.manual_seed(5)
    other = hf_sqa.DistilledSQA(hf_sqa.DistilledSQAConfig.tiny())
    done = publish_model(other, REPO, create_pr=True, license="mit", with_code=False)
    assert done.url.endswith("/discussions/1")
    assert hub.api().model_info(REPO).sha != done.commit


def test_a_model_in_memory_is_published_with_the_extractor_it_needs(hub, make_tiny):
    done = publish_model(make_tiny(), REPO, license="mit", with_code=False)

    assert set(done.files) == COMPLETE


def test_files_of_an_earlier_push_do_not_linger(hub, checkpoint):
    push(checkpoint)
    for name in ("modeling.py", "model-00001-of-00002.safetensors", "notes.md"):
        hub.api().upload_file(path_or_fileobj=b"# old", path_in_repo=name, repo_id=REPO)

    done = push(checkpoint)

    assert set(done.removed) == {"modeling.py", "model-00001-of-00002.safetensors"}
    assert published(hub) == COMPLETE | {"notes.md"}


def test_a_model_pushes_itself_with_the_same_checks(hub, make_tiny):
    with pytest.raises(PublishError, match=r'lacks the licence of the weights.*license="mit"'):
        make_tiny().push_to_hub(REPO, with_code=False)
    assert hub.requests() == []

    done = make_tiny().push_to_hub(REPO, commit_message="First", license="mit", private=True, with_code=False)

    assert published(hub) == COMPLETE and done.commit == hub.api().list_repo_commits(REPO)[0].commit_id
    assert hub.api().list_repo_commits(REPO)[0].title == "First"


def test_what_a_training_run_uploaded_beside_the_weights_is_cleared_away(hub, checkpoint):
    hub.api().create_repo(REPO)
    hub.api().upload_file(path_or_fileobj=b"pickle", path_in_repo="training_args.bin", repo_id=REPO)

    assert push(checkpoint).removed == ["training_args.bin"]
    assert published(hub) == COMPLETE


# What is refused


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "model.ckpt"])
def test_a_pickle_is_refused(hub, checkpoint, name):
    torch.save({}, checkpoint / name)

    with pytest.raises(PublishError, match=rf"safetensors only, got {name}.*can run code"):
        push(checkpoint)
    assert hub.requests() == []


def test_a_pickle_that_is_in_the_repository_already_is_refused(hub, checkpoint):
    hub.api().create_repo(REPO)
    hub.api().upload_file(path_or_fileobj=b"x", path_in_repo="pytorch_model.bin", repo_id=REPO)

    with pytest.raises(PublishError, match=r"holds pytorch_model\.bin.*Delete it"):
        push(checkpoint)


def test_a_card_without_a_licence_is_refused(hub, checkpoint):
    with pytest.raises(PublishError, match=r"lacks the licence of the weights: .*`--license mit`"):
        publish(checkpoint, REPO, with_code=False)
    assert hub.requests() == []


def test_a_card_that_lost_a_section_is_completed_not_refused(hub, checkpoint):
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nBy hand.\n")

    card = publish(checkpoint, REPO, with_code=False).card

    assert "By hand." in card and "## Limits" in card


def test_weights_that_do_not_fit_are_refused(hub, checkpoint):
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if "score_head" in name)
    del weights[name]
    safetensors.torch.save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(PublishError, match=rf"do not fit the configuration \(missing: {name}"):
        push(checkpoint)


def test_damaged_weights_are_refused(hub, checkpoint):
    weights = safetensors.torch.load_file(checkpoint / "model.safetensors")
    spoiled = {name: value * float("nan") if value.is_floating_point() else value for name, value in weights.items()}
    safetensors.torch.save_file(spoiled, checkpoint / "model.safetensors", metadata={"format": "pt"})

    with pytest.raises(PublishError, match=r"does not load: The weights in .* are not all numbers"):
        push(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(PublishError, match="does not load"):
        push(checkpoint)


def test_a_folder_without_weights_or_configuration_is_refused(hub, checkpoint, tmp_path):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(PublishError, match=r"Expected weights in .*got none"):
        push(checkpoint)
    with pytest.raises(FileNotFoundError, match=r"config\.json or adapter_config\.json"):
        push(tmp_path)


@pytest.mark.parametrize(
    "line",
    ["see /Users/me/data/clips", "from ~/models/base", "C:\\Users\\me\\x.wav", "file:///srv/corpus", "trained in /scratch/u/run1"],
)
def test_a_path_of_this_machine_is_refused(hub, checkpoint, line):
    (checkpoint / "README.md").write_text(f"---\nlicense: mit\n---\n# Mine\n\n{line}\n")

    with pytest.raises(PublishError, match=r"README\.md, line \d+, names a path of this machine"):
        push(checkpoint)
    assert hub.requests() == []


def test_the_folder_one_works_in_is_refused_wherever_it_is(hub, checkpoint, monkeypatch):
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint / "README.md").write_text(f"---\nlicense: mit\n---\n# Mine\n\nSee {checkpoint.parent}/x, https://example.org/me.\n")

    with pytest.raises(PublishError, match=r"README\.md, line \d+, names a path of this machine"):
        push(checkpoint)


def test_addresses_on_the_web_are_no_paths(hub, checkpoint):
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Mine\n\nSee https://example.org/data/me and and/or.\n")

    assert push(checkpoint).changed


def test_paths_in_a_recipe_are_shortened_and_configurations_forget_where_they_came_from(hub, checkpoint, tmp_path):
    recipe = {"data": {"train": [{"corpus": "nisqa/TRAIN_SIM", "root": "/data/NISQA"}, {"table": "../mine/labels.csv"}]}}
    (checkpoint / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"_name_or_path": "/mnt/me/base"}))

    push(checkpoint)

    pulled = Path(hub.api().hf_hub_download(REPO, "recipe.yaml", cache_dir=tmp_path)).read_text()
    assert yaml.safe_load(pulled)["data"]["train"] == [{"corpus": "nisqa/TRAIN_SIM", "root": "NISQA"}, {"table": "labels.csv"}]
    assert "/mnt/me" not in Path(hub.api().hf_hub_download(REPO, "config.json", cache_dir=tmp_path)).read_text()


def test_a_token_in_a_file_is_refused(hub, checkpoint):
    (checkpoint / "recipe.yaml").write_text(f"training:\n  hub_token: {ALICE}\n")

    with pytest.raises(PublishError, match=r"recipe\.yaml, line 2, holds what looks like a token"):
        push(checkpoint)


@pytest.mark.parametrize("name", ["just-a-name", "a/b/c", "owner/na me", "owner/-x"])
def test_a_bad_name_is_refused(hub, checkpoint, name):
    with pytest.raises(PublishError, match="Expected a repository as `owner/name`"):
        push(checkpoint, name)


def test_a_model_of_an_unknown_family_is_refused(hub, checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "hubert"}))

    with pytest.raises(ValueError, match=r"one of the families distilled_sqa, .*got model_type='hubert'"):
        push(checkpoint)


# What the Hub says no to


def test_a_wrong_token_is_named_as_the_cause_and_not_shown(hub, checkpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "z" * 34)

    with pytest.raises(PublishError, match=r"does not accept the token; log in with `hf auth login`") as caught:
        push(checkpoint)
    assert "zzzz" not in str(caught.value)


def test_no_token_is_told(hub, checkpoint, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")

    with pytest.raises(PublishError, match="token"):
        push(checkpoint)


def test_a_name_in_somebody_elses_space_is_refused(hub, checkpoint):
    with pytest.raises(PublishError, match="may not write to bob/tiny: choose a name of your own"):
        push(checkpoint, "bob/tiny")


def test_a_name_taken_by_another_kind_of_model_is_refused_unless_asked(hub, checkpoint):
    hub.api().create_repo(REPO)
    hub.api().upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id=REPO)

    with pytest.raises(PublishError, match="is taken by a model of type 'bert'; choose another, or pass --replace"):
        push(checkpoint)
    assert push(checkpoint, replace=True).changed


def test_a_private_repository_of_somebody_else_is_not_told_from_a_missing_one(hub, checkpoint):
    hub.api(BOB).create_repo("bob/secret", private=True)

    with pytest.raises(PublishError, match="may not write to bob/secret"):
        push(checkpoint, "bob/secret")


def test_a_pull_request_needs_a_repository(hub, checkpoint):
    with pytest.raises(PublishError, match="does not exist: a pull request needs a repository"):
        push(checkpoint, create_pr=True)


@pytest.mark.parametrize(
    ("where", "status", "told"),
    [
        ("PUT /_lfs/", 413, "refuses the size of a file"),
        ("POST .*/commit/", 402, "no room left"),
        ("POST .*/commit/", 412, "Somebody pushed in the meantime"),
        ("POST .*/commit/", 429, "too many requests|Push again"),
    ],
)
def test_refusals_for_quota_size_and_order_say_what_to_do_and_leave_nothing_half_done(
    hub, checkpoint, where, status, told, monkeypatch
):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.control(fault={"match": where, "status": status, "times": 50})

    with pytest.raises(PublishError, match=told):
        push(checkpoint)

    assert published(hub) == set()
    hub.control(forget=True)
    push(checkpoint)
    assert published(hub) == COMPLETE


def test_a_busy_hub_is_asked_again(hub, checkpoint, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    hub.control(fault={"match": "PUT /_lfs/", "status": 503, "times": 2})

    assert push(checkpoint).changed and published(hub) == COMPLETE


def test_a_push_in_between_is_noticed(hub, checkpoint, monkeypatch):
    push(checkpoint)
    api = hub.api()
    real = type(api).preupload_lfs_files

    def meanwhile(self, *arguments, **options):
        monkeypatch.setattr(type(api), "preupload_lfs_files", real)
        api.upload_file(path_or_fileobj=b"theirs", path_in_repo="theirs.txt", repo_id=REPO)
        return real(self, *arguments, **options)

    monkeypatch.setattr(type(api), "preupload_lfs_files", meanwhile)

    with pytest.raises(PublishError, match="Somebody pushed in the meantime; nothing was changed"):
        push(checkpoint, license="apache-2.0")


def test_without_a_network_the_message_says_so(hub, checkpoint, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match="cannot be reached"):
        push(checkpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set; unset it"):
        push(checkpoint)


def test_the_token_is_neither_printed_nor_logged(hub, fresh, checkpoint):
    code = "import logging, huggingface_hub; logging.basicConfig(level=1); huggingface_hub.logging.set_verbosity_debug()\n"
    pushed = fresh(code + command("push", checkpoint, REPO, "--license", "mit", "--without-code"), token=ALICE)
    refused = fresh(code + command("push", checkpoint, "bob/x", "--license", "mit", "--without-code"), token=ALICE)

    assert (pushed.returncode, refused.returncode) == (0, 2)
    assert ALICE not in pushed.stdout + pushed.stderr + refused.stdout + refused.stderr


# Adapters


@pytest.fixture(scope="module")
def make_adapter(make_tiny):
    peft = pytest.importorskip("peft")

    def make(folder, base, base_folder):
        model = hf_sqa.AutoModelForAudioQuality.from_pretrained(base_folder)
        modules = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)][:2]
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=modules, init_lora_weights=False))
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
        return folder

    return make


def test_an_adapter_whose_base_is_a_folder_is_refused_with_the_remedy(hub, checkpoint, make_adapter, tmp_path):
    make_adapter(tmp_path / "adapter", str(checkpoint), checkpoint)

    with pytest.raises(PublishError, match=r"a folder of this machine; push that model first, then name it with `--base"):
        push(tmp_path / "adapter", "alice/adapter")


def test_an_adapter_whose_base_is_not_on_the_hub_is_refused(hub, checkpoint, make_adapter, tmp_path):
    make_adapter(tmp_path / "adapter", "alice/gone", checkpoint)

    with pytest.raises(PublishError, match="'alice/gone', which is not on the Hub or not visible to you"):
        push(tmp_path / "adapter", "alice/adapter")


def test_an_adapter_is_published_over_a_base_on_the_hub(hub, fresh, checkpoint, make_adapter, tmp_path):
    push(checkpoint)
    make_adapter(tmp_path / "adapter", str(checkpoint), checkpoint)
    (tmp_path / "adapter" / "README.md").unlink()

    done = fresh(command("push", tmp_path / "adapter", "alice/adapter", "--license", "mit", "--base", REPO), token=ALICE)

    assert done.returncode == 0, done.stderr
    files = {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "parity.json",
        "preprocessor_config.json",
        "sample.flac",
    }
    assert published(hub, repo="alice/adapter") == files
    card = ModelCard.load("alice/adapter")
    assert card.data.base_model == REPO and "lora" in card.data.tags


def test_of_a_checkpoint_in_the_folder_of_an_adapter_nothing_is_published(hub, checkpoint, make_adapter, tmp_path):
    make_adapter(tmp_path / "adapter", "distill-mos-v7", checkpoint)
    for name in ("config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        (tmp_path / "adapter" / name).write_bytes((checkpoint / "config.json").read_bytes())

    left_out = checkpoint_files(tmp_path / "adapter")[1]

    assert {name for name, reason in left_out.items() if reason == "part of the adapter's base"} == {
        "config.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
    }


def test_code_does_not_travel_with_an_adapter(hub, checkpoint, make_adapter, tmp_path):
    make_adapter(tmp_path / "adapter", "distill-mos-v7", checkpoint)
    with pytest.raises(PublishError, match="got a LoRA adapter: merge it first"):
        push(tmp_path / "adapter", "alice/adapter", with_code=True)


# Killed


KILLED = """
import json, os, sys, tempfile, urllib.request
tempfile.tempdir = os.getcwd()  # what is killed removes nothing
order = json.dumps({{"forget": True, "kill": {{"at": {at}, "when": "{when}", "pid": os.getpid()}}}}).encode()
urllib.request.urlopen(urllib.request.Request("{hub}/_control", data=order, method="POST")).read()
from hf_sqa.hub.publish import publish
publish({folder!r}, "{repo}", license="apache-2.0", revision={revision!r}, with_code=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("situation", ["new repository", "new version", "new branch"])
def test_a_push_killed_at_any_request_leaves_all_or_nothing_and_the_next_one_finishes(situation, hub, fresh, make_tiny, tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, seed in ((old, 1), (new, 2)):
        model = make_tiny(seed)
        model.save_pretrained(folder)
        model.make_feature_extractor().save_pretrained(folder)
    revision = "next" if situation == "new branch" else None

    def state():
        api = hub.api()
        if not api.repo_exists(REPO):
            return {}
        branches = {branch.name for branch in api.list_repo_refs(REPO).branches}
        tree = api.list_repo_tree(REPO, revision=revision if revision in branches else "main")
        return {entry.path: entry.blob_id for entry in tree if entry.path != ".gitattributes"}

    def start():
        hub.control(forget=True, erase=True)
        if situation != "new repository":
            push(old)
        hub.control(forget=True)

    start()
    before = state()
    push(new, revision=revision, license="apache-2.0")
    complete = state()
    assert complete != before

    # What the Hub holds before a request is what it holds after the one before it, so only the first is stopped on its way in.
    seen, at, when, killed = set(), 1, "before", True
    while killed:
        start()
        code = KILLED.format(at=at, when=when, hub=hub.address, folder=str(new), repo=REPO, revision=revision)
        result = fresh(code, token=ALICE)
        killed = result.returncode == -9
        assert killed or result.returncode == 0, result.stderr
        hub.control(forget=True)
        found = state()
        assert found in (before, complete), f"half a repository {when} request {at}"
        seen.add(found == complete)
        if killed:
            push(new, revision=revision, license="apache-2.0")
            assert state() == complete
        at, when = (at, "after") if when == "before" else (at + 1, "after")
    assert at > 8 and seen == {False, True}


def test_ctrl_c_is_told_with_exit_code_130(hub, fresh, checkpoint):
    code = "import huggingface_hub\n"
    code += "def stop(*a, **k): raise KeyboardInterrupt\n"
    code += "huggingface_hub.HfApi.create_commit = stop\n"
    result = fresh(code + command("push", checkpoint, REPO, "--license", "mit", "--without-code"), token=ALICE)

    assert result.returncode == 130
    assert "unchanged or complete" in result.stderr


def test_leftovers_of_training_stay_at_home(hub, checkpoint):
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        torch.save({}, checkpoint / name)
    shutil.copytree(checkpoint, checkpoint / "checkpoint-10")

    done = push(checkpoint)

    assert set(done.files) == COMPLETE
    assert set(done.left_out) == {"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "checkpoint-10/"}


def test_a_pipeline_pushes_its_model_with_the_extractor_beside_it(hub, make_tiny):
    model = make_tiny()
    pipe = hf_sqa.pipeline(model=model, feature_extractor=model.make_feature_extractor(), device="cpu")

    done = pipe.push_to_hub(REPO, license="mit", dry_run=True, with_code=False)

    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= set(done.files)
    assert "custom_pipelines" not in model.config.to_dict()
