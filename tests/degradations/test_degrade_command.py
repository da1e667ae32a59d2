"""`hf-sqa degrade`: files and folders, resumed after a kill, the same whatever the order and the number of processes."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from hf_sqa.cli.degrade import degrade
from hf_sqa.degradations import Chain, Job, Run, degrade_files
from hf_sqa.degradations.folders import seed_of, write_recording
from hf_sqa.runs import locked
from tests.processes import command, signal_at, wait_until

RATE = 16_000
CHAIN = ("--step", "mel_vocoder num_iterations=2", "--snr-db", "10")
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(degrade)


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows_of(manifest):
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def clean(tmp_path, speech_like):
    """A folder of six recordings, one of them below another folder, one not ASCII, one FLAC at another rate."""
    folder = tmp_path / "clean"
    (folder / "below").mkdir(parents=True)
    for number, name in enumerate(["a.wav", "b.wav", "below/a.wav", "größe.wav", "e.wav"]):
        soundfile.write(folder / name, speech_like(0.6 + 0.1 * number), RATE)
    soundfile.write(folder / "f.flac", speech_like(0.8, 44_100), 44_100)
    return folder


# --- One file --------------------------------------------------------------------------------------------------------------------


def test_one_file_gets_noise_and_a_codec(clean, tmp_path):
    result = run(clean / "a.wav", tmp_path / "out.wav", "--snr-db", 10, "--codec", "opus", "--bitrate", 12)

    assert result.exit_code == 0
    assert "white_noise snr_db=10.0" in result.output and "then opus bitrate_kbps=12" in result.output
    assert soundfile.info(tmp_path / "out.wav").frames == soundfile.info(clean / "a.wav").frames


def test_one_file_has_the_requested_snr(clean, tmp_path):
    run(clean / "a.wav", tmp_path / "out.wav", "--snr-db", 20, "--noise", "pink")
    speech, degraded = (soundfile.read(path)[0] for path in (clean / "a.wav", tmp_path / "out.wav"))

    assert 10 * np.log10(np.sum(speech**2) / np.sum((degraded - speech) ** 2)) == pytest.approx(20, abs=0.1)


def test_options_act_in_the_order_of_the_help(clean, tmp_path):
    manifest = tmp_path / "rows.jsonl"
    options = [
        "--codec",
        "g711",
        "--clip-share",
        0.1,
        "--low-pass-hz",
        3000,
        "--snr-db",
        20,
        "--t60-seconds",
        0.3,
        "--mnru-q-db",
        30,
    ]
    run(clean / "a.wav", tmp_path / "o.wav", *options, "--loss-share", 0.1, "--step", "gain gain_db=-3", "--manifest", manifest)

    kinds = [step["kind"] for step in rows_of(manifest)[0]["degradations"]["steps"]]
    assert kinds == ["reverberation", "white_noise", "mnru", "low_pass", "clip_share", "g711", "packet_loss", "gain"]


def test_losses_go_to_the_codec_that_conceals_them(clean, tmp_path):
    try:
        Chain([{"kind": "amr_nb"}]).check_requirements()
    except RuntimeError as error:
        pytest.skip(str(error))
    manifest = tmp_path / "rows.jsonl"
    run(clean / "a.wav", tmp_path / "o.wav", "--codec", "amr_nb", "--loss-share", 0.2, "--manifest", manifest)

    (step,) = rows_of(manifest)[0]["degradations"]["steps"]
    assert step["kind"] == "amr_nb" and step["parameters"]["loss_share"] == 0.2


def test_a_step_can_draw_numbers_and_choices(clean, tmp_path):
    manifest = tmp_path / "rows.jsonl"
    step = "packet_loss loss_share=0.1..0.2 concealment=zeros|repeat probability=1"
    run(clean / "a.wav", tmp_path / "o.wav", "--step", step, "--manifest", manifest)

    (drawn,) = rows_of(manifest)[0]["degradations"]["steps"]
    assert 0.1 <= drawn["parameters"]["loss_share"] <= 0.2
    assert drawn["parameters"]["concealment"] in ("zeros", "repeat")


def test_a_condition_of_a_preset_can_be_chosen(clean, tmp_path):
    assert "white_noise snr_db=10" in run(clean / "a.wav", tmp_path / "o.wav", "--preset", "p835", "--condition", "c7").output


def test_a_file_beyond_full_scale_is_turned_down_and_says_so(clean, tmp_path):
    manifest = tmp_path / "rows.jsonl"
    result = run(clean / "a.wav", tmp_path / "out.wav", "--step", "gain gain_db=20", "--manifest", manifest)

    peak = np.abs(soundfile.read(clean / "a.wav")[0]).max() * 10
    assert rows_of(manifest)[0]["gain_db"] == pytest.approx(-0.1 - 20 * np.log10(peak), abs=0.01)
    assert np.abs(soundfile.read(tmp_path / "out.wav")[0]).max() == pytest.approx(10 ** (-0.1 / 20), abs=1e-3)
    assert "turned down" in result.output


def test_a_record_in_the_manifest_replays_the_output(clean, tmp_path):
    run(clean, tmp_path / "out", "--preset", "distillation", "--seed", 3)
    for row in rows_of(tmp_path / "out" / "manifest.jsonl"):
        speech, sampling_rate = soundfile.read(clean / row["input"], dtype="float32")
        again = Chain.replay(row["degradations"], speech, sampling_rate) * np.float32(10 ** (row["gain_db"] / 20))
        written = soundfile.read(tmp_path / "out" / row["output"], dtype="float32")[0]
        np.testing.assert_allclose(again, written, atol=0.51 / 32768)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --preset or what to do"),
        (["--preset", "tencent", "--snr-db", 5], "got both or neither"),
        (["--preset", "tencnt"], "did you mean 'tencent'"),
        (["--preset", "p835", "--condition", "c77"], "did you mean 'c7'"),
        (["--condition", "c7", "--snr-db", 5], "Expected --preset with --condition"),
        (["--codec", "opsu", "--bitrate", 12], "did you mean 'opus'"),
        (["--codec", "opus"], "Expected --bitrate, in kb/s, with --codec opus"),
        (["--codec", "gsm", "--bitrate", 12], "no --bitrate to choose"),
        (["--bitrate", 12], "Expected --codec"),
        (["--snr-db", 5, "--noise", "rain"], "white, pink, hum"),
        (["--snr-db", 5, "--noise", "recorded"], "no recordings to draw from"),
        (["--step", "clip_levle level=0.1"], "did you mean 'clip_level'"),
        (["--step", "clip_level levle=0.1"], "did you mean 'level'"),
        (["--step", "clip_level 0.1"], "name=value"),
        (["--snr-db", 5, "--noise-folder", "nowhere"], "nowhere"),
        (["--active-level", "--codec", "gsm"], "--snr-db with --active-level"),
    ],
)
def test_what_cannot_be_meant_is_exit_code_2_with_a_reason(clean, tmp_path, options, message):
    result = run(clean / "a.wav", tmp_path / "out.wav", *options)

    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize(
    ("target", "message"),
    [("clean/a.wav", "another file than the source"), ("out.mp3", "Expected the target to end in .wav or .flac")],
)
def test_a_target_that_cannot_be_written_is_refused(clean, tmp_path, target, message):
    result = run(clean / "a.wav", tmp_path / target, "--snr-db", 5)

    assert result.exit_code == 2 and message in result.output


def test_a_missing_source_is_exit_code_1_with_its_reason(tmp_path):
    result = run(tmp_path / "nothing.wav", tmp_path / "out.wav", "--snr-db", 5)

    assert result.exit_code == 1
    assert "[missing]" in result.output


# --- Folders ---------------------------------------------------------------------------------------------------------------------


def test_a_folder_is_mirrored_with_a_manifest_in_order(clean, tmp_path):
    result = run(clean, tmp_path / "out", "--preset", "distillation")
    rows = rows_of(tmp_path / "out" / "manifest.jsonl")

    assert result.exit_code == 0 and "6 of 6 recordings degraded" in result.output
    assert [row["input"] for row in rows] == ["a.wav", "b.wav", "below/a.wav", "e.wav", "f.flac", "größe.wav"]
    for row in rows:
        assert soundfile.info(tmp_path / "out" / row["output"]).frames == soundfile.info(clean / row["input"]).frames


def test_other_formats_become_wav_beside_files_of_the_same_stem(clean, tmp_path):
    samples, _ = soundfile.read(clean / "a.wav")
    soundfile.write(clean / "a.ogg", samples, RATE)
    run(clean, tmp_path / "out", "--snr-db", 5)

    assert {"a.wav", "a.ogg.wav"} <= {path.name for path in (tmp_path / "out").iterdir()}


def test_order_company_and_processes_do_not_matter(clean, tmp_path):
    run(clean, tmp_path / "one", "--preset", "distillation", "--seed", 5, "--num-workers", 1)
    run(clean, tmp_path / "two", "--preset", "distillation", "--seed", 5, "--num-workers", 2)
    shutil.copytree(clean / "below", tmp_path / "few" / "below")
    run(tmp_path / "few", tmp_path / "three", "--preset", "distillation", "--seed", 5)

    one, two, three = (contents(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert three["below/a.wav"] == one["below/a.wav"]


def test_another_seed_gives_other_files(clean, tmp_path):
    for seed in (1, 2):
        run(clean, tmp_path / str(seed), "--snr-db", 5, "--seed", seed)

    assert contents(tmp_path / "1")["a.wav"] != contents(tmp_path / "2")["a.wav"]


def test_the_seed_of_a_file_depends_on_its_name_and_the_run_only():
    assert seed_of(0, "a.wav") == seed_of(0, "a.wav")
    assert len({seed_of(run, name) for run in (0, 1) for name in ("a.wav", "below/a.wav")}) == 4


def test_bad_files_are_rows_with_their_reason(clean, tmp_path):
    (clean / "broken.wav").write_bytes(b"RIFFnothing")
    soundfile.write(clean / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(clean / "nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    result = run(clean, tmp_path / "out", "--snr-db", 5)
    rows = {row["input"]: row for row in rows_of(tmp_path / "out" / "manifest.jsonl")}

    assert result.exit_code == 1
    assert "6 of 9 recordings degraded" in result.output
    assert [rows[name]["status"] for name in ("broken.wav", "silent.wav", "nan.wav")] == ["failed", "abstained", "abstained"]
    assert [rows[name]["code"] for name in ("silent.wav", "nan.wav")] == ["silent", "not_finite"]
    assert all(rows[name]["reason"] and rows[name]["output"] is None for name in ("broken.wav", "silent.wav", "nan.wav"))
    assert not (tmp_path / "out" / "nan.wav").exists()


def test_a_kind_that_refuses_one_file_does_not_stop_the_others(clean, tmp_path):
    result = run(clean, tmp_path / "out", "--low-pass-hz", 12_000)  # above half of 16 kHz; below half of 44.1 kHz
    rows = {row["input"]: row for row in rows_of(tmp_path / "out" / "manifest.jsonl")}

    assert result.exit_code == 1
    assert rows["f.flac"]["status"] == "ok"
    assert rows["a.wav"]["code"] == "not_degraded" and "8000 Hz" in rows["a.wav"]["reason"]


def test_an_empty_folder_is_exit_code_2(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", tmp_path / "out", "--snr-db", 5)

    assert result.exit_code == 2 and "no audio file" in result.output


def test_a_target_inside_the_source_is_refused(clean):
    result = run(clean, clean / "out", "--snr-db", 5)

    assert result.exit_code == 2 and "outside the source" in result.output


def test_noise_recordings_are_drawn_from_a_folder(clean, tmp_path):
    (tmp_path / "noises").mkdir()
    for name in ("street", "cafe"):
        noise = np.random.default_rng(len(name)).standard_normal(RATE)
        soundfile.write(tmp_path / "noises" / f"{name}.wav", 0.1 * noise, RATE)
    run(clean, tmp_path / "out", "--snr-db", 5, "--noise", "recorded", "--noise-folder", tmp_path / "noises")

    drawn = {row["degradations"]["steps"][0]["notes"]["noise"] for row in rows_of(tmp_path / "out" / "manifest.jsonl")}
    assert drawn <= {"street.wav", "cafe.wav"} and drawn


def test_the_rate_of_the_outputs_can_be_chosen(clean, tmp_path):
    run(clean, tmp_path / "out", "--snr-db", 5, "--sampling-rate", 8000)

    assert {soundfile.info(path).samplerate for path in (tmp_path / "out").rglob("*.[wf]*")} == {8000}


# --- Going on where a run stopped ------------------------------------------------------------------------------------------------


def test_a_finished_run_is_not_done_again(clean, tmp_path):
    run(clean, tmp_path / "out", "--snr-db", 5)
    before = contents(tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.wav")}
    result = run(clean, tmp_path / "out", "--snr-db", 5)

    assert result.exit_code == 0
    assert contents(tmp_path / "out") == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_what_is_missing_or_cut_short_is_done_again_with_the_same_bytes(clean, tmp_path):
    run(clean, tmp_path / "out", "--preset", "distillation")
    before = contents(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    manifest.write_text("".join(lines[:3]) + lines[3][:50], encoding="utf-8")  # killed in the middle of a line
    (tmp_path / "out" / "a.wav").unlink()
    run(clean, tmp_path / "out", "--preset", "distillation")

    assert contents(tmp_path / "out") == before


def test_a_failed_file_is_tried_again(clean, tmp_path):
    good = (clean / "a.wav").read_bytes()
    (clean / "a.wav").write_bytes(good[:20])
    assert run(clean, tmp_path / "out", "--snr-db", 5).exit_code == 1
    (clean / "a.wav").write_bytes(good)

    assert run(clean, tmp_path / "out", "--snr-db", 5).exit_code == 0
    assert {row["status"] for row in rows_of(tmp_path / "out" / "manifest.jsonl")} == {"ok"}


def test_a_folder_of_another_run_is_refused_unless_overwritten(clean, tmp_path):
    run(clean, tmp_path / "out", "--snr-db", 5)
    refused = run(clean, tmp_path / "out", "--snr-db", 6)

    assert refused.exit_code == 2 and "snr_db was 5.0, is 6.0" in " ".join(refused.output.split()), refused.output
    (tmp_path / "out" / ".manifest.jsonl-run").unlink()  # as folders of before it was written
    assert "made with other options" in run(clean, tmp_path / "out", "--snr-db", 6).output
    with locked(tmp_path / "out" / ".manifest.jsonl-lock"):
        assert "Another process is writing" in run(clean, tmp_path / "out", "--snr-db", 5).output
    assert run(clean, tmp_path / "out", "--snr-db", 6, "--overwrite").exit_code == 0
    run(clean, tmp_path / "new", "--snr-db", 6)
    assert contents(tmp_path / "out") == contents(tmp_path / "new")


def test_files_that_no_run_wrote_are_not_written_over_unless_asked(clean, tmp_path):
    name = sorted(path.name for path in clean.iterdir() if path.suffix == ".wav")[0]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")

    refused = run(clean, tmp_path / "out", "--snr-db", "10")

    assert refused.exit_code == 2 and f"{name}' exists, and no manifest" in refused.stderr
    assert (tmp_path / "out" / name).read_text() == "mine"
    assert run(clean, tmp_path / "out", "--snr-db", "10", "--overwrite").exit_code == 0


def test_a_manifest_that_is_none_is_refused(clean, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.jsonl").write_text("my notes\nmore of them\n")
    result = run(clean, tmp_path / "out", "--snr-db", 5)

    assert result.exit_code == 2 and "Line 1" in result.output
    assert (tmp_path / "out" / "manifest.jsonl").read_text() == "my notes\nmore of them\n"


@pytest.fixture
def many(once, speech_like):
    """A folder with recordings in `source`, and in `undisturbed` what `CHAIN` makes of them."""

    def fill(folder):
        (folder / "source").mkdir()
        for number in range(24):
            soundfile.write(folder / "source" / f"{number:02}.wav", speech_like(0.5), RATE)
        run(folder / "source", folder / "undisturbed", *CHAIN)

    return once("many-degradations", fill)


def stopped_by(sent):
    """Code to run before a command: once six files are written, of which five are in the manifest, it gets a signal."""
    return signal_at("hf_sqa.degradations.folders", 5, sent)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(num_workers, many, nursery, tmp_path):
    source, target = many / "source", tmp_path / "killed"
    arguments = (source, target, *CHAIN, "--num-workers", num_workers)
    process = nursery.start(stopped_by("SIGKILL") + command("degrade", *arguments))
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not _living(process.pid))  # workers do not outlive the run
    for path in target.glob("*.wav"):  # whole, or not there
        assert soundfile.info(path).frames == RATE // 2

    assert run(source, target, *CHAIN).exit_code == 0
    assert contents(target) == contents(many / "undisturbed")


def _living(group):
    """Whether any process of the group that the command started is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_ctrl_c_keeps_what_is_done_and_is_exit_code_130(many, nursery, tmp_path):
    arguments = (many / "source", tmp_path / "target", *CHAIN, "--num-workers", 1)
    process = nursery.start(stopped_by("SIGINT") + command("degrade", *arguments))
    _, told = process.communicate()

    assert process.returncode == 130, told
    assert "Interrupted" in told
    assert len(rows_of(tmp_path / "target" / "manifest.jsonl")) == 5


# --- As a function ---------------------------------------------------------------------------------------------------------------


def test_two_recordings_for_one_file_are_refused(tmp_path):
    jobs = [Job(name, f"{name}.wav", str(tmp_path / "same.wav"), "same.wav") for name in ("a", "b")]
    with pytest.raises(ValueError, match="two for"):
        list(degrade_files(jobs, Run(Chain([]), 0), manifest=None))


def test_a_chain_without_its_library_stops_before_the_first_file(clean, tmp_path, monkeypatch):
    from hf_sqa.degradations import chain

    def missing(parameters):
        raise RuntimeError("install it with `apt-get install libspeex1`")

    monkeypatch.setitem(chain.REQUIREMENTS, "speex", missing)
    steps = [{"kind": "speex", "bitrate_kbps": 10}]
    with pytest.raises(RuntimeError, match="libspeex1"):
        next(degrade_files([Job("a", str(clean / "a.wav"), str(tmp_path / "o.wav"), "o.wav")], Run(Chain(steps), 0), manifest=None))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, speech_like):
    with pytest.raises((RuntimeError, ValueError)):
        write_recording(tmp_path / "out.wav", speech_like(0.5), -5)

    assert list(tmp_path.iterdir()) == []
