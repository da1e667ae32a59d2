"""`handler.py` of a repository, run as an Inference Endpoint runs it."""

import base64
import json
import subprocess
import sys

import pytest

from hf_sqa.hub.endpoint_handler import EndpointHandler
from tests.hub.test_publish import REPO, published, push

#: Runs the handler of a repository where hf_sqa cannot be imported.
ELSEWHERE = """
import base64, json, sys
sys.modules["hf_sqa"] = None
sys.path.insert(0, sys.argv[1])
from handler import EndpointHandler
handler = EndpointHandler(sys.argv[1])
sample = open(sys.argv[1] + "/sample.flac", "rb").read()
print(json.dumps([handler({"inputs": sample}), *handler({"inputs": [base64.b64encode(sample).decode(), b"no audio"]})]))
"""


def test_the_handler_of_a_repository_scores_without_hf_sqa(hub, checkpoint, tmp_path):
    push(checkpoint, with_code=True, with_handler=True)
    assert {"handler.py", "requirements.txt"} <= published(hub)
    folder = hub.api().snapshot_download(REPO, local_dir=tmp_path / "repository")

    result = subprocess.run([sys.executable, "-c", ELSEWHERE, folder], capture_output=True, text=True, cwd=tmp_path)

    assert result.returncode == 0, result.stderr
    plain, encoded, bad = json.loads(result.stdout.splitlines()[-1])
    expected = json.loads((tmp_path / "repository" / "parity.json").read_text())["scores"]["mos"]
    assert [plain["mos"], encoded["mos"]] == pytest.approx([expected] * 2, abs=1e-5)
    assert (plain["status"], bad["status"], bad["code"], bad["mos"]) == ("ok", "failed", "undecodable", None)


def test_the_handler_reads_no_paths_and_says_what_it_expects(tiny_folder):
    handler = EndpointHandler(str(tiny_folder))

    for inputs in ("/etc/passwd", "http://localhost/a.wav", {"path": "/etc/passwd"}, [["a"]]):
        with pytest.raises(ValueError, match="Expected a recording as bytes or in base64"):
            handler({"inputs": inputs})
    with pytest.raises(ValueError, match="Expected `inputs`"):
        handler({})
    with pytest.raises(ValueError, match=r"Expected `parameters` among .*, got on_error"):
        handler({"inputs": base64.b64encode(b"a").decode(), "parameters": {"on_error": "raise"}})
