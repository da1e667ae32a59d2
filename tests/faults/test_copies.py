"""What is copied out of a checkpoint's folder: its own files, no pickles, nothing that a link points to elsewhere."""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.checkpoint_files import COPIED, checkpoint_files, copy_checkpoint
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.cli import app
from hf_sqa.demo.folder import write_space
from hf_sqa.hub.card import write_card
from hf_sqa.hub.publish import publish

SECRET = "root:x:0:0:the secret of this machine"


@pytest.fixture
def folder(tiny_folder, tmp_path):
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "elsewhere" / "secret.txt"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


#: Every way out of a folder: `(command)(folder, target)`.
WAYS_OUT = {
    "a Space": lambda folder, target: write_space(target, [str(folder)]),
    "a push": lambda folder, target: publish(folder, "alice/model", license="mit", dry_run=True),
    "a copy": lambda folder, target: copy_checkpoint(folder, target),
}


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", "NOTICE.txt", "report.json", "recipe.yaml", "model-2.safetensors", "base.json"]
)
def test_a_link_that_leaves_the_folder_is_refused_and_nothing_is_copied(name, way, folder, secret, tmp_path):
    (folder / name).symlink_to(secret)

    with pytest.raises(ValueError, match=rf"got {name}, a link to '{secret}' outside of it.*Replace the link"):
        WAYS_OUT[way](folder, tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize(
    "link", ["../elsewhere/secret.txt", "/dev/null", "gone", "../checkpoint/../elsewhere/secret.txt", "LICENSE"]
)
def test_a_link_is_judged_by_where_it_ends(link, way, folder, secret, tmp_path):
    (folder / "LICENSE").symlink_to(link)

    with pytest.raises((ValueError, OSError), match=r"LICENSE|\[Errno"):
        WAYS_OUT[way](folder, tmp_path / "out")

    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", WAYS_OUT)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "state.npz", "model.h5", "old.ckpt"])
def test_pickled_weights_are_refused(name, way, folder, tmp_path):
    (folder / name).write_bytes(b"\x80\x04cos\nsystem\n")

    with pytest.raises(ValueError, match=f"Expected weights as safetensors only, got {name}"):
        WAYS_OUT[way](folder, tmp_path / "out")


def test_what_a_training_left_and_what_is_hidden_stays(folder, secret, tmp_path):
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", ".env", "notes.txt", "wandb.log"):
        (folder / name).write_text(SECRET)
    for name in ("checkpoint-5", ".git", "logs"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text(SECRET)
    (folder / "home").symlink_to(secret.parent)
    (folder / "report.json").write_text(json.dumps({"evaluation": [], "data": "clips of mine"}))

    written = write_space(tmp_path / "space", [str(folder)]) / "models" / "checkpoint"

    assert {path.name for path in written.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert load_checkpoint(written).model is not None
    assert set(checkpoint_files(folder)[1]) >= {"optimizer.pt", ".env", "home/", "checkpoint-5/"}


def test_links_within_the_folder_and_of_the_cache_are_files(folder, tmp_path):
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs.mkdir(parents=True), snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (folder / "LICENSE.txt").write_text("free")
    (folder / "LICENSE").symlink_to("LICENSE.txt")

    for place in (snapshot, folder):
        copy_checkpoint(place, tmp_path / f"copy of {place.name}")
        copies = list((tmp_path / f"copy of {place.name}").iterdir())
        assert len(copies) >= 3 and not any(path.is_symlink() for path in copies)


def test_a_link_out_of_the_blobs_of_a_cache_is_refused(folder, secret, tmp_path):
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "0").symlink_to(secret)
    snapshot = Path(shutil.copytree(folder, tmp_path / "models--a--b" / "snapshots" / "0123"))
    (snapshot / "README.md").symlink_to("../../blobs/0")

    with pytest.raises(ValueError, match="a link to"):
        copy_checkpoint(snapshot, tmp_path / "out")


def test_a_pipe_is_not_waited_for(folder, tmp_path):
    os.mkfifo(folder / "LICENSE")

    for way in WAYS_OUT.values():
        with pytest.raises(ValueError, match="Expected a file, got LICENSE"):
            way(folder, tmp_path / "out")


@pytest.mark.parametrize("name", ["README.md", "recipe.yaml", "report.json", "evaluation.json", "training_result.json"])
def test_a_card_is_not_made_of_what_a_link_points_to(name, folder, secret):
    (folder / name).symlink_to(secret)

    with pytest.raises(ValueError, match=f"got {name}, a link"):
        write_card(folder, license="mit")


def test_the_commands_say_it_in_one_line(folder, secret, tmp_path):
    (folder / "README.md").symlink_to(secret)
    commands = (
        ["demo", "--model", str(folder), "--write-space", str(tmp_path / "out")],
        ["push", str(folder), "alice/model", "--license", "mit", "--dry-run"],
        ["card", str(folder), "--license", "mit"],
    )

    for command in commands:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2, command
        assert "README.md, a link to" in " ".join(result.stderr.split()) and SECRET not in result.output


def test_what_is_made_of_a_checkpoint_names_no_code_of_strangers(folder, tmp_path):
    from hf_sqa.finetune.folder import write_checkpoint

    code = {"auto_map": {"AutoModel": "stranger/code--modeling.Evil"}, "custom_pipelines": {"audio-quality": {"impl": "evil.Evil"}}}
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | code))
    loaded = load_checkpoint(folder)
    hf_sqa.pipeline(str(folder), device="cpu").save_pretrained(tmp_path / "pipeline")
    write_checkpoint(tmp_path / "tuned", loaded.model, loaded.feature_extractor, {}, "tuned", (str(folder), "base"), None)
    loaded.model.config.save_pretrained(tmp_path / "graph")  # as the export of a graph does, which takes long

    written = [path for path in tmp_path.rglob("*config.json") if not path.is_relative_to(folder)]
    assert len(written) == 5, written
    assert [path for path in written if "vil" in path.read_text()] == []
    assert not set(code) & set(loaded.model.config.to_dict())


def test_only_these_files_are_copied():
    assert not [pattern for pattern in COPIED if pattern.startswith("*")]
