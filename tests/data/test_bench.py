"""The bench corpus on a miniature of its packages; the real one where the packages are found."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from typer.testing import CliRunner

from hf_sqa.cli.corpus import build
from hf_sqa.data.bench import (
    CONDITIONS,
    FORMS,
    VOICES,
    MissingPackagesError,
    build_clips,
    find_phrases,
    label_clips,
    ladders,
    plan_bench,
)
from hf_sqa.degradations import CodecUnavailableError, level_dbfs, opus
from tests.processes import command, signal_at

#: A folder of unpacked packages for the tests that need the real recordings.
PACKAGES = os.environ.get("HF_SQA_BENCH_PACKAGES")
app = typer.Typer()
app.command()(build)


def _has_libopus():
    try:
        opus(np.zeros(1600, np.float32), 16_000, bitrate_kbps=16, library="libopus")
    except CodecUnavailableError:
        return False
    return True


pytestmark = [
    pytest.mark.skipif(not _has_libopus(), reason="needs the Debian package libopus0"),
    pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg to decode and make G.722"),
]


def _encode_g722(waveforms, folder):
    """Write files from waveforms by their paths, all by one process; `folder` is for what it reads."""
    inputs, outputs = [], []
    for number, (path, waveform) in enumerate(waveforms.items()):
        path.parent.mkdir(parents=True, exist_ok=True)
        pcm = folder / f"{number}.pcm"
        pcm.write_bytes((waveform * 32767).astype("<i2").tobytes())
        inputs += ["-f", "s16le", "-ar", "16000", "-ac", "1", "-i", str(pcm)]
        outputs += ["-map", f"{number}:a", "-f", "g722", str(path)]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *inputs, *outputs], check=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Six packages in their own layout, with speech-like sounds and what is to be left out."""
    root = tmp_path_factory.mktemp("packages")
    rng = np.random.default_rng(0)

    def speech(seconds):
        seconds_of_samples = np.arange(round(seconds * 16_000)) / 16_000
        voice = sum(np.sin(2 * np.pi * 130 * k * seconds_of_samples) / k for k in range(1, 30))
        syllables = 0.5 * (1 - np.cos(2 * np.pi * 4 * seconds_of_samples)) * (seconds_of_samples % 2 < 1.7)
        return (0.15 * voice * syllables + 0.003 * rng.standard_normal(len(seconds_of_samples))).astype(np.float32)

    sounds = (("agent", 2.3), ("dictate/help", 2.5), ("vm-login", 2.4), ("short", 1.0), ("long", 6.5))
    sounds += tuple((name, 2.5) for name in ("silence/3", "letters/a", "at-tone-time"))
    waveforms = {}
    for voice in VOICES.values():
        folder = root / voice.folder
        if voice.codec == "g722":
            waveforms |= {folder / f"{name}.g722": speech(seconds) for name, seconds in sounds}
        else:
            for level in ("city", "rush"):
                path = folder / level / "cs" / f"{level}-{voice.name[-1]}-hello.ogg"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, speech(3.2), 22_050, format="OGG", subtype="VORBIS")
    (folder / "city" / "cs" / "city-x-hello.ogg").write_bytes(b"another character")
    _encode_g722(waveforms, tmp_path_factory.mktemp("pcm"))
    return root


