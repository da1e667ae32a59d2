"""Progress on a pipe or in a log file: a line a minute, with count, rate and time left."""

import io
import sys

import pytest

from hf_sqa import progress
from hf_sqa.progress import bar, clock


class Clock:
    """Seconds as the test wants them."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_log_has_a_line_a_minute_with_count_rate_and_time_left(time):
    lines = []
    with bar(unit="clips", tell=lines.append) as update:
        update(100, 1000, "0 failed")  # there from before
        for done in range(101, 301):
            time.now += 1
            update(done, 1000, "2 failed")

    assert lines == [
        "160 of 1,000 clips, 1.0 a second, 14 min left; 2 failed",
        "220 of 1,000 clips, 1.0 a second, 13 min left; 2 failed",
        "280 of 1,000 clips, 1.0 a second, 12 min left; 2 failed",
    ]


def test_slow_work_is_told_by_the_minute_and_a_total_may_be_unknown(time):
    lines = []
    with bar("windows labelled", tell=lines.append) as update:
        update(0, None)
        time.now += 120
        update(3, None)
        time.now += 3600
        update(4, 10)

    assert lines == ["3, 1.5 a minute; windows labelled", "4 of 10, 0.1 a minute, 1 h 33 min left; windows labelled"]


def test_what_is_done_within_a_minute_says_nothing(time, capsys):
    with bar() as update:
        update(0, 3)
        time.now += 59
        update(3, 3)

    assert capsys.readouterr().err == ""


def test_a_log_begins_with_the_name_of_the_command(time, capsys):
    with bar("reading") as update:
        update(0, 3)
        time.now += 60
        update(1, 3)

    assert capsys.readouterr().err == "hf-sqa: 1 of 3, 1.0 a minute, 2 min left; reading\n"


def test_a_terminal_gets_a_bar_and_no_lines(time, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    lines = []
    with bar("reading", unit="clips", tell=lines.append) as update:
        update(0, 3)
        time.now += 100
        update(1, 3)

    assert not lines and "1/3" in terminal.getvalue()


def test_of_several_processes_one_tells(time, capsys):
    with bar(shown=False) as update:
        update(0, 3)
        time.now += 100
        update(1, 3)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (99, "99 s"), (100, "1 min"), (3900, "1 h 05 min")])
def test_times_are_told_as_one_says_them(seconds, text):
    assert clock(seconds) == text
