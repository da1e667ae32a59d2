"""Processes that decode and score: the rows of one process, in order, and what goes wrong costs what it costs there."""

import json
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile
import torch
from made_clips import RATE
from made_decoders import Killer, decode_then, slow
from typer.testing import CliRunner

import hf_sqa
from hf_sqa import isolation
from hf_sqa.cli import app
from hf_sqa.isolation import Isolated, Lost
from hf_sqa.scoring import CorpusScorer, Item, Settings, processes
from hf_sqa.scoring.processes import Cores, Scoring, alone_at_first, cores, one_thread, scored
from tests.processes import command


@pytest.fixture
def recordings(clips, tmp_path):
    """Twelve clips, silence, no audio and nothing, in no order of length."""
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE), RATE)
    (tmp_path / "garbage.wav").write_bytes(b"no audio" * 100)
    paths = [str(path) for path in sorted(clips.glob("*.wav"))]
    return [
        *paths[:5],
        str(tmp_path / "silence.wav"),
        *paths[5:9],
        str(tmp_path / "garbage.wav"),
        str(tmp_path / "gone.wav"),
        *paths[9:],
    ]


@pytest.fixture
def corpus(recordings, tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(json.dumps({"audio_filepath": name, "language": "de"}) for name in recordings))
    return path


@pytest.fixture
def afresh(monkeypatch):
    """Processes are started afresh, whether or not this one has threads; for copies of it see `tests/test_isolation.py`."""
    monkeypatch.setattr(isolation, "may_fork", lambda wait_seconds: False)
    monkeypatch.setattr(processes, "may_fork", lambda: False)


def table(output):
    paths = sorted((output / "shards").glob("*.parquet"))
    return pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in paths).to_pylist()


def assert_alike(rows, others):
    """The same rows in the same order, numbers to 1e-5."""
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert list(row) == list(other)
        for name, value in row.items():
            is_number = isinstance(value, float)
            if name == "segments":
                assert_alike(value, other[name])
            else:
                assert other[name] == (pytest.approx(value, abs=1e-5) if is_number else value), name


#: For processes of the nursery: whatever they start are copies of them, or an error.
ONLY_COPIES = "from hf_sqa import isolation; isolation._started_afresh = None\n"