@pytest.fixture(scope="module")
def built(packages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    plan = plan_bench(folder, packages=packages, num_phrases=1)
    return plan, list(build_clips(plan))


def _table(folder, name="bench.csv"):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def _contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_phrases_are_those_of_the_right_length_that_are_phrases(packages):
    phrases = find_phrases("training", packages)
    english = [phrase.name for phrase in phrases if phrase.voice == "en"]
    assert english == ["agent.g722", "dictate/help.g722", "vm-login.g722"]
    assert [phrase.name for phrase in phrases if phrase.voice == "cs-v"] == ["city/cs/city-v-hello.ogg", "rush/cs/rush-v-hello.ogg"]
    assert len(phrases) == 5 * 3 + 2 * 2


def test_the_forms_have_the_conditions_of_the_description():
    assert len(FORMS["ci"]) == 25 and len(FORMS["training"]) == 42
    assert sum(condition.human_scores is not None for condition in FORMS["ci"]) == 13
    assert CONDITIONS["c10"].human_scores == (2.03, 3.83, 1.86)
    steps = [step["kind"] for step in CONDITIONS["c7"].chain().draw(np.random.default_rng(0))["steps"]]
    assert steps == ["white_noise", "mnru"]
    assert set(ladders("ci")) == {"mnru", "white_noise", "white_noise_and_mnru", "clipping", "reverberation", "opus", "packet_loss"}
    assert all(rungs[0] == "c0" for rungs in ladders("training").values())
    assert {one for rungs in ladders("training").values() for one in rungs} == set(CONDITIONS)


def test_listeners_scores_fall_along_the_ladders():
    for rungs in ladders("ci").values():
        scores = [CONDITIONS[one].human_scores[0] for one in rungs if CONDITIONS[one].human_scores]
        assert scores == sorted(scores, reverse=True)


def test_no_talker_is_in_two_splits():
    splits = {}
    for voice in VOICES.values():
        splits.setdefault(voice.talker, set()).add(voice.split)
    assert all(len(found) == 1 for found in splits.values())
    assert VOICES["en"].talker == VOICES["es"].talker
    assert {voice.split for voice in VOICES.values()} == {"train", "validation", "test"}


def test_the_table_has_a_row_a_clip_with_labels_reference_and_hash(built):
    plan, rows = built
    table = _table(plan.folder)
    assert len(table) == len(rows) == 5 * 25
    for row in table:
        samples, rate = soundfile.read(plan.folder / row["audio"], dtype="int16")
        assert rate == 16_000 and hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest() == row["sha256"]
        assert len(samples) == soundfile.info(plan.folder / row["reference_audio"]).frames
    c7 = next(row for row in table if row["condition_id"] == "c7")
    assert (c7["mos"], c7["s_mos"], c7["n_mos"], c7["ladder"], c7["ladder_step"]) == ("2.51", "4.41", "2.03", "white_noise", "4")
    assert next(row for row in table if row["condition_id"] == "clip_30")["mos"] == ""
    assert {row["language"]: row["split"] for row in table} == {
        **{"en": "train", "es": "train", "fr": "train", "it": "test", "ru": "validation"}
    }


def test_references_have_the_level_of_listening_tests(built):
    plan, _ = built
    for row in _table(plan.folder):
        if row["condition_id"] == "c0":
            waveform, _ = soundfile.read(plan.folder / row["audio"], dtype="float32")
            assert level_dbfs(waveform, 16_000, "active") == pytest.approx(-26, abs=0.1)
            assert np.abs(np.fft.rfft(waveform))[-len(waveform) // 40 :].max() < 1e-2 * np.abs(np.fft.rfft(waveform)).max()


def test_the_tables_of_ladders_and_conditions_are_those_of_the_form(built):
    plan, _ = built
    # Steps: mnru 5, white noise 5, both 3, clipping 3, reverberation 3, opus 3, packet loss 4.
    ladder_rows = _table(plan.folder, "ladders.csv")
    assert len(ladder_rows) == 26 + 7 and len(_table(plan.folder, "conditions.csv")) == 25
    noise = {row["condition_id"]: int(row["ladder_step"]) for row in ladder_rows if row["ladder"] == "white_noise"}
    assert noise["c7"] == noise["c8"] + 1


@pytest.mark.slow
def test_two_builds_and_any_number_of_processes_give_the_same_bytes(built, packages, tmp_path):
    plan, _ = built
    again = plan_bench(tmp_path, packages=packages, num_phrases=1)
    list(build_clips(again, num_workers=2))
    assert _contents(tmp_path) == _contents(plan.folder)


def test_a_build_that_was_stopped_goes_on_and_ends_with_the_same_bytes(built, packages, tmp_path):
    plan, _ = built
    half = plan_bench(tmp_path, packages=packages, num_phrases=1)
    rows = build_clips(half)
    for _ in range(60):
        next(rows)
    rows.close()
    assert not (tmp_path / "bench.csv").exists()
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write('{"audio": "c1/en/cut sho')
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.flac")}
    list(build_clips(half))
    kept = [path for path, changed in before.items() if path.stat().st_mtime_ns == changed]
    assert len(kept) >= 50
    assert _contents(tmp_path) == _contents(plan.folder)


def test_only_what_is_missing_or_made_otherwise_is_made_again(built, packages, tmp_path):
    shutil.copytree(built[0].folder, tmp_path, dirs_exist_ok=True)
    plan = plan_bench(tmp_path, packages=packages, num_phrases=1)
    gone, other = tmp_path / plan.clips[3].name, tmp_path / plan.clips[30].name
    expected = _contents(tmp_path)
    gone.unlink()
    manifest = (tmp_path / "manifest.jsonl").read_text().replace(plan.clips[30].digest, "of another recipe")
    (tmp_path / "manifest.jsonl").write_text(manifest)
    unchanged = (tmp_path / plan.clips[0].name).stat().st_mtime_ns
    changed = other.stat().st_mtime_ns
    list(build_clips(plan))
    assert _contents(tmp_path) == expected
    assert (tmp_path / plan.clips[0].name).stat().st_mtime_ns == unchanged and other.stat().st_mtime_ns > changed


@pytest.mark.usefixtures("no_libraries")
def test_everything_that_is_missing_is_named_at_once(tmp_path):
    """Recordings, codecs and ffmpeg: who installs what the first error names must not meet a second."""
    with pytest.raises(MissingPackagesError) as caught:
        plan_bench(tmp_path / "bench", form="training", packages=tmp_path)

    for package in ("fillets-ng-data-cs", "libopus0", "libopencore-amrnb0", "libvo-amrwbenc0", "apt-get install ffmpeg"):
        assert package in str(caught.value)


def test_missing_packages_are_named_with_the_way_to_get_them(packages, tmp_path):
    part = tmp_path / "part"
    shutil.copytree(packages / VOICES["en"].folder, part / "asterisk-core-sounds-en-g722" / VOICES["en"].folder)
    with pytest.raises(MissingPackagesError) as caught:
        plan_bench(tmp_path / "bench", packages=part)
    message = str(caught.value)
    assert "got 1 of them" in message and "asterisk-core-sounds-en-g722" not in message
    for language in ("es", "fr", "it", "ru"):
        assert f"asterisk-core-sounds-{language}-g722" in message
    assert "apt-get download" in message and "dpkg-deb -x" in message and "--packages" in message
    result = CliRunner().invoke(app, ["bench", str(tmp_path / "bench"), "--packages", str(part)])
    assert result.exit_code == 2 and "apt-get download" in result.stderr and not (tmp_path / "bench").exists()


def test_a_recording_that_cannot_be_used_is_told_and_leaves_the_rest(packages, tmp_path):
    broken = tmp_path / "packages"
    shutil.copytree(packages, broken)
    paths = (broken / VOICES["it"].folder).rglob("*.g722")
    _encode_g722(dict.fromkeys(paths, np.zeros(40_000, np.float32)), tmp_path)
    arguments = ["bench", str(tmp_path / "bench"), "--packages", str(broken), "--num-phrases", "1", "--num-workers", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and "100 of 125 clips" in result.stdout
    assert "c0/it/" in result.stderr and "... and 20 more" in result.stderr
    assert {row["language"] for row in _table(tmp_path / "bench")} == {"en", "es", "fr", "ru"}


def test_labels_are_measured_once_and_the_original_has_the_best(built, packages, tmp_path):
    pytest.importorskip("pystoi")
    shutil.copytree(built[0].folder, tmp_path, dirs_exist_ok=True)
    plan = plan_bench(tmp_path, packages=packages, num_phrases=1)
    rows = list(label_clips(plan, ["stoi"]))
    assert len(rows) == 125
    table = _table(tmp_path)
    scores = {row["condition_id"]: float(row["stoi"]) for row in table if row["language"] == "it"}
    assert scores["c0"] == pytest.approx(1, abs=1e-4)
    assert scores["c9"] > scores["c8"] > scores["c7"] > scores["c6"]
    written = (tmp_path / "labels.jsonl").stat().st_mtime_ns, _contents(tmp_path)
    assert len(list(label_clips(plan, ["stoi"]))) == 125
    assert _contents(tmp_path) == written[1]
    more = {row["audio"]: row for row in label_clips(plan, ["stoi", "sdi"])}
    assert set(more[plan.clips[0].name]["labels"]) == {"stoi", "sdi"}
    assert json.loads((tmp_path / "labels.jsonl").read_text().splitlines()[0])["labels"].keys() == {"stoi", "sdi"}
    with pytest.raises(ValueError, match="Expected `labels` out of pesq, stoi, sdi, got 'mos'"):
        list(label_clips(plan, ["mos"]))


def test_options_that_cannot_be_are_refused(packages, tmp_path):
    for arguments, told in (
        (["speech"], "Expected `bench`"),
        (["bench", "--form", "huge"], "Expected `form` to be one of ci, training, got 'huge'"),
        (["bench", "--format", "mp3"], "got '.mp3'"),
        (["bench", "--labels", "mos"], "Expected --labels out of pesq, stoi, sdi, got 'mos'"),
        (["bench", "--num-phrases", "99"], "Expected 99 phrases or more of 'en'"),
    ):
        result = CliRunner().invoke(app, [arguments[0], str(tmp_path / "b"), *arguments[1:], "--packages", str(packages)])
        assert result.exit_code == 2 and told in result.stderr, result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
def test_ctrl_c_keeps_what_is_done(packages, nursery, tmp_path):
    folder = tmp_path / "bench"
    options = ["--packages", packages, "--num-phrases", "1", "--num-workers", "2"]
    # The clips of one phrase are in the manifest, and those of another are made.
    interrupted = signal_at("hf_sqa.data.bench.build", 1, "SIGINT", whole_group=True)
    process = nursery.start(interrupted + command("corpus", "build", "bench", folder, *options))
    _, told = process.communicate()
    assert process.returncode == 130 and "the same command goes on from there" in told, told
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    assert 0 < len(rows) < 5 * 25 and not list(folder.rglob(".*-*"))
    assert all((folder / row["audio"]).is_file() for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(
    PACKAGES is None or not Path(PACKAGES).is_dir(), reason="needs HF_SQA_BENCH_PACKAGES, a folder of unpacked packages"
)
def test_the_real_corpus_has_its_625_clips(tmp_path):
    plan = plan_bench(tmp_path, packages=PACKAGES)
    rows = list(build_clips(plan, num_workers=2))
    assert len(rows) == 625 and all(row["status"] == "ok" for row in rows)
    counts = {}
    for phrase in find_phrases("training", PACKAGES):
        counts[phrase.voice] = counts.get(phrase.voice, 0) + 1
    assert counts == {"en": 148, "es": 154, "fr": 169, "it": 134, "ru": 141, "cs-m": 465, "cs-v": 452}
