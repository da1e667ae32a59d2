"""Fine-tuning on a small listening test: the whole command on a tiny model, and what must not be able to go wrong in it."""

import csv
import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.cli import app
from hf_sqa.data import load_corpus
from hf_sqa.finetune import run as finetune_module
from hf_sqa.finetune.before_after import compare_before_after
from hf_sqa.finetune.plan import choose_groups, make_plan, schema_column, shared_values
from hf_sqa.finetune.run import finetune
from hf_sqa.finetune.settings import FinetuneOptions
from hf_sqa.metrics import agreement
from hf_sqa.runs import RunMismatch
from hf_sqa.training.front_memory import FrontMemory
from tests.processes import command, wait_until

RATE = 16_000
TALKERS, CLIPS_EACH = 8, 4


@pytest.fixture(scope="module")
def rated(tmp_path_factory) -> Path:
    """A table of 32 clips of eight talkers, the noisier the worse."""
    folder = tmp_path_factory.mktemp("rated")
    rng = np.random.default_rng(0)
    seconds = np.arange(round(0.7 * RATE)) / RATE
    rows = []
    for talker in range(TALKERS):
        for number in range(CLIPS_EACH):
            voice = sum(np.sin(2 * np.pi * (100 + 12 * talker) * k * seconds) / k for k in range(1, 20))
            mos = 1.2 + 3.6 * number / (CLIPS_EACH - 1)
            noise = rng.standard_normal(len(seconds)) * 10 ** (-0.8 * number)
            waveform = 0.1 * voice + 0.05 * noise
            name = f"t{talker}_{number}.wav"
            soundfile.write(folder / name, waveform / np.abs(waveform).max() / 2, RATE)
            rows.append({"audio": name, "mos": f"{mos + 0.1 * rng.standard_normal():.3f}", "talker": f"t{talker}"})
    _write(folder / "rated.csv", rows)
    return folder / "rated.csv"


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _changed(rated: Path, target: Path, change) -> Path:
    """A copy of the table, its audio by whole path, with every row changed."""
    rows = []
    for number, row in enumerate(_rows(rated)):
        row = change(number, {**row, "audio": str(rated.parent / row["audio"])})
        if row is not None:
            rows.append(row)
    return _write(target, rows)


@pytest.fixture
def scored(rated, tiny_scorer, tmp_path) -> Path:
    """The clips with listeners who use the scale as the tiny model does, at half its width and 0.7 higher."""
    table = _changed(rated, tmp_path / "scored.csv", lambda number, row: row)
    scores = tiny_scorer([row["audio"] for row in _rows(table)])
    return _changed(rated, table, lambda number, row: row | {"mos": str(0.7 + scores[number]["mos"] / 2)})


