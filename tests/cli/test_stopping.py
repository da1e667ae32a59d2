"""How commands end: one line on standard error, and an exit code."""

import errno

import pytest
import typer
from safetensors import SafetensorError

from hf_sqa.cli.stopping import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, faults_end_it, say_first


def ended_by(error, *also):
    with pytest.raises(typer.Exit) as ended, faults_end_it("Interrupted: nothing was lost.", *also):
        raise error
    return ended.value.exit_code


def test_what_cannot_be_used_is_a_line_and_the_exit_code_2(capsys):
    assert ended_by(ValueError("Expected a number, got 'x'.")) == EXIT_USAGE
    assert capsys.readouterr().err == "hf-sqa: Expected a number, got 'x'.\n"


def test_ctrl_c_is_a_line_and_the_exit_code_130(capsys):
    assert ended_by(KeyboardInterrupt()) == EXIT_INTERRUPTED
    assert capsys.readouterr().err == "hf-sqa: Interrupted: nothing was lost.\n"


def test_an_exit_code_passes_as_it_is_even_beside_other_runtime_errors(capsys):
    assert ended_by(typer.Exit(EXIT_FAILED), RuntimeError) == EXIT_FAILED
    assert ended_by(RuntimeError("out of memory"), RuntimeError) == EXIT_USAGE
    assert capsys.readouterr().err == "hf-sqa: out of memory\n"


def test_a_full_disk_that_safetensors_meets_is_called_so(capsys):
    with pytest.raises(typer.Exit) as ended, faults_end_it():
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    assert ended.value.exit_code == 2
    assert "There is no room for the output" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), BrokenPipeError(errno.EPIPE, "gone"), RuntimeError("a bug")])
def test_a_full_disk_a_closed_pipe_and_a_bug_are_not_taken_for_wrong_input(error):
    with pytest.raises(type(error)), faults_end_it():
        raise error


def test_of_many_lines_the_first_are_said_and_the_others_counted(capsys):
    say_first([f"{index}.wav: silent" for index in range(7)], ", in the table.")

    assert capsys.readouterr().err.splitlines()[-2:] == ["4.wav: silent", "... and 2 more, in the table."]
