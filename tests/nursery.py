"""A program for tests: it imports once what costs seconds; code that it is handed runs in a process that is a copy of it.

    python -m tests.nursery                # everything
    python -m tests.nursery torch          # the modules named

Orders are lines of JSON. `{"code", "folder", "environment", "stdout", "stderr"}`, the last two being files, starts a process and is
answered with its number; `{"poll": number}` with its exit code, or with null while it runs. See `tests.processes.Nursery`.
"""

import gc
import importlib
import json
import os
import signal
import sys
import traceback

EVERYTHING = (
    *("soundfile", "soxr", "torch", "transformers", "typer", "rich.progress"),
    *("hf_sqa.cli", "hf_sqa.hub.bundle", "hf_sqa.hub.card", "hf_sqa.hub.listing", "hf_sqa.hub.publish"),
    *("hf_sqa.training.trainer", "hf_sqa.distillation.run", "hf_sqa.evaluation.after_training", "hf_sqa.finetune.run"),
)


def run(order):
    """Be the process that an order asks for; does not return."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for path, flags, number in (
        (os.devnull, os.O_RDONLY, 0),
        (order["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 1),
        (order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 2),
    ):
        os.dup2(os.open(path, flags), number)
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    code = 0
    try:
        exec(compile(order["code"], "<fresh>", "exec"), {"__name__": "__main__"})
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def exit_code(child):
    ended, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in sys.argv[1:] or EVERYTHING:
        importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)
    gc.freeze()  # copies of this process look through their own objects only
    print("ready", flush=True)
    running = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            answer = exit_code(order["poll"])
            if answer is not None:
                running.discard(order["poll"])
        elif (answer := os.fork()) == 0:
            run(order)
        else:
            running.add(answer)
        print(json.dumps(answer), flush=True)
    for child in running:  # left behind by a test that failed
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
