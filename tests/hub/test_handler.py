"""`handler.py` of a repository; that it scores without hf_sqa is shown in `test_bundle.py`."""

import base64

import pytest

from hf_sqa.hub.endpoint_handler import EndpointHandler


def test_the_handler_reads_no_paths_and_says_what_it_expects(tiny_folder):
    handler = EndpointHandler(str(tiny_folder))

    for inputs in ("/etc/passwd", "http://localhost/a.wav", {"path": "/etc/passwd"}, [["a"]]):
        with pytest.raises(ValueError, match="Expected a recording as bytes or in base64"):
            handler({"inputs": inputs})
    with pytest.raises(ValueError, match="Expected `inputs`"):
        handler({})
    with pytest.raises(ValueError, match=r"Expected `parameters` among .*, got on_error"):
        handler({"inputs": base64.b64encode(b"a").decode(), "parameters": {"on_error": "raise"}})