KILLED = """
import json, os, signal
from pathlib import Path
import hf_sqa
from hf_sqa.scoring import score_corpus

def children():
    return {int(child) for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}

killed = []

def kill(progress):
    if progress.rows == 3 and not killed:
        killed.append(min(children()))
        os.kill(killed[0], signal.SIGKILL)

options = {"scorer": hf_sqa.pipeline(MODEL, device="cpu"), "rows_per_shard": 4, "timeline": True}
score_corpus(CORPUS, "one", num_processes=1, **options)
progress = score_corpus(CORPUS, "two", num_processes=2, on_progress=kill, **options)
again = score_corpus(CORPUS, "two", num_processes=1, **options)
print(json.dumps([len(killed), len(children()), progress.complete, progress.statuses["ok"], again.rows]))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_corpus_by_two_processes_one_of_them_killed_is_that_by_one(nursery, corpus, tiny_folder, tmp_path):
    given = f"MODEL, CORPUS = {str(tiny_folder)!r}, {str(corpus)!r}\n"
    process = nursery.start(ONLY_COPIES + given + KILLED, folder=tmp_path)
    printed, errors = process.communicate()

    assert process.returncode == 0, errors
    num_killed, num_left, complete, num_scored, num_rows_again = json.loads(printed.splitlines()[-1])
    assert (num_killed, num_left) == (1, 0)
    assert complete and num_scored == 12
    assert_alike(table(tmp_path / "two"), table(tmp_path / "one"))
    assert num_rows_again == 0  # the same scores, so nothing is left


def test_copies_of_a_process_write_the_bytes_of_one(nursery, corpus, tiny_folder, tmp_path):
    def shards(num_processes):
        output = tmp_path / str(num_processes)
        options = ("--model", tiny_folder, "--device", "cpu", "--rows-per-shard", 4, "--num-processes", num_processes)
        process = nursery.start(ONLY_COPIES + command("score", corpus, "--output", output, *options))
        _, errors = process.communicate()
        assert process.returncode == 0, errors
        return [path.read_bytes() for path in sorted((output / "shards").iterdir())]

    one = shards(1)

    assert len(one) == 4
    assert shards(2) == one


def test_the_time_limit_is_that_of_decoding(afresh):
    with Isolated(partial(decode_then, 6.0), 1, timeout_seconds=5.0) as isolated:
        assert list(isolated.map(["a"])) == [("a", "a")]
    with Isolated(partial(slow, 3600.0), 1, timeout_seconds=5.0) as isolated:
        ((_, result),) = isolated.map(["a"])
    assert isinstance(result, Lost) and result.code == "timed_out"


def test_a_model_that_other_processes_do_not_know_stops_the_run(make_tiny, clips, monkeypatch, afresh):
    model = make_tiny()
    here = types.ModuleType("known_here_only")
    monkeypatch.setitem(sys.modules, "known_here_only", here)
    here.Mine = type("Mine", (type(model),), {"__module__": "known_here_only", "__qualname__": "Mine"})
    model.__class__ = here.Mine
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")

    with pytest.raises(RuntimeError, match=r"A process cannot load the model .*known_here_only.*num_processes=1"):
        list(scored(scorer, [str(clips / "00.wav")], num_processes=2))


def test_a_model_that_does_not_travel_says_so(make_tiny, clips, afresh):
    model = make_tiny()
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")
    scorer.note = lambda: None

    with pytest.raises(ValueError, match=r"cannot be sent to other processes .*num_processes=1"):
        list(scored(scorer, [str(clips / "00.wav")] * 2, num_processes=2))


def test_a_model_that_fails_at_every_recording_stops_the_run(make_tiny, clips):
    model = make_tiny()
    model.transformer.pooling.score_head.weight = torch.nn.Parameter(torch.zeros(1, 3))  # fits nothing
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")
    recording = hf_sqa.load_recording(str(clips / "00.wav"), sampling_rate=RATE)
    refusal = Scoring(scorer, on_error="row")(recording)

    assert refusal.code == "model_failed"
    worker = CorpusScorer(Settings(num_processes=2), scorer)
    with pytest.raises(RuntimeError, match="The model fails at every recording: the model cannot score it"):
        list(worker.rows((Item(index, "", "", None), refusal) for index in range(40)))


def test_a_recording_at_which_the_model_fails_is_a_row_and_its_batch_is_scored(make_tiny, clips, monkeypatch):
    model = make_tiny()
    scorer = hf_sqa.pipeline(model, feature_extractor=model.make_feature_extractor(), device="cpu")
    names = [str(clips / name) for name in ("00.wav", "01.wav", "02.wav")]
    alone = [scorer(name)["mos"] for name in names]
    score = model.score_recordings

    def short_of_memory(recordings, *options, **more):
        if any(recording.source == names[1] for recording in recordings):
            raise RuntimeError("out of memory")
        return score(recordings, *options, **more)

    monkeypatch.setattr(model, "score_recordings", short_of_memory)
    rows = list(scored(scorer, names, num_processes=1, num_workers=0, batch_size=3))

    assert [row["code"] for row in rows] == [None, "out_of_memory", None]
    assert [row["mos"] for row in rows[::2]] == pytest.approx(alone[::2], abs=1e-5)


@pytest.mark.parametrize(
    "num_items, alone_seconds, left_seconds, num_here",
    [(10, 1e9, -1, 10), (10, -1, 1e9, 10), (10, -1, -1, 1), (None, -1, 1e9, 1), (None, 1e9, -1, 10)],
)
def test_other_processes_are_started_if_time_has_passed_and_much_is_left(
    num_items, alone_seconds, left_seconds, num_here, monkeypatch
):
    monkeypatch.setattr(processes, "ALONE_SECONDS", alone_seconds)
    monkeypatch.setattr(processes, "LEFT_SECONDS", left_seconds)

    results = list(
        alone_at_first(
            range(10),
            num_items,
            lambda items: (("here", item) for item in items),
            lambda items: (("there", item) for item in items),
        )
    )

    assert [item for _, item in results] == list(range(10))
    assert [place for place, _ in results] == ["here"] * num_here + ["there"] * (10 - num_here)


@pytest.fixture
def two_threads():
    """As on a machine of two cores. Later tests fork, and where torch has several threads, its copies wait for ever."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.slow
