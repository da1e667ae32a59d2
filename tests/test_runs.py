"""A file is there whole or as it was."""

import pytest

from hf_sqa.runs import whole_file, write_whole


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
