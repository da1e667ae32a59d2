"""Files are whole or absent, locks end with their process, and a killed run goes on."""

import os
import shutil
import subprocess
import sys
import threading

import pytest

from hf_sqa.runs import (
    Locked,
    RunMismatch,
    check_same_run,
    claim,
    describe_differences,
    digest_of,
    in_processes,
    journal,
    locked,
    move_into,
    read_journal,
    whole_file,
    whole_folder,
    write_whole,
)
from tests.processes import PATIENCE


def test_readers_see_the_old_content_until_the_new_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with whole_file(path) as unfinished:
        unfinished.write_text("ne")
        assert path.read_text() == "old"
        unfinished.write_text("new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    with pytest.raises(RuntimeError), whole_file(path) as unfinished:
        unfinished.write_text("ne")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_writers_at_the_same_time_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_sole_writer_left_is_overwritten(tmp_path):
    path = tmp_path / "a.txt"
    with whole_file(path, sole_writer=True) as unfinished:
        left = unfinished
        unfinished.write_text("torn")
        (tmp_path / "torn").write_text("")
        unfinished.replace(tmp_path / "torn")
        unfinished.write_text("whole")
    (tmp_path / "torn").replace(left)
    write_whole(path, "new", sole_writer=True)
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_durable_file_is_whole_as_well(tmp_path):
    write_whole(tmp_path / "a.txt", "new", durable=True)
    assert (tmp_path / "a.txt").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_a_writer_whose_folder_is_removed_says_so(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    with pytest.raises(FileNotFoundError), whole_file(folder / "a.txt") as unfinished:
        unfinished.write_text("new")
        shutil.rmtree(folder)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "deep" / "out"
    with pytest.raises(RuntimeError), whole_folder(folder) as unfinished:
        (unfinished / "a.txt").write_text("torn")
        raise RuntimeError
    assert list(folder.parent.iterdir()) == []
    folder.mkdir()
    with whole_folder(folder) as unfinished:
        (unfinished / "a.txt").write_text("whole")
        assert list(folder.iterdir()) == []
    assert (folder / "a.txt").read_text() == "whole" and list(folder.parent.iterdir()) == [folder]
    with pytest.raises(OSError), whole_folder(folder) as unfinished:
        (unfinished / "a.txt").write_text("other")
    assert (folder / "a.txt").read_text() == "whole" and list(folder.parent.iterdir()) == [folder]


def test_what_is_moved_into_a_folder_replaces_files_and_folders_of_the_same_name(tmp_path):
    finished, folder = tmp_path / "finished", tmp_path / "out"
    for root, text in ((finished, "new"), (folder, "old")):
        (root / "adapter").mkdir(parents=True)
        (root / "adapter" / text).write_text(text)
        (root / "a.txt").write_text(text)
    (folder / "b.txt").write_text("old")
    move_into(finished, folder)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.*")} == {"a.txt", "b.txt"}
    assert (folder / "a.txt").read_text() == "new" and [path.name for path in (folder / "adapter").iterdir()] == ["new"]


HOLDER = """
import sys, time
from pathlib import Path
from hf_sqa.runs import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_lock_is_held_by_one_process_and_released_when_it_is_killed(tmp_path):
    path = tmp_path / "out" / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=r"Another process is writing into .*out.*; wait until it ends"), locked(path):
            pass
        with pytest.raises(Locked, match=r"^Later$"), locked(path, refusal="Later"):
            pass
        with claim(path) as is_ours:
            assert not is_ours
        holder.kill()
    with locked(path, wait=True), claim(path) as is_ours:
        assert not is_ours
    with claim(path) as is_ours:
        assert is_ours


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_called_so(place, tmp_path):
    (tmp_path / "file").write_text("mine")

    with (
        pytest.raises(OSError, match=rf"^Expected a folder to write into, got '{tmp_path}/{place}', which cannot be made"),
        locked(tmp_path / place / ".lock"),
    ):
        pass


def test_a_lock_that_is_let_go_in_a_moment_is_waited_for(tmp_path, monkeypatch):
    """The child of a killed process may hold its lock until it runs, which takes a moment on a busy machine."""
    monkeypatch.setattr("hf_sqa.runs.LET_GO_SECONDS", PATIENCE)
    path = tmp_path / "out" / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        threading.Timer(0.2, holder.kill).start()
        with locked(path):
            assert holder.wait() != 0


def test_an_error_inside_a_claim_is_passed_on(tmp_path):
    with pytest.raises(Locked, match="mine"), claim(tmp_path / "a.lock"):
        raise Locked("mine")


def test_a_journal_keeps_what_was_appended_before_a_kill(tmp_path):
    path = tmp_path / "rows.jsonl"
    with journal(path, [{"name": "a"}]) as append:
        append({"name": "b"})
        assert read_journal(path) == [{"name": "a"}, {"name": "b"}]
    with path.open("a") as file:
        file.write('{"name": "to')
    rows = read_journal(path, columns=["name"])
    assert rows == [{"name": "a"}, {"name": "b"}]
    with journal(path, rows) as append:
        append({"name": "ç"})
    assert path.read_text(encoding="utf-8") == '{"name": "a"}\n{"name": "b"}\n{"name": "ç"}\n'


@pytest.mark.parametrize("line", ["no json", "[1]", '{"other": 1}', '{"name"', "[" * 100_000])
def test_a_journal_that_is_damaged_before_its_end_is_refused(line, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"name": "a"}}\n{line}\n{{"name": "b"}}\n')
    with pytest.raises(ValueError, match=r"Line 2 of .*; burn it"):
        read_journal(path, columns=["name"], remedy="burn it")
    path.write_text(f'{{"name": "a"}}\n{line}')
    assert read_journal(path, columns=["name"]) == [{"name": "a"}]
    assert read_journal(tmp_path / "none.jsonl") == []


def test_the_same_run_may_go_on_and_another_one_is_told_what_differs(tmp_path):
    path, definition = tmp_path / "out" / "run.json", {"seed": 1, "model": {"id": "a", "layers": (1, 2)}, "folder": tmp_path}
    assert check_same_run(path, definition) is False
    assert check_same_run(path, definition | {"folder": str(tmp_path)}) is True
    message = r"model.id was 'a', is 'b'; model.layers.1 was 2, is 3; rate was None, is 8000\): go away\."
    with pytest.raises(RunMismatch, match=message) as refused:
        check_same_run(path, definition | {"model": {"id": "b", "layers": [1, 3]}, "rate": 8000}, "go away")
    assert refused.value.differences == {"model.id": ("a", "b"), "model.layers.1": (2, 3), "rate": (None, 8000)}
    path.write_text('{"seed"')
    with pytest.raises(ValueError, match="damaged"):
        check_same_run(path, definition)


def test_long_values_are_shortened_in_the_message():
    assert len(describe_differences({"steps": ("a" * 10_000, "b" * 10_000)})) < 200


def test_a_digest_differs_with_the_content_and_not_with_the_order_of_keys():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})
    assert len(digest_of({}, 12)) == 12


def _square(number):
    return number * number, os.getpid()


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("num_workers", [1, 2])
def test_processes_compute_every_task_once(num_workers, in_order):
    results = list(in_processes(_square, range(7), num_workers, in_order=in_order))
    squares = [square for square, _ in results]
    assert (squares if in_order else sorted(squares)) == [number * number for number in range(7)]
    assert (os.getpid() in {process for _, process in results}) == (num_workers == 1)


def test_a_journal_keeps_names_that_are_no_text_or_hold_the_ends_of_lines(tmp_path):
    rows = [{"audio": os.fsdecode(b"caf\xe9.wav")}, {"audio": "a\u2028b\x85c.wav"}, {"audio": "plain.wav"}]

    with journal(tmp_path / "rows.jsonl", rows[:1]) as append:
        for row in rows[1:]:
            append(row)

    assert read_journal(tmp_path / "rows.jsonl", ("audio",)) == rows
