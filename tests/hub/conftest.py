"""The loopback Hub, and fresh processes that talk to it."""

import json
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
import transformers.utils.hub
from huggingface_hub import HfApi, constants, hf_api

from tests.processes import PATIENCE

HERE = Path(__file__).parent
ALICE, BOB = "hf_" + "a" * 34, "hf_" + "b" * 34

#: What the fixture `hub` does in this process, for another one.
AT_THE_HUB = """
import importlib, sys
from huggingface_hub import constants, hf_api
constants.HF_HUB_OFFLINE = False
constants.ENDPOINT = hf_api.api.endpoint = {address!r}
constants.HUGGINGFACE_CO_URL_TEMPLATE = {address!r} + "/{{repo_id}}/resolve/{{revision}}/{{filename}}"
if "datasets.config" in sys.modules:
    importlib.reload(sys.modules["datasets.config"])
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
def hub(hub_process, tmp_path_factory, monkeypatch):
    """An empty Hub on loopback, reachable from this process too, which has nothing from it: tests share names of repositories."""
    hub_process.control(forget=True, erase=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub_process.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub-cache")))
    template = f"{hub_process.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub_process.address)
    # transformers makes one client with the endpoint of the moment, and keeps it.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setenv("HF_TOKEN", ALICE)
    return hub_process


@pytest.fixture
def fresh(hub, nursery, tmp_path):
    """`fresh(code)`: run it in a process of its own with an empty cache; `keep_cache=True` leaves what the last one downloaded."""

    def run(code, *, token="", keep_cache=False, folder=tmp_path, **environment):
        if not keep_cache:
            shutil.rmtree(nursery.home, ignore_errors=True)
        nursery.home.mkdir(exist_ok=True)
        code = AT_THE_HUB.format(address=hub.address) + code
        child = nursery.start(code, folder=folder, HF_ENDPOINT=hub.address, HF_HUB_OFFLINE="0", HF_TOKEN=token, **environment)
        child.communicate()
        return child

    return run


@pytest.fixture
def checkpoint(tiny_folder, tmp_path):
    """A copy of the tiny checkpoint that a test may change."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "checkpoint"))
