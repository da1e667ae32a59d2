"""Copies of a process that has one thread: what they share, and what they must not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE, heed_interrupts, wait_until

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux says how many threads a process has")

BEGIN = """
import json, os, signal, sys, threading, time
import hf_sqa.isolation as isolation  # `from hf_sqa import` would load torch
from hf_sqa.isolation import Isolated, Lost, may_fork

assert may_fork()
isolation._started_afresh = None  # so it is copies, or an error
loaded = {"weights": 3}
"""


def run(code):
    """What a program prints as JSON, which has imported nothing but Python's own modules."""
    result = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def test_copies_share_what_is_loaded_and_answer_in_order():
    # A function of `__main__` over what is in memory here: nothing of it could be sent.
    (results, are_copies), errors = run("""
with Isolated(lambda item: (item * loaded["weights"], os.getpid(), os.getppid()), 2) as isolated:
    found = [result for _, result in isolated.map(range(20))]
print("printed once", flush=True)
print(json.dumps([[result[0] for result in found], [result[1] != os.getpid() == result[2] for result in found]]))
""")

    assert results == [3 * item for item in range(20)]
    assert all(are_copies)
    assert errors == ""


def test_an_item_at_which_a_copy_dies_or_hangs_costs_that_item():
    found, _ = run("""
def work(item):
    if item == "dies":
        os._exit(11)
    if item == "hangs":
        time.sleep(3600)
    return item

with Isolated(work, 2, timeout_seconds=5.0) as isolated:
    found = [result.code if isinstance(result, Lost) else result for _, result in isolated.map(["a", "dies", "b", "hangs", "c"])]
print(json.dumps(found))
""")

    assert found == ["a", "decoder_died", "b", "timed_out", "c"]


def test_a_process_with_threads_is_not_copied():
    found, _ = run("""
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
beside = may_fork()
ended.set()
thread.join()
print(json.dumps(beside))
""")

    assert found is False


def test_threads_that_ended_a_moment_ago_do_not_prevent_copies():
    """The system lists a thread for a while after `join` has returned."""
    results, _ = run("""
isolation.EXITING_SECONDS = 300.0

def copy():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    with Isolated(lambda item: item, 1) as isolated:
        return [result for _, result in isolated.map([7])]
print(json.dumps([copy() for _ in range(200)]))
""")

    assert results == [[7]] * 200


def test_copies_hold_no_files_of_the_process_and_not_its_signals(tmp_path):
    found, _ = run(f"""
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
held = open({str(tmp_path / "held")!r}, "w")

def work(item):
    open_now = [os.path.realpath(f"/proc/self/fd/{{number}}") for number in os.listdir("/proc/self/fd")]
    if item == "ends":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return [name for name in open_now if "held" in name]

with Isolated(work, 1) as isolated:
    first, second = [result for _, result in isolated.map(["looks", "ends"])]
print(json.dumps([first, second.code]))
""")

    assert found == [[], "decoder_died"]


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_copies_end_with_their_process(sent, tmp_path):
    code = """
def work(item):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(3600)

with Isolated(work, 2) as isolated:
    list(isolated.map(range(8)))
"""
    command = [sys.executable, "-c", BEGIN + code, str(tmp_path)]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, preexec_fn=heed_interrupts)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, process)
    copies = [path.name for path in tmp_path.iterdir()]

    (os.killpg if sent == signal.SIGINT else os.kill)(process.pid, sent)
    _, errors = process.communicate(timeout=PATIENCE)

    wait_until(lambda: not any(Path("/proc", copy).exists() for copy in copies))
    assert errors.count(b"KeyboardInterrupt") == (sent == signal.SIGINT)
