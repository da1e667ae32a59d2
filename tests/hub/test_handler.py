"""`handler.py` of a repository, run as an Inference Endpoint runs it."""

import base64
import json

import pytest

from hf_sqa.hub.endpoint_handler import EndpointHandler
from tests.hub.test_publish import REPO, published, push

#: Runs the handler of a repository where hf_sqa cannot be imported.
ELSEWHERE = """
import base64, json, sys
folder = {folder!r}
assert not [name for name in sys.modules if name.split(".")[0] in ("hf_sqa", "transformers")]
sys.modules["hf_sqa"] = None
sys.path.insert(0, folder)
from handler import EndpointHandler
handler = EndpointHandler(folder)
sample = open(folder + "/sample.flac", "rb").read()
print(json.dumps([handler(dict(inputs=sample)), *handler(dict(inputs=[base64.b64encode(sample).decode(), b"no audio"]))]))
"""


def test_the_handler_of_a_repository_scores_without_hf_sqa(hub, checkpoint, bare_nursery, tmp_path):
    push(checkpoint, with_code=True, with_handler=True)
    assert {"handler.py", "requirements.txt"} <= published(hub)
    folder = hub.api().snapshot_download(REPO, local_dir=tmp_path / "repository")

    result = bare_nursery.start(ELSEWHERE.format(folder=str(folder)), folder=tmp_path)
    result.communicate()

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
