"""Processes that tests start, wait for and interrupt.

A busy machine may be twenty times slower than a quiet one, so tests wait for events, and every wait ends at one generous bound.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

#: Seconds after which whatever a test waits for counts as not coming.
PATIENCE = 900


def wait_until(condition, process=None):
    """Wait until `condition()` holds, or until the process has ended: what is asserted next tells which."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain"
        time.sleep(0.01)


def free_port():
    """A port of this machine that nobody listens on, below those that the system hands out to other tests."""
    while True:
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port := random.SystemRandom().randrange(20_000, 32_768)))
            except OSError:
                continue
            return port


def heed_interrupts():
    """For `preexec_fn`: a test run in the background ignores Ctrl-C, and its children would with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(*arguments):
    """Code that runs the console command."""
    return f"import sys; sys.argv = ['hf-sqa', *{list(map(str, arguments))!r}]; import hf_sqa.cli; hf_sqa.cli.main()"


def signal_at(module, number, sent, *, whole_group=False):
    """Code to run before a command: the process, or its whole group, gets a signal where `module` takes a result of its workers."""
    return f"""
import os, signal
import {module} as stopped
os.setsid()
in_processes = stopped.in_processes

def until_the_signal(*arguments, **options):
    for number, result in enumerate(in_processes(*arguments, **options)):
        if number == {number}:
            os.{"killpg" if whole_group else "kill"}(os.getpid(), signal.{sent})
        yield result

stopped.in_processes = until_the_signal
"""


def script(path, *arguments):
    """Code that runs a program, which finds the modules beside it."""
    return (
        f"import runpy, sys; sys.argv = {list(map(str, (path, *arguments)))!r}; sys.path.insert(0, {str(Path(path).parent)!r}); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )


class Nursery:
    """Starts processes that have torch, transformers and hf_sqa imported already, or the modules named, which saves each seconds.

    They are copies of `tests/nursery.py`, have no threads and no state of this process, and their cache is the folder `home`.
    """

    def __init__(self, home, *modules):
        self.home = Path(home)
        environment = os.environ | {"HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_TOKEN": ""}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[1],
            start_new_session=True,
        )
        assert self._process.stdout.readline().strip() == "ready"

    def start(self, code, *, folder=".", **environment):
        """A [`Child`] that runs some code in a folder."""
        return Child(self, code, str(Path(folder).absolute()), environment)

    def ask(self, **order):
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)


class Child:
    """A process of a [`Nursery`]: what `subprocess.Popen` has, as far as tests use it."""

    def __init__(self, nursery, code, folder, environment):
        self._nursery = nursery
        self._outputs = tempfile.TemporaryDirectory()
        self.returncode = self.stdout = self.stderr = None
        files = {name: str(Path(self._outputs.name, name)) for name in ("stdout", "stderr")}
        self.pid = nursery.ask(code=code, folder=folder, environment=environment, **files)

    def poll(self):
        if self.returncode is None:
            self.returncode = self._nursery.ask(poll=self.pid)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def so_far(self, output):
        """What it has written by now to `"stdout"` or `"stderr"`."""
        if getattr(self, output) is not None:
            return getattr(self, output)
        written = Path(self._outputs.name, output)
        return written.read_text(errors="replace") if written.exists() else ""  # the process makes the file when it begins

    def communicate(self):
        """Wait for its end; what it wrote to standard output and standard error, which are its `stdout` and `stderr` too."""
        wait_until(lambda: self.poll() is not None)
        if self.stdout is None:
            self.stdout, self.stderr = (Path(self._outputs.name, name).read_text(errors="replace") for name in ("stdout", "stderr"))
            self._outputs.cleanup()
        return self.stdout, self.stderr
