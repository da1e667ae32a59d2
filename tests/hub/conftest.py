"""The loopback Hub, and fresh processes that talk to it."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants, hf_api

from tests.processes import PATIENCE

HERE = Path(__file__).parent
ALICE, BOB = "hf_" + "a" * 34, "hf_" + "b" * 34

#: Imports once what costs seconds, then runs every piece of code it is handed in a process of its own.
NURSERY = """
import json, os, sys, traceback
import torch, transformers, soundfile, soxr, hf_sqa, hf_sqa.cli, hf_sqa.hub.publish, hf_sqa.hub.bundle, hf_sqa.hub.listing
torch.set_num_threads(1)
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        for name, number in (("stdout", 1), ("stderr", 2)):
            file = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        code = 0
        try:
            exec(compile(order["code"], "<fresh>", "exec"), {"__name__": "__main__"})
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@dataclass
class LoopbackHub:
    """The test double, as tests handle it."""

    address: str

    def api(self, token=ALICE):
        return HfApi(endpoint=self.address, token=token)

    def control(self, **order):
        request = urllib.request.Request(f"{self.address}/_control", data=json.dumps(order).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)["requests"]

    def requests(self):
        return [f"{request['method']} {request['path']}" for request in self.control()]

    def writes(self):
        return [request for request in self.requests() if not request.startswith(("GET", "HEAD"))]


@pytest.fixture(scope="session")
def hub_process():
    process = subprocess.Popen([sys.executable, str(HERE / "server.py")], stdout=subprocess.PIPE, text=True)
    yield LoopbackHub(process.stdout.readline().strip())
    process.kill()
    process.wait()


@pytest.fixture
def hub(hub_process, monkeypatch):
    """An empty Hub on loopback, reachable from this process too."""
    hub_process.control(forget=True, erase=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub_process.address)
    template = f"{hub_process.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub_process.address)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    return hub_process


@pytest.fixture(scope="session")
def nursery(hub_process, tmp_path_factory):
    home = tmp_path_factory.mktemp("fresh-home")
    environment = os.environ | {
        "HF_ENDPOINT": hub_process.address,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_TOKEN": "",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline().strip() == "ready"
    yield process, home
    process.stdin.close()
    process.wait(timeout=PATIENCE)


@pytest.fixture
def fresh(hub, nursery, tmp_path):
    """`fresh(code)`: run it in a process of its own with an empty cache; `keep_cache=True` leaves what the last one downloaded."""
    process, home = nursery

    def run(code, *, token="", keep_cache=False, folder=tmp_path, **environment):
        if not keep_cache:
            shutil.rmtree(home, ignore_errors=True)
        home.mkdir(exist_ok=True)
        files = {name: str(tmp_path / f"fresh.{name}") for name in ("stdout", "stderr")}
        order = {"code": code, "folder": str(folder), "environment": {"HF_TOKEN": token, **environment}, **files}
        process.stdin.write(json.dumps(order) + "\n")
        process.stdin.flush()
        returncode = int(process.stdout.readline())
        texts = [Path(files[name]).read_text(errors="replace") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(code, returncode, *texts)

    return run


def command(*arguments):
    """Code that runs the console command."""
    return f"import sys; sys.argv = ['hf-sqa', *{list(map(str, arguments))!r}]; import hf_sqa.cli; hf_sqa.cli.main()"


@pytest.fixture
def checkpoint(tiny_folder, tmp_path):
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