def test_a_run_that_begins_alone_ends_with_the_same_rows(tiny_scorer, recordings, two_threads, afresh, monkeypatch):
    monkeypatch.setattr(isolation, "TRIES", 1)  # each is a process started afresh
    recordings.insert(7, Killer())
    alone = list(scored(tiny_scorer, recordings, num_processes=1))
    monkeypatch.setattr(processes, "ALONE_SECONDS", -1.0)
    monkeypatch.setattr(processes, "LEFT_SECONDS", -1.0)

    rows = list(scored(tiny_scorer, recordings))

    assert [row["code"] for row in rows if row["code"]] == ["silent", "decoder_died", "undecodable", "missing"]
    for row, other in zip(rows, alone, strict=True):
        assert row["code"] == other["code"]
        assert row.get("mos") == (other.get("mos") and pytest.approx(other["mos"], abs=1e-5))


def test_small_models_on_a_cpu_have_a_process_a_core_and_large_ones_one(tiny_scorer, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    large = types.SimpleNamespace(device=torch.device("cpu"), model=torch.nn.Linear(2000, 2000))
    elsewhere = types.SimpleNamespace(device=torch.device("cuda"), model=tiny_scorer.model)

    assert cores(tiny_scorer) == Cores(16, one_thread=True)
    assert cores(tiny_scorer, is_held_back=True) == Cores(1)
    assert cores(tiny_scorer, 1) == Cores(1, one_thread=True)
    assert cores(tiny_scorer, 3) == Cores(3, at_once=True, one_thread=True)
    assert cores(large) == cores(elsewhere) == Cores(1)
    assert cores(large, 2).num_processes == 2
    with pytest.raises(ValueError, match="Expected one process for the device 'cuda', got num_processes=2"):
        cores(elsewhere, 2)


def test_threads_are_given_back(two_threads):
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError

    assert torch.get_num_threads() == 2


def test_the_command_gives_the_same_rows_by_two_processes(nursery, tiny_folder, recordings):
    options = ["score", *recordings, "--model", tiny_folder, "--device", "cpu", "--segments", "--num-processes"]
    results = [nursery.start(ONLY_COPIES + command(*options, number, "--output", "-")) for number in (1, 2)]
    for result in results:
        result.communicate()

    assert [result.returncode for result in results] == [1, 1], results[1].stderr
    one, two = ([json.loads(line) for line in result.stdout.splitlines()] for result in results)
    assert [row["code"] for row in two if row["code"]] == ["silent", "undecodable", "missing"]
    assert len({row["mos"] for row in two if row["status"] == "ok"}) == 12
    assert_alike(two, one)


def test_a_number_of_processes_is_one_or_more(tiny_folder):
    assert "Invalid value for '--num-processes'" in CliRunner().invoke(app, ["score", "a.wav", "--num-processes", "0"]).output


def test_few_long_recordings_are_not_taken_ahead(tmp_path):
    """A worker takes two; every result lets it look one further, so that another process finds some left."""
    taken = []

    def items():
        for index in range(20):
            taken.append(index)
            yield index

    with Isolated(partial(slow, 0.0), 1) as isolated:
        results = isolated.map(items())
        next(results)
        assert taken == [0, 1]
        next(results)
        assert taken == [0, 1, 2, 3]
