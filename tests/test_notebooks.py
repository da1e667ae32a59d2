"""The notebooks run from the first cell to the last, and are kept without outputs."""

from functools import partial
from pathlib import Path

import pytest

from tests.processes import Child

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel, of the development group")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel, of the development group")

local_provisioner = pytest.importorskip("jupyter_client.provisioning.local_provisioner", reason="comes with nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples" / "notebooks").glob("*.ipynb"))
#: What a cell prints at the end.
PROMISED = {"compare_two_codecs": "MP3 is better than GSM", "finetune_on_your_test": "0.flac before"}


def test_there_is_one_for_comparing_and_one_for_fine_tuning():
    assert {path.stem for path in NOTEBOOKS} == set(PROMISED)


class Kernel(Child):
    """A kernel in a process of the nursery: what it imports is there already, its names are its own."""

    stdin = None

    def __init__(self, nursery, command, cwd, **_):
        arguments = command[command.index("ipykernel_launcher") + 1 :]
        code = f"import runpy, sys; sys.argv[1:] = {arguments!r}; runpy.run_module('ipykernel_launcher', run_name='__main__')"
        super().__init__(nursery, code, cwd, {"PYTHONPATH": str(ROOT)})

    def wait(self):
        self.communicate()
        self.stdout = self.stderr = None  # nothing to close
        return self.returncode


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, nursery, monkeypatch):
    monkeypatch.setattr(local_provisioner, "launch_kernel", partial(Kernel, nursery))
    notebook = nbformat.read(path, as_version=4)

    nbclient.NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(path.parent)}}).execute()

    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert PROMISED[path.stem] in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]

    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
