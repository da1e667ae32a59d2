"""A run may stop at any moment in any way; what it leaves is whole, and what comes out in the end is the same."""

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import time
import traceback
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
from made_clips import RATE, make_clip

from hf_sqa.scoring import Locked, OutputError, RunMismatch, score_corpus
from hf_sqa.scoring.folder import hold_output


def table(output):
    """All rows of an output folder."""
    paths = sorted((output / "shards").glob("*.parquet"))
    return pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in paths).to_pylist()


def checksum(output):
    """Of everything in an output folder but its locks."""
    digest = hashlib.sha256()
    for path in sorted(output.rglob("*")):
        if path.is_file() and not path.name.startswith(".lock"):
            digest.update(str(path.relative_to(output)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def score(tiny_scorer):
    """`score(source, output, **options)` with the tiny model in this process, three rows a shard."""

    def run(source, output, **options):
        return score_corpus(source, output, scorer=tiny_scorer, **{"num_workers": 0, "rows_per_shard": 3, **options})

    return run


@pytest.fixture
def manifest(clips, tmp_path):
    """Twenty rows: twelve clips, a broken line, a missing file, silence, keys that occur twice, three languages."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    lines = [json.dumps({"audio_filepath": str(clips / f"{i:02d}.wav"), "language": ["de", "fr", "nl"][i % 3]}) for i in range(12)]
    lines.insert(4, '{"audio_filepath": ')
    lines.insert(7, json.dumps({"audio_filepath": "gone.wav", "language": "de"}))
    lines.insert(9, json.dumps({"audio_filepath": "silence.wav", "language": "fr"}))
    lines += lines[:5]
    path = tmp_path / "manifest.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class StopError(Exception):
    """A fault in the middle of a run."""


def stop_after(rows):
    def check(progress):
        if progress.rows >= rows:
            raise StopError

    return check


def test_every_row_of_the_source_is_a_row_in_order_with_its_reason(score, manifest, tiny_scorer, tmp_path):
    progress = score(manifest, tmp_path / "out")

    rows = table(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(20))
    codes = {4: "bad_row", 7: "missing", 9: "silent", 19: "bad_row"}
    assert {row["row"]: row["code"] for row in rows if row["status"] != "ok"} == codes
    assert [row["status"] for row in rows if row["code"]] == ["failed", "failed", "abstained", "failed"]
    assert rows[0][score_column(rows)] == pytest.approx(tiny_scorer(rows[0]["audio"])["mos"], abs=1e-5)
    assert dict(progress.statuses) == {"ok": 16, "failed": 3, "abstained": 1}
    assert progress.complete


def score_column(rows):
    return next(name for name in rows[0] if name.startswith("mos__"))


def test_rows_carry_what_is_known_of_the_recording_and_its_group(score, manifest, tmp_path):
    score(manifest, tmp_path / "out")

    row = table(tmp_path / "out")[1]
    assert row["language"] == "fr"
    assert row["duration_seconds"] == pytest.approx(0.65)
    assert (row["sampling_rate"], row["num_windows"], row["warnings"]) == (RATE, 2, ["short"])
    assert 0 < row["speech_ratio"] <= 1 and 0 <= row["clipped_share"] < 0.1


def test_shards_say_which_model_in_which_mode_gave_the_scores(score, manifest, tiny_scorer, tmp_path):
    score(manifest, tmp_path / "out", mode="fast")

    for path in (tmp_path / "out" / "shards").glob("*.parquet"):
        identity = json.loads(pyarrow.parquet.read_schema(path).metadata[b"hf_sqa"])["identity"]
        assert identity["weights"] == tiny_scorer.identity()["weights"]
        assert (identity["mode"], identity["dtype"], identity["channel"]) == ("fast", "float32", "mean")
    assert identity == json.loads((tmp_path / "out" / "run.json").read_text())["identity"]


def test_a_pipeline_made_for_a_mode_scores_in_that_mode(clips, tiny_folder, tmp_path):
    import hf_sqa

    scorer = hf_sqa.pipeline(str(tiny_folder), device="cpu", mode="fast", hop_seconds=0.3)
    score_corpus(clips, tmp_path / "out", scorer=scorer, num_workers=0)

    identity = json.loads((tmp_path / "out" / "run.json").read_text())["identity"]
    assert (identity["mode"], identity["hop_seconds"]) == ("fast", 0.3)
    row = table(tmp_path / "out")[11]
    assert row[score_column([row])] == pytest.approx(scorer(row["audio"])["mos"], abs=1e-6)


def test_a_suffix_of_ones_own_names_the_columns(score, clips, tmp_path):
    score(clips, tmp_path / "named", suffix="v2")
    score(clips, tmp_path / "bare", suffix="")

    assert "mos__v2" in table(tmp_path / "named")[0]
    assert "mos" in table(tmp_path / "bare")[0]


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 11, 19])
def test_a_stopped_run_is_taken_up_to_the_same_bytes(rows, score, manifest, tmp_path):
    score(manifest, tmp_path / "whole")
    with pytest.raises(StopError):
        score(manifest, tmp_path / "out", on_progress=stop_after(rows))

    progress = score(manifest, tmp_path / "out")

    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")
    assert progress.kept >= (rows - 1) // 3 * 3
    assert progress.rows == 20 - progress.kept


def test_a_finished_run_is_not_touched_again(score, manifest, tmp_path):
    score(manifest, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()}

    progress = score(manifest, tmp_path / "out")

    assert (progress.rows, progress.kept, progress.shards) == (0, 20, 0)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").iterdir()} == before


def test_a_damaged_shard_is_made_again(score, manifest, tmp_path):
    score(manifest, tmp_path / "out")
    before = checksum(tmp_path / "out")
    shard = tmp_path / "out" / "shards" / "000002.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])

    assert score(manifest, tmp_path / "out").rows == 3
    assert checksum(tmp_path / "out") == before


def test_rows_that_changed_in_the_source_are_scored_again_and_the_others_are_not(score, manifest, tmp_path, clips):
    score(manifest, tmp_path / "out")
    lines = manifest.read_text().splitlines()
    lines[10] = json.dumps({"audio_filepath": str(clips / "00.wav"), "language": "en"})
    lines += [lines[0]]
    manifest.write_text("\n".join(lines))

    progress = score(manifest, tmp_path / "out")

    assert progress.rows == 3 + 3  # the shard of row 10, and the last, which got longer
    score(manifest, tmp_path / "fresh")
    assert checksum(tmp_path / "out") == checksum(tmp_path / "fresh")


def test_shards_beyond_the_end_of_a_source_that_became_shorter_go(score, manifest, tmp_path):
    score(manifest, tmp_path / "out")
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:5]))

    assert score(manifest, tmp_path / "out").complete
    assert len(table(tmp_path / "out")) == 5


def test_failed_rows_are_retried_on_request_and_the_others_are_kept(score, manifest, tmp_path, clips):
    score(manifest, tmp_path / "out")
    shutil.copy(clips / "02.wav", manifest.parent / "gone.wav")

    assert score(manifest, tmp_path / "out").rows == 0
    progress = score(manifest, tmp_path / "out", retry_failed=True)

    assert dict(progress.statuses) == {"ok": 1, "failed": 2}
    score(manifest, tmp_path / "fresh")
    assert checksum(tmp_path / "out") == checksum(tmp_path / "fresh")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mode": "fast"}, "identity.mode was 'published', is 'fast'"),
        ({"channel": 0}, "identity.channel was 'mean', is 0"),
        ({"rows_per_shard": 4}, "rows_per_shard was 3, is 4"),
        ({"suffix": "x"}, "columns.mos was .*is .mos__x"),
    ],
)
def test_an_output_of_other_scores_is_refused_unless_it_may_be_rescored(options, message, score, manifest, tmp_path):
    score(manifest, tmp_path / "out")

    with pytest.raises(RunMismatch, match=message):
        score(manifest, tmp_path / "out", **options)
    progress = score(manifest, tmp_path / "out", rescore=True, **options)

    assert (progress.rows, progress.kept) == (20, 0)
    score(manifest, tmp_path / "fresh", **options)
    assert checksum(tmp_path / "out") == checksum(tmp_path / "fresh")


def test_an_output_of_another_model_or_source_is_refused(score, manifest, clips, make_tiny, tmp_path):
    import hf_sqa

    score(manifest, tmp_path / "out")
    other = make_tiny(seed=1)
    other_scorer = hf_sqa.pipeline(other, feature_extractor=other.make_feature_extractor(), device="cpu")

    with pytest.raises(RunMismatch, match="weights was"):
        score_corpus(manifest, tmp_path / "out", scorer=other_scorer, num_workers=0)
    with pytest.raises(RunMismatch, match="source was"):
        score(clips, tmp_path / "out")


def test_a_folder_with_other_things_in_it_is_refused(score, manifest, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("dear")

    with pytest.raises(RunMismatch, match="not empty"):
        score(manifest, tmp_path / "out")


def test_two_runs_on_one_output_do_not_meet(score, manifest, tmp_path):
    with hold_output(tmp_path / "out"), pytest.raises(Locked, match="Another process is writing"):
        score(manifest, tmp_path / "out")


def test_parts_may_share_an_output_but_not_with_the_whole_or_themselves(tmp_path):
    with hold_output(tmp_path, (0, 2)):
        with hold_output(tmp_path, (1, 2)):
            pass
        for part in ((0, 2), (0, 1)):
            with pytest.raises(Locked), hold_output(tmp_path, part):
                pass


def test_parts_together_are_the_whole(score, manifest, tmp_path):
    score(manifest, tmp_path / "whole")
    first = score(manifest, tmp_path / "out", part=(0, 2))
    second = score(manifest, tmp_path / "out", part=(1, 2))

    assert (first.complete, second.complete) == (False, True)
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing(num_workers, score, manifest, tmp_path):
    score(manifest, tmp_path / "alone")
    score(manifest, tmp_path / "helped", num_workers=num_workers)

    assert checksum(tmp_path / "alone") == checksum(tmp_path / "helped")


def test_packing_does_not_move_a_score(score, clips, tmp_path, monkeypatch):
    from hf_sqa.models.distilled_sqa import modeling_distilled_sqa

    score(clips, tmp_path / "alone")
    monkeypatch.setitem(modeling_distilled_sqa.WINDOWS_PER_CALL, "cpu", 5)
    score(clips, tmp_path / "packed", pack_seconds=2.3, rows_per_shard=12)

    alone, packed = table(tmp_path / "alone"), table(tmp_path / "packed")
    column = score_column(alone)
    assert [row["key"] for row in packed] == [row["key"] for row in alone]
    assert np.allclose([row[column] for row in packed], [row[column] for row in alone], atol=1e-5)
    assert np.ptp([row[column] for row in alone]) > 0.01


def test_a_model_that_pads_gives_the_same_scores_in_packs_sorted_by_length(clips, tmp_path):
    import torch

    import hf_sqa
    from hf_sqa import Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig

    torch.manual_seed(0)
    model = Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig.tiny()).eval()
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")
    score_corpus(clips, tmp_path / "alone", scorer=scorer, num_workers=0)
    score_corpus(clips, tmp_path / "packed", scorer=scorer, num_workers=0, pack_seconds=3.0)

    alone, packed = table(tmp_path / "alone"), table(tmp_path / "packed")
    column = score_column(alone)
    assert np.allclose([row[column] for row in packed], [row[column] for row in alone], atol=1e-5)
    assert [row["duration_seconds"] for row in packed] == [row["duration_seconds"] for row in alone]


def test_a_disk_that_is_full_stops_the_run_and_keeps_what_is_finished(score, manifest, tmp_path, monkeypatch):
    score(manifest, tmp_path / "whole")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole" / "shards").iterdir())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = stop_when = 7

    def fill_the_disk(progress):
        if progress.rows == stop_when:
            resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0] // 2, hard))

    try:
        with pytest.raises(OutputError, match=r"cannot be written .*make room"):
            score(manifest, tmp_path / "out", on_progress=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [row["row"] for row in table(tmp_path / "out")] == list(range(rows - rows % 3))
    assert not list((tmp_path / "out" / "shards").glob(".*"))
    score(manifest, tmp_path / "out")
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_disk_that_is_full_when_a_shard_is_closed_leaves_no_half_of_it(moment, score, manifest, tmp_path, monkeypatch):
    """No space left: some file systems say so only when data are flushed, or when the folder needs a block."""
    score(manifest, tmp_path / "whole")
    true_call, calls = getattr(os, moment), []

    def full(*arguments):
        calls.append(arguments)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true_call(*arguments)

    monkeypatch.setattr(os, moment, full)
    with pytest.raises(OutputError, match=r"No space left on device.*make room"):
        score(manifest, tmp_path / "out")
    monkeypatch.undo()

    assert shards(tmp_path / "out") and not list((tmp_path / "out" / "shards").glob(".*"))
    score(manifest, tmp_path / "out")
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


def children():
    """Processes that this one started and that run."""
    return [int(child) for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_worker_that_is_killed_and_a_file_that_hangs_do_not_disturb_the_run(score, manifest, tmp_path):
    os.mkfifo(tmp_path / "hangs.wav")
    lines = manifest.read_text().splitlines()
    lines[11] = json.dumps({"path": "hangs.wav", "language": "nl"})
    manifest.write_text("\n".join(lines))
    undisturbed = in_a_child(lambda: score(manifest, tmp_path / "whole", num_workers=1, timeout_seconds=5.0))
    others, killed = set(children()), []

    def kill(progress):
        if progress.rows in (3, 14) and len(killed) < (1 if progress.rows == 3 else 2):
            killed.extend(set(children()) - others)
            os.kill(killed[-1], signal.SIGKILL)

    progress = score(manifest, tmp_path / "out", num_workers=1, timeout_seconds=5.0, on_progress=kill)

    assert os.waitpid(undisturbed, 0)[1] == 0
    assert len(killed) == 2
    assert {row["row"]: row["code"] for row in table(tmp_path / "out") if row["code"]}[11] == "timed_out"
    assert progress.statuses["ok"] == 15
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


def test_a_corpus_whose_folder_is_not_utf8_is_scored_and_taken_up(score, clips, tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    shutil.copytree(clips, folder)

    assert dict(score(folder, tmp_path / "out").statuses) == {"ok": 12}
    assert score(folder, tmp_path / "out").kept == 12


def test_a_file_that_vanishes_after_listing_is_a_row(score, clips, tmp_path):
    folder = tmp_path / "clips"
    shutil.copytree(clips, folder)

    def remove(progress):
        if progress.rows == 2:
            (folder / "08.wav").unlink(missing_ok=True)

    score(folder, tmp_path / "out", on_progress=remove)

    assert {row["row"]: row["code"] for row in table(tmp_path / "out") if row["code"]} == {8: "missing"}


def test_a_failing_model_stops_the_run_instead_of_failing_every_row(clips, tmp_path, tiny_scorer, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(type(tiny_scorer), "forward", broken)
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"path": str(clips / f"{i % 12:02d}.wav")}) for i in range(40)))

    with pytest.raises(RuntimeError, match=r"The model fails at every recording: .*no kernel"):
        score_corpus(tmp_path / "m.jsonl", tmp_path / "out", scorer=tiny_scorer, num_workers=0)


def test_an_odd_clock_and_locale_change_nothing(score, manifest, tmp_path, monkeypatch):
    import locale

    score(manifest, tmp_path / "plain")
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: -1e9)
    before = locale.setlocale(locale.LC_ALL)
    try:
        locale.setlocale(locale.LC_ALL, "C")
        score(manifest, tmp_path / "odd")
    finally:
        locale.setlocale(locale.LC_ALL, before)
        monkeypatch.undo()
        time.tzset()

    assert checksum(tmp_path / "odd") == checksum(tmp_path / "plain")


def test_a_long_recording_among_short_ones_is_streamed(score, clips, tmp_path, monkeypatch):
    import hf_sqa.audio.recording as recording

    monkeypatch.setattr(recording, "MAX_SECONDS_IN_MEMORY", 5.0)
    long = np.concatenate([make_clip(seed, 4.0) for seed in range(5)])
    soundfile.write(tmp_path / "long.wav", long, RATE)
    paths = [clips / "00.wav", tmp_path / "long.wav", clips / "01.wav"]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"path": str(path)}) for path in paths))

    score(tmp_path / "m.jsonl", tmp_path / "out")

    assert [(row["status"], row["duration_seconds"] > 5) for row in table(tmp_path / "out")] == [
        ("ok", False),
        ("ok", True),
        ("ok", False),
    ]


@pytest.fixture
def hour(clips, tmp_path):
    """A manifest of ten rows: an hour of FLAC, a minute again and again, among clips of a second, as the fifth row."""
    seconds = np.arange(60 * RATE) / RATE
    minute = 0.2 * np.sin(2 * np.pi * 200 * seconds) * np.sin(2 * np.pi * (1 + seconds // 10) * seconds)
    path = tmp_path / "hour.flac"
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    paths = [*sorted(clips.glob("*.wav"))[:4], path, *sorted(clips.glob("*.wav"))[4:9]]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps({"path": str(path)}) for path in paths))
    yield tmp_path / "m.jsonl"
    path.unlink()


def in_a_child(work):
    """Start a copy of this process that does some work; its number."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child


@pytest.mark.slow
def test_an_hour_among_short_clips_takes_no_more_memory_keep_the_order_and_are_taken_up(make_tiny, hour, clips, tmp_path):
    """It is 230 MB in float32. Killed while they are decoded, killed while they are scored, then left in peace."""

    import hf_sqa

    few = {"num_mel_bins": 8, "num_conv_layers": 1, "conv_layer_channels": [4], "conv_time_strides": [4], "num_hidden_layers": 1}
    model = make_tiny(window_samples=122_880, hop_samples=122_880, **few)
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")

    def score(source, output, **options):
        return score_corpus(source, tmp_path / output, scorer=scorer, rows_per_shard=3, **{"num_workers": 0, **options})

    def start(*arguments, **options):
        return in_a_child(lambda: score(*arguments, **options))

    def peak_and_cpu_seconds(source, output):
        _, status, usage = os.wait4(start(source, output), 0)
        assert status == 0
        return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime

    (without, _), (peak, seconds) = peak_and_cpu_seconds(clips, "short"), peak_and_cpu_seconds(hour, "whole")

    assert peak - without < 100, f"{peak:.0f} MB with an hour, {without:.0f} MB without"
    rows = table(tmp_path / "whole")
    assert [row["row"] for row in rows] == list(range(10))
    assert [row["status"] for row in rows] == ["ok"] * 10
    assert [row["duration_seconds"] > 1000 for row in rows] == [index == 4 for index in range(10)]
    assert (rows[4]["duration_seconds"], rows[4]["num_windows"]) == (3_600.0, 469)

    for share in (0.1, 0.4):
        child = start(hour, "out", on_progress=lambda done, share=share: done.rows + done.kept == 4 and killed_in(share * seconds))
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGPROF
        assert len(shards(tmp_path / "out")) == 1

    progress = score(hour, "out", num_workers=1)
    assert (progress.kept, progress.rows) == (3, 7)
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


def killed_in(seconds):
    """Have this process killed when it has computed for some seconds more; the clock runs on where it does not."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def shards(folder):
    return sorted(folder.rglob("*.parquet"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_leave_the_same_bytes(score, manifest, clips, tmp_path):
    """Children of this process, so that starting one costs nothing; some are killed before they write."""
    lines = [json.dumps({"path": str(clips / f"{i % 12:02d}.wav"), "system": f"s{i % 4}"}) for i in range(126)]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    began = time.process_time()
    score(tmp_path / "m.jsonl", tmp_path / "whole")
    seconds = time.process_time() - began
    draw = random.Random(0)

    def stop(done):
        if done.rows >= 6:  # else the twenty might come to an end before they are killed
            os.kill(os.getpid(), signal.SIGKILL)

    def begin(kill, share):
        killed_in(share * seconds)
        score(tmp_path / "m.jsonl", tmp_path / "out", num_workers=kill % 2, on_progress=stop)

    for kill in range(20):
        share = draw.uniform(0.001, 0.1)
        child = in_a_child(lambda kill=kill, share=share: begin(kill, share))
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])

    progress = score(tmp_path / "m.jsonl", tmp_path / "out")

    assert 0 < progress.kept < 126
    assert progress.complete
    assert checksum(tmp_path / "out") == checksum(tmp_path / "whole")


def test_a_run_with_timelines_says_where_every_recording_is_worst(clips, tiny_folder, tmp_path):
    score_corpus(clips, tmp_path / "plain", model=str(tiny_folder), num_workers=0)
    score_corpus(clips, tmp_path / "out", model=str(tiny_folder), num_workers=0, timeline=True)

    rows, plain = table(tmp_path / "out"), table(tmp_path / "plain")
    assert all(0 <= row["worst_start"] < row["worst_end"] <= row["duration_seconds"] + 1e-6 for row in rows)
    assert [{name: value for name, value in row.items() if not name.startswith("worst")} for row in rows] == plain
    with pytest.raises(RunMismatch, match="timeline"):
        score_corpus(clips, tmp_path / "plain", model=str(tiny_folder), num_workers=0, timeline=True)
