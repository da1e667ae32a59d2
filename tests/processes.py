"""Processes that tests start, wait for and interrupt.

A busy machine may be twenty times slower than a quiet one, so tests wait for events, and every wait ends at one generous bound.
"""

import signal
import time

#: Seconds after which whatever a test waits for counts as not coming.
PATIENCE = 900


def wait_until(condition, process=None):
    """Wait until `condition()` holds, or until the process (a `subprocess.Popen`) has ended: what is asserted next tells which."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain"
        time.sleep(0.01)


def heed_interrupts():
    """For `preexec_fn`: a test run in the background ignores Ctrl-C, and its children would with it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
