"""`import hf_sqa` registers with transformers when that is imported, and loads nothing heavy before."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import PATIENCE

METRIC = Path(__file__).parents[1] / "hf_sqa" / "metrics" / "hub" / "speech_quality_agreement"
REGISTERED = (
    "from transformers import AutoConfig\n"
    "from transformers.pipelines import PIPELINE_REGISTRY\n"
    "found = [type(AutoConfig.for_model('nisqa')).__name__, 'audio-quality' in PIPELINE_REGISTRY.supported_tasks]\n"
    "import hf_sqa.modeling\n"
    "print(*found, hasattr(hf_sqa.modeling.AudioQualityPreTrainedModel, 'publish'))"
)


def last_line(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def last_line_of_a_copy(nursery, code: str) -> str:
    """The same, where torch is there already, which nothing here depends on."""
    process = nursery.start(f"import sys; assert not {{'transformers', 'hf_sqa'}} & set(sys.modules)\n{code}")
    process.communicate()
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()[-1]


def test_the_package_and_its_parts_without_networks_load_no_torch():
    code = (
        "import sys, hf_sqa, hf_sqa.audio, hf_sqa.cli, hf_sqa.lite, hf_sqa.metrics\n"
        "from hf_sqa import lite\n"
        "print(lite.LitePipeline.__name__, hf_sqa.__version__ != '', sorted({'torch', 'transformers'} & set(sys.modules)))"
    )

    assert last_line(code) == "LitePipeline True []"


def test_modules_keep_the_loader_that_loaded_them():
    code = "import sys, hf_sqa.cells\nprint(type(hf_sqa.cells.__loader__).__name__, type(hf_sqa.cells.__spec__.loader).__name__)"

    assert last_line(code) == "SourceFileLoader SourceFileLoader"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import sys; sys.argv = ['hf-sqa']; import hf_sqa",  # whatever the script is called
        "import transformers, hf_sqa",
        "from hf_sqa.configuration import AudioQualityConfig",
        "import hf_sqa.training.trainer",
        "import hf_sqa.lite",
    ],
)
def test_whatever_part_comes_first_everything_is_registered_once_transformers_is_there(first, bare_nursery):
    assert last_line_of_a_copy(bare_nursery, f"{first}\n{REGISTERED}") == "NISQAConfig True True"


@pytest.mark.slow
def test_the_metric_of_evaluate_loads_in_a_process_that_has_not_imported_us(bare_nursery):
    pytest.importorskip("evaluate")
    code = (
        f"import evaluate; metric = evaluate.load({str(METRIC)!r})\n"
        "print(metric.compute(predictions=[1, 2, 4], references=[1, 3, 4])['utt_srcc'])"
    )

    assert last_line_of_a_copy(bare_nursery, code) == "1.0"


@pytest.mark.slow
def test_names_and_parts_of_the_package_are_there_when_they_are_asked_for(bare_nursery):
    code = (
        "import hf_sqa.lite, hf_sqa\n"
        "print(hf_sqa.pipeline.__name__, hf_sqa.NISQA.__name__, hf_sqa.models.__name__, hf_sqa.audio.__name__,"
        " hasattr(hf_sqa, 'no_such_thing'))"
    )

    assert last_line_of_a_copy(bare_nursery, code) == "pipeline NISQA hf_sqa.models hf_sqa.audio False"


def test_transformers_is_imported_beside_it_where_there_is_no_torch():
    code = "import sys; sys.modules['torch'] = None\nimport hf_sqa.lite, transformers\nprint('hf_sqa.registration' in sys.modules)"

    assert last_line(code) == "False"