def loaded(checkpoint: str | Path):
    return load_checkpoint(str(checkpoint), merge=True, dtype="float32").model


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["finetune", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture(scope="module")
def held_out(rated, tiny_folder, tmp_path_factory):
    """A fine-tuned tiny model, a fifth of the clips held out, with its report."""
    folder = tmp_path_factory.mktemp("held-out") / "finetuned"
    code, output = run(
        *("--model", tiny_folder, "--train", rated, "--folds", 0, "--epochs", 2, "--device", "cpu", "--output", folder)
    )
    assert code == 0, output
    return folder, json.loads((folder / "report.json").read_text(encoding="utf-8")), output


def test_the_saved_folder_gives_the_scores_of_the_report(held_out, rated):
    folder, _, _ = held_out
    score = hf_sqa.pipeline(str(folder), device="cpu")

    for row in _rows(folder / "predictions.csv"):
        assert score(str(rated.parent / Path(row["file"]).name))["mos"] == pytest.approx(float(row["mos_after"]), abs=1e-4)


def test_few_held_out_clips_give_no_interval_and_say_so(held_out):
    folder, report, _ = held_out

    assert report["score_intervals"] is None and json.loads((folder / "config.json").read_text())["score_intervals"] is None
    assert any(remark.startswith("No interval of mos is calibrated: Expected 20 rated") for remark in report["remarks"])


def test_before_are_the_scores_of_the_original(held_out, rated, tiny_scorer):
    folder, _, _ = held_out

    for row in _rows(folder / "predictions.csv"):
        assert tiny_scorer(str(rated.parent / Path(row["file"]).name))["mos"] == pytest.approx(float(row["mos_before"]), abs=1e-5)


def test_the_numbers_of_the_report_follow_from_the_table_of_predictions(held_out):
    folder, report, _ = held_out
    rows = _rows(folder / "predictions.csv")
    labels = [float(row["mos_label"]) for row in rows]

    for what in ("before", "after"):
        told = report["scores"]["mos"]["agreement"][what]
        found = agreement([float(row[f"mos_{what}"]) for row in rows], labels)
        assert {metric: told[metric]["value"] for metric in told} == pytest.approx({m: found[m] for m in told}, abs=1e-4)


def test_training_moved_the_weights_that_are_not_frozen_and_no_others(held_out, tiny_folder):
    folder, _, _ = held_out
    before, after = (loaded(one).state_dict() for one in (tiny_folder, folder))

    moved = {name for name in before if not torch.equal(before[name], after[name])}

    assert moved
    assert all(name.startswith(("transformer.pooling.", "transformer.layers.")) for name in moved)


def test_the_card_tells_intervals_and_the_verdict(scored, tiny_folder, tmp_path):
    folder = tmp_path / "calibrated"
    table = _changed(scored, scored, lambda number, row: row | {"mos": str(float(row["mos"]) + 0.02 * np.sin(number))})
    code, output = run("--model", tiny_folder, "--train", table, "--calibrate", "first", "--output", folder)
    assert code == 0, output

    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    interval = report["scores"]["mos"]["agreement"]["after"]["utt_rmse"]

    assert report["verdict"] in card
    assert f"{interval['value']:.3f} | {interval['low']:.3f} to {interval['high']:.3f}" in card


def test_the_command_prints_before_and_after(held_out):
    _, report, output = held_out

    assert report["verdict"][:40] in output
    assert "before" in output and "after" in output


def test_cross_fitting_judges_every_clip_by_a_model_that_did_not_meet_its_talker():
    groups = [f"t{number % 6}" for number in range(60)]

    plan = make_plan(np.linspace(1, 5, 60), groups, seed=3)

    assert plan.kind == "crossfit" and len(plan.parts) == 5
    for part in plan.parts:
        met = {groups[row] for row in [*part.train, *part.validation]}
        assert not met & {groups[row] for row in part.test}
        assert not {groups[row] for row in part.train} & {groups[row] for row in part.validation}
    assert sorted(np.concatenate([part.test for part in plan.parts])) == list(range(60))


def test_many_clips_of_many_groups_are_held_out_for_good():
    groups = [f"t{number % 40}" for number in range(800)]

    plan = make_plan(np.tile(np.linspace(1, 5, 80), 10), groups)

    (part,) = plan.parts
    sides = [{groups[row] for row in rows} for rows in (part.train, part.validation, part.test)]
    assert plan.kind == "holdout" and plan.final is None
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    assert 120 <= len(part.test) <= 200


def test_conditions_on_both_sides_are_told():
    data = {name: [None] * 20 for name in ("talker_id", "source_id", "system_id")}
    data |= {"condition_id": [f"c{number % 4}" for number in range(20)]}

    told = shared_values(data, np.arange(10), np.arange(10, 20), "talker_id")

    assert list(told) == ["condition_id"] and told["condition_id"].startswith("4 of 4 values of condition_id are on both sides")
    assert shared_values(data, np.arange(0, 20, 2), np.arange(1, 20, 2), "talker_id") == {}


@pytest.fixture
def interrupted(rated, tiny_folder, tmp_path):
    """A cross-fitted run that was stopped when its second training was about to begin."""
    folder = tmp_path / "cut-short"

    def stop(line: str) -> None:
        if line.startswith("Training, fold 2"):
            raise KeyboardInterrupt

    options = FinetuneOptions(folds=2, epochs=2, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        finetune(str(tiny_folder), load_corpus(rated), folder, options=options, announce=stop)
    return folder, options


def test_a_run_that_was_cut_short_goes_on_and_ends_with_the_same_weights(interrupted, rated, tiny_folder, tmp_path):
    folder, options = interrupted
    lines: list[str] = []

    finetune(str(tiny_folder), load_corpus(rated), folder, options=options, resume=True, announce=lines.append)
    finetune(str(tiny_folder), load_corpus(rated), tmp_path / "whole", options=options)

    assert any("finished run" in line for line in lines), "the first fold was trained again"
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (folder / "predictions.csv").read_text() == (tmp_path / "whole" / "predictions.csv").read_text()


def test_a_run_that_was_cut_short_is_not_overwritten_nor_continued_by_another(interrupted, rated, tiny_folder):
    folder, options = interrupted
    data = load_corpus(rated)

    with pytest.raises(FileExistsError, match="go on with it by `--resume`"):
        finetune(str(tiny_folder), data, folder, options=options)
    with pytest.raises(RunMismatch, match=r"another run.*options\.epochs was 2, is 3.*choose another"):
        finetune(str(tiny_folder), data, folder, options=FinetuneOptions(folds=2, epochs=3, device="cpu"), resume=True)


def test_a_calibration_that_was_cut_short_while_it_is_written_goes_on(scored, tiny_folder, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    options, data = FinetuneOptions(calibrate="first", device="cpu"), load_corpus(scored)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(finetune_module, "write_predictions", interrupt)  # the checkpoint is written by then
        finetune(str(tiny_folder), data, tmp_path / "calibrated", options=options)

    report = finetune(str(tiny_folder), data, tmp_path / "calibrated", options=options, resume=True)

    assert report == json.loads((tmp_path / "calibrated" / "report.json").read_text()) | {"seconds": report["seconds"]}
    assert not (tmp_path / "calibrated" / ".finetune").exists()


def test_a_run_that_was_killed_while_it_cleaned_up_is_finished_and_cleaned_up(scored, tiny_folder, tmp_path, monkeypatch):
    folder, options, data = tmp_path / "calibrated", FinetuneOptions(calibrate="first", device="cpu"), load_corpus(scored)

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(finetune_module, "clean_up", killed)
        finetune(str(tiny_folder), data, folder, options=options)
    assert (folder / "report.json").exists() and (folder / ".finetune").exists()

    with pytest.raises(FileExistsError, match="holds a finished run"):
        finetune(str(tiny_folder), data, folder, options=options, resume=True)
    assert not (folder / ".finetune").exists()


def test_a_finished_run_is_not_overwritten(held_out, rated, tiny_folder):
    code, output = run("--model", tiny_folder, "--train", rated, "--output", held_out[0])

    assert code == 2 and "holds a finished run" in output


def test_an_adapter_goes_round_and_gives_the_scores_of_the_merged_model(rated, tiny_folder, tmp_path):
    pytest.importorskip("peft")
    folder = tmp_path / "adapted"
    arguments = ("--model", tiny_folder, "--train", rated, "--lora", "--folds", 0, "--epochs", 2, "--learning-rate", 0.01)
    code, output = run(*arguments, "--device", "cpu", "--output", folder)
    clips = [str(path) for path in sorted(rated.parent.glob("t*_1.wav"))]

    merged, adapted, original = (
        [row["mos"] for row in hf_sqa.pipeline(str(one), device="cpu")(clips)] for one in (folder, folder / "adapter", tiny_folder)
    )

    assert code == 0, output
    assert adapted == pytest.approx(merged, abs=1e-4)
    assert np.abs(np.subtract(merged, original)).max() > 1e-3
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == tiny_folder
    assert (folder / "adapter" / "preprocessor_config.json").is_file()


def test_an_adapter_for_another_base_says_so(tiny_folder, make_tiny, tmp_path):
    peft = pytest.importorskip("peft")
    other = make_tiny(hidden_size=16)
    adapted = peft.get_peft_model(other, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = str(tiny_folder)
    adapted.save_pretrained(tmp_path / "adapter")

    with pytest.raises(ValueError, match=r"does not fit .* trained on another one"):
        loaded(str(tmp_path / "adapter"))


def test_an_adapter_is_fine_tuned_on_as_a_whole_but_not_adapted_again(rated, tiny_folder, tmp_path):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        loaded(tiny_folder), peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")

    model = loaded(str(tmp_path / "adapter"))

    assert not any("lora_" in name for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match="Expected a whole checkpoint for `lora`"):
        finetune(str(tmp_path / "adapter"), load_corpus(rated), tmp_path / "out", options=FinetuneOptions(lora=True))
    assert not (tmp_path / "out").exists()


def test_calibration_is_part_of_the_checkpoint(scored, tiny_folder, tmp_path):
    folder = tmp_path / "calibrated"
    code, output = run("--model", tiny_folder, "--train", scored, "--calibrate", "first", "--output", folder)

    assert code == 0, output
    report = json.loads((folder / "report.json").read_text())
    assert report["score_mapping"]["mos"][2:] == pytest.approx([0.7, 0.5], abs=1e-4)
    assert report["recommendation"] == "use"
    rows = _rows(scored)
    mapped = hf_sqa.pipeline(str(folder), device="cpu", interval=0.9)([row["audio"] for row in rows])
    assert [one["mos"] for one in mapped] == pytest.approx([float(row["mos"]) for row in rows], abs=1e-4)
    assert all(one["mos_low"] <= one["mos"] <= one["mos_high"] < one["mos"] + 0.1 for one in mapped)
    assert (report["score_intervals"]["mos"]["num_clips"], report["score_intervals"]["mos"]["data"]) == (32, "scored.csv, held out")


def test_before_a_mapped_model_are_its_mapped_scores_and_after_it_has_no_mapping(rated, make_tiny, tmp_path):
    model = make_tiny()
    model.config.score_mapping = {"mos": [1.0, 5.0, 0.5, 0.5]}
    model.save_pretrained(tmp_path / "mapped")
    model.make_feature_extractor().save_pretrained(tmp_path / "mapped")
    options = FinetuneOptions(folds=0, epochs=1, device="cpu")

    report = finetune(str(tmp_path / "mapped"), load_corpus(rated), tmp_path / "after", options=options)

    score = hf_sqa.pipeline(str(tmp_path / "mapped"), device="cpu")
    for row in _rows(tmp_path / "after" / "predictions.csv"):
        assert score(str(rated.parent / Path(row["file"]).name))["mos"] == pytest.approx(float(row["mos_before"]), abs=1e-5)
    assert loaded(tmp_path / "after").config.score_mapping is None
    assert any("score mapping" in remark for remark in report["remarks"])


def test_a_clip_that_cannot_be_read_is_left_out_counted_and_named(scored, tiny_folder, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF nothing")
    table = _changed(
        scored, tmp_path / "rated.csv", lambda number, row: row | {"audio": str(tmp_path / "broken.wav")} if number == 3 else row
    )

    code, output = run("--model", tiny_folder, "--train", table, "--calibrate", "first", "--output", tmp_path / "out")

    assert code == 0, output
    assert "1 clips are left out" in output and "broken.wav" in output
    (row,) = [row for row in _rows(tmp_path / "out" / "predictions.csv") if row["code"]]
    assert row["file"].endswith("broken.wav") and row["reason"]


def test_clips_of_both_tables_are_not_trained_on(scored, tiny_folder, tmp_path):
    test = _changed(scored, tmp_path / "test.csv", lambda number, row: row if number >= 24 else None)

    code, output = run(
        *("--model", tiny_folder, "--train", scored, "--test", test, "--calibrate", "first", "--output", tmp_path / "out")
    )

    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert "8 clips are in both tables and are not trained on" in output
    assert report["data"]["num_clips"] == 24 and report["scores"]["mos"]["num_clips"] == 8


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        pytest.param(lambda n, row: None if n else row | {"mos": ""}, (), "Expected 10 rated|rates none", id="nothing-rated"),
        pytest.param(lambda n, row: row | {"mos": "3.5"}, (), "got 3.5 for all 32 clips", id="equal-labels"),
        pytest.param(lambda n, row: row | {"mos": "good"}, (), "got text: mos 'good'", id="text"),
        pytest.param(lambda n, row: row if n < 5 else None, (), "Expected 10 rated and readable clips or more, got 5", id="few"),
        pytest.param(
            lambda n, row: row | {"audio": f"absent/{n}.wav"} if n < 7 else row,
            (),
            "7 of 32 recordings .* are missing: .*, and 2 more.*--drop-missing",
            id="missing",
        ),
        pytest.param(
            lambda n, row: row | {"talker": "t0"}, ("--group", "talker"), "two groups or more in talker_id", id="one-group"
        ),
        pytest.param(lambda n, row: row, ("--group", "room"), "Expected a column 'room'", id="unknown-group"),
        pytest.param(lambda n, row: row, ("--column", "mos"), "--column as `name=column`", id="column-option"),
        pytest.param(lambda n, row: row, ("--calibrate", "second"), "one of first, third, got 'second'", id="order"),
        pytest.param(
            lambda n, row: row, ("--calibrate", "first", "--lora"), "`calibrate` without `lora`: it trains nothing", id="both"
        ),
        pytest.param(lambda n, row: row, ("--lora", "--freeze", "trunk"), "`lora` or `freeze`, got both", id="lora-freeze"),
        pytest.param(lambda n, row: row, ("--freeze", "trunc"), "got 'trunc'; the outer ones are", id="freeze"),
    ],
)
def test_what_cannot_be_used_says_what_to_do_and_leaves_nothing(change, arguments, message, rated, tiny_folder, tmp_path):
    table = _changed(rated, tmp_path / "rated.csv", change)

    code, output = run("--model", tiny_folder, "--train", table, *arguments, "--output", tmp_path / "out")

    assert code == 2
    assert re.search(message, " ".join(output.split())), output
    assert not (tmp_path / "out").exists()


def test_a_table_without_rows_says_so(tiny_folder, tmp_path):
    (tmp_path / "empty.csv").write_text("audio,mos\n")

    code, output = run("--model", tiny_folder, "--train", tmp_path / "empty.csv", "--output", tmp_path / "out")

    assert code == 2 and "has no rows" in output


def test_missing_recordings_can_be_dropped(scored, tiny_folder, tmp_path):
    table = _changed(scored, tmp_path / "rated.csv", lambda n, row: row | {"audio": f"absent/{n}.wav"} if n < 7 else row)

    code, output = run(
        *("--model", tiny_folder, "--train", table, "--drop-missing", "--calibrate", "first", "--output", tmp_path / "out")
    )

    assert code == 0, output
    assert "dropped 7, whose audio is missing" in output


def test_groups_are_found_by_their_usual_names_and_told(rated):
    column, said = choose_groups(load_corpus(rated), None)

    assert column == "talker_id" and "8 groups" in said


def test_a_group_may_be_named_as_the_table_names_it():
    assert schema_column("talker") == schema_column("Speaker ID") == "talker_id"
    assert schema_column("condition") == "condition_id"
    assert schema_column("room") is None


@pytest.fixture
def listeners(rng):
    """Labels of 120 clips of 12 groups, and scores of a model with an error of the size given."""
    labels = rng.uniform(1, 5, 120)
    return labels, lambda error: labels + error * rng.standard_normal(120), [f"g{number % 12}" for number in range(120)]


def test_a_model_that_got_worse_is_not_recommended(listeners):
    labels, model, groups = listeners

    told = compare_before_after({"before": model(0.3), "after": model(1.5)}, labels, groups=groups, num_draws=2000)

    assert told["recommendation"] == "keep" and "agrees less with your listeners" in told["verdict"]


def test_a_gain_that_may_be_chance_is_called_that(listeners):
    labels, model, groups = listeners
    before = model(0.5)
    after = before + 0.01 * (labels - before) + 0.05 * np.sin(np.arange(120))

    told = compare_before_after({"before": before, "after": after}, labels, groups=groups, num_draws=2000)

    assert told["recommendation"] == "keep" and "the gain is not significant" in told["verdict"]


def test_a_model_that_ranks_better_is_recommended(listeners):
    labels, model, groups = listeners

    told = compare_before_after({"before": model(1.5), "after": model(0.3)}, labels, groups=groups, num_draws=2000)

    assert told["recommendation"] == "use" and "ranks recordings better" in told["verdict"]


def test_a_model_that_does_more_than_a_straight_line_is_recommended(listeners):
    labels, model, groups = listeners
    scores = model(0.4)
    rank_kept = labels + (scores - labels) * 0.9
    predictions = {"before": scores / 3, "calibrated": scores / 3 + 0.01 * np.sin(np.arange(120)), "after": rank_kept}

    told = compare_before_after(predictions, labels, groups=groups, num_draws=2000)

    assert told["recommendation"] == "use"


def test_two_groups_show_nothing_however_large_the_gain(listeners):
    labels, model, groups = listeners
    two = [f"{int(group[1:]) % 2}" for group in groups]

    told = compare_before_after({"before": model(1.5), "after": model(0.1)}, labels, groups=two, num_draws=2000)

    assert told["recommendation"] == "keep" and "2 independent units" in told["verdict"]
    assert told["comparisons"]["utt_rmse"]["better"] is None
    assert told["agreement"]["after"]["utt_rmse"]["low"] is None


def test_a_model_that_does_what_a_straight_line_does_is_not_recommended(listeners):
    labels, model, groups = listeners
    scores = model(0.4)
    predictions = {"before": scores / 3, "calibrated": scores, "after": scores + 0.01 * np.sin(np.arange(120))}

    told = compare_before_after(predictions, labels, groups=groups, num_draws=2000)

    assert told["recommendation"] == "keep" and "calibrate it" in told["verdict"]


def test_remembering_the_frozen_front_changes_no_score_and_no_gradient(make_tiny, speech_like):
    model = make_tiny().eval()
    model.trunk.requires_grad_(False)
    windows = torch.from_numpy(np.stack([speech_like(0.64), speech_like(0.64)[::-1].copy()]))

    def gradients():
        model.zero_grad()
        logits = model(input_values=windows).logits
        logits.sum().backward()
        return logits.detach(), [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]

    expected = gradients()
    memory = FrontMemory()
    assert memory.attach(model)[0] == "trunk"
    with torch.inference_mode():
        model(input_values=windows[:1])
    found = gradients()

    assert (memory.num_hits, memory.num_computed) == (1, 2)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_remembered_ends_at_the_first_weight_that_is_trained(make_tiny):
    model = make_tiny().eval().requires_grad_(False)
    model.transformer.layers[1].fc1.requires_grad_(True)

    names = FrontMemory().attach(model)

    assert names[0] == "trunk" and "transformer.layers.0" in names and "transformer.layers.1.self_attn" in names
    assert not [name for name in names if name.startswith(("transformer.pooling", "transformer.layers.1.fc"))]


def test_models_with_other_weights_do_not_share_what_they_remember(make_tiny, speech_like):
    memory, windows = FrontMemory(), torch.from_numpy(speech_like(0.64))[None]
    first, second = make_tiny(0).eval(), make_tiny(1).eval()
    expected = [model(input_values=windows).logits for model in (first, second)]
    for model in (first, second):
        model.trunk.requires_grad_(False)
        memory.attach(model)

    found = [model(input_values=windows).logits for model in (first, second)]

    assert memory.num_hits == 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_memory_that_is_full_goes_on_computing(make_tiny, speech_like):
    model = make_tiny().eval()
    model.trunk.requires_grad_(False)
    memory, windows = FrontMemory(max_bytes=1), torch.from_numpy(speech_like(0.64))[None]
    memory.attach(model)

    first, second = (model(input_values=windows).logits for _ in range(2))

    assert memory.num_bytes == 0 and memory.num_computed == 2
    torch.testing.assert_close(second, first, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_ctrl_c_keeps_a_checkpoint_and_exits_with_130(rated, nursery, tiny_folder, tmp_path):
    folder = tmp_path / "out"
    options = ("--model", tiny_folder, "--train", rated, "--folds", 2, "--epochs", 100_000, "--device", "cpu", "--output", folder)
    process = nursery.start(command("finetune", *options))
    wait_until(lambda: list(folder.glob(".finetune/*/checkpoints/checkpoint-*/trainer_state.json")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert list(folder.glob(".finetune/*/checkpoints/checkpoint-*"))


def test_the_defaults_of_every_family_name_modules_it_has():
    from hf_sqa.auto import families
    from hf_sqa.training.model import freeze

    for config_class, model_class in families().values():
        model = model_class(config_class.tiny())
        for device in ("cpu", "cuda"):
            freeze(model.requires_grad_(True), model.fine_tuning_defaults(device).freeze)
            assert any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("model_type", ["mosa_net", "mtq_net", "nisqa", "wav2vec2_mos", "xlsr_sqa"])
def test_every_family_is_fine_tuned_on_the_scores_that_are_rated(model_type, rated, tmp_path):
    from hf_sqa.auto import families

    config_class, model_class = families()[model_type]
    torch.manual_seed(0)
    model = model_class(config_class.tiny()).eval()
    model.save_pretrained(tmp_path / "tiny")
    model.make_feature_extractor().save_pretrained(tmp_path / "tiny")
    names = model.config.score_names[:2]
    table = _changed(
        rated,
        tmp_path / "rated.csv",
        lambda number, row: row | {name: str(float(row["mos"]) / 6) for name in names if name != "mos"},
    )
    if "stoi" not in names:  # scores that lie between 1 and 5
        table = _changed(rated, table, lambda number, row: row | dict.fromkeys(names, row["mos"]))

    report = finetune(
        str(tmp_path / "tiny"),
        load_corpus(table),
        tmp_path / "out",
        options=FinetuneOptions(folds=0, epochs=1, device="cpu", learning_rate=1e-3),
    )

    assert list(report["scores"]) == names
    before, after = (loaded(tmp_path / one).state_dict() for one in ("tiny", "out"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
