"""Files of other programs in the place of audio, tables, checkpoints and recipes: nothing of them is executed."""

import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.audio import AudioError, load_recording
from hf_sqa.checkpoints import load_checkpoint
from hf_sqa.cli import app
from hf_sqa.data import load_corpus
from hf_sqa.degradations import Chain
from hf_sqa.distillation.recipe import load_distillation
from hf_sqa.hub.card import make_card
from hf_sqa.hub.conversion import convert_checkpoint, readable_checkpoints
from hf_sqa.models.distilled_sqa import DistilledSQAConfig
from hf_sqa.scoring.sources import open_source
from hf_sqa.studies.study_file import load_study
from hf_sqa.training.recipe import load_recipe
from tests.faults.payload import Payload


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A folder of hostile files of all kinds; whatever executes one leaves `executed` there."""
    folder = tmp_path_factory.mktemp("foreign")
    payload = Payload(folder / "executed")
    objects = np.array([payload], dtype=object)
    (folder / "pickle.pt").write_bytes(pickle.dumps(payload))
    (folder / "pickle.pkl").write_bytes(pickle.dumps({"audio": payload}))
    torch.save({"model": {"weight": payload}, "args": payload}, folder / "zip.pt")
    torch.save({"model": payload}, folder / "older.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": {"weight": 1, "bias": None}, "args": []}, folder / "numbers.pt")
    torch.save({"model": {1: torch.ones(2)}, "model_state_dict": {2: torch.ones(2)}, "args": {}}, folder / "keys.pt")
    torch.save(torch.ones(3), folder / "tensor.pt")
    np.save(folder / "objects.npy", objects, allow_pickle=True)
    np.savez(folder / "objects.npz", audio=objects, mos=objects)
    with tarfile.open(folder / "older.tar", "w") as archive:
        for name in ("pickle", "sys_info", "storages", "tensors", "../outside"):
            member = tarfile.TarInfo(name)
            content = pickle.dumps(payload)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(folder / "script.pt", "w") as archive:
        for name in ("constants.pkl", "data.pkl"):
            archive.writestr(f"model/{name}", pickle.dumps(payload))
    _write_hdf5(folder, payload)
    return folder


def _write_hdf5(folder, payload):
    h5py = pytest.importorskip("h5py")
    (folder / "secret").write_bytes(np.ones(8, np.float32).tobytes())
    with h5py.File(folder / "other.h5", "w") as file:
        file["x"] = np.ones(3, np.float32)
    makers = {
        "link": lambda layer: layer.__setitem__("w:0", h5py.ExternalLink(str(folder / "other.h5"), "/x")),
        "raw": lambda layer: layer.create_dataset("w:0", shape=(8,), dtype="f4", external=[(str(folder / "secret"), 0, 32)]),
        "bytes": lambda layer: layer.__setitem__("w:0", np.void(pickle.dumps(payload))),
        "text": lambda layer: layer.__setitem__("w:0", "text"),
        "huge": lambda layer: layer.create_dataset("w:0", shape=(10**11,), dtype="f4", chunks=(10**6,)),
        "group": lambda layer: layer.create_group("w:0"),
        "loop": lambda layer: layer.__setitem__("w:0", h5py.SoftLink("/layer/w:0")),
    }
    for name, make in makers.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.attrs["layer_names"] = [b"layer"]
            layer = file.create_group("layer")
            layer.attrs["weight_names"] = [b"w:0"]
            make(layer)
    with h5py.File(folder / "attribute.h5", "w") as file:
        file.attrs["layer_names"] = 3
    (folder / "cut.h5").write_bytes((folder / "other.h5").read_bytes()[:600])


ARCHIVES = [
    "pickle.pt",
    "zip.pt",
    "older.pt",
    "numbers.pt",
    "keys.pt",
    "tensor.pt",
    "script.pt",
    "older.tar",
    "objects.npy",
    "objects.npz",
]
KERAS = ["link.h5", "raw.h5", "bytes.h5", "text.h5", "huge.h5", "group.h5", "loop.h5", "attribute.h5", "cut.h5", "other.h5"]


@pytest.mark.parametrize("name", ARCHIVES + KERAS)
def test_a_hostile_checkpoint_is_not_converted(name, foreign, tmp_path):
    for family in readable_checkpoints():
        with pytest.raises((ValueError, OSError)) as refused:
            convert_checkpoint(family, foreign / name, tmp_path / "out")
        message = str(refused.value)
        assert 20 < len(message) < 800 and "weights_only" not in message, (family, message)

    assert list(tmp_path.iterdir()) == [] and not (foreign / "executed").exists()


@pytest.mark.parametrize("name", ["link.h5", "raw.h5"])
def test_weights_that_lie_in_another_file_are_not_read(name, foreign, tmp_path):
    with pytest.raises(ValueError, match="lies in another file"):
        convert_checkpoint("mosa_net", foreign / name, tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["pickle.pt", "pickle.pkl", "objects.npy", "objects.npz", "other.h5", "bytes.h5", "older.tar", "zip.pt"]
)
def test_they_are_no_recordings(name, foreign):
    for audio in (str(foreign / name), (foreign / name).read_bytes(), {"path": str(foreign / name)}):
        with pytest.raises(AudioError) as refused:
            load_recording(audio)
        assert refused.value.code == "undecodable" and len(refused.value.message) > 20
    assert not (foreign / "executed").exists()


@pytest.mark.parametrize("name", ["pickle.pkl", "objects.npy", "objects.npz", "other.h5", "zip.pt"])
def test_they_are_no_tables(name, foreign):
    with pytest.raises((ValueError, OSError)) as refused:
        load_corpus(foreign / name)
    assert 20 < len(str(refused.value)) < 800
    for suffix in (".csv", ".jsonl", ".xlsx", ".parquet"):
        table = foreign / f"table-{name}{suffix}"
        table.write_bytes((foreign / name).read_bytes())
        with pytest.raises((ValueError, OSError)) as refused:
            load_corpus(table)
        assert 20 < len(str(refused.value)) < 800
    with pytest.raises(ValueError):
        list(open_source(foreign / name).items())
    assert not (foreign / "executed").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.npz", "model.h5", "tf_model.h5", "adapter_model.bin"])
def test_a_folder_with_such_weights_alone_holds_no_model(name, foreign, tmp_path):
    DistilledSQAConfig.tiny().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes((foreign / "zip.pt").read_bytes())
    if name.startswith("adapter"):
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "default"}')

    with pytest.raises(OSError) as refused:
        load_checkpoint(tmp_path)
    assert len(str(refused.value)) < 800 and not (foreign / "executed").exists()


def test_the_command_says_it_in_one_line(foreign, tmp_path):
    for family, name in (
        ("distilled_sqa", "zip.pt"),
        ("xlsr_sqa", "pickle.pt"),
        ("wav2vec2_mos", "keys.pt"),
        ("mosa_net", "loop.h5"),
    ):
        result = CliRunner().invoke(app, ["convert", family, str(foreign / name), str(tmp_path / "out")])
        assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1, result.output


# --- YAML

PROGRAM = "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [executed]]"
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
YAMLS = {
    "a program": f"model: {PROGRAM}\n",
    "a program as all of it": PROGRAM,
    "a program in a list": f"steps: [{PROGRAM}]\n",
    "a program as a key": f"{PROGRAM}: 1\n",
    "a module": "model: !!python/module:os\n",
    "a name": "model: !!python/name:os.system\n",
    "a tuple": "model: !!python/tuple [1, 2]\n",
    "a tag of nobody": "model: !exec {run: rm}\n",
    "aliases of aliases": LAUGHS,
    "itself": "model: &a [*a]\n",
    "nested deeply": "model: " + "[" * 600,
    "a key twice": "model: {family: nisqa}\nmodel: {family: mosa_net}\n",
    "binary": "\x00\x01\x02",
}
READERS = {
    "a recipe": load_recipe,
    "a chain": Chain.load,
    "a study": load_study,
    "a distillation": load_distillation,
}


@pytest.mark.parametrize("kind", YAMLS)
@pytest.mark.parametrize("reader", READERS)
def test_yaml_is_plain_values(reader, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.yaml").write_text(YAMLS[kind])

    with pytest.raises((ValueError, TypeError)) as refused:
        READERS[reader]("file.yaml")
    assert "file.yaml" in str(refused.value) and len(str(refused.value)) < 1500
    assert not Path("executed").exists()


@pytest.mark.parametrize("kind", YAMLS)
@pytest.mark.parametrize("place", ["README.md", "recipe.yaml"])
def test_a_card_is_made_of_plain_values(place, kind, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in tiny_folder.iterdir():
        Path(file.name).symlink_to(file) if file.suffix == ".safetensors" else Path(file.name).write_bytes(file.read_bytes())
    Path(place).write_text(f"---\n{YAMLS[kind]}\n---\n# A card\n" if place == "README.md" else YAMLS[kind])

    with pytest.raises(ValueError) as refused:
        make_card(tmp_path, license="mit", identity={})
    assert place in str(refused.value) and len(str(refused.value)) < 1500
    assert not Path("executed").exists()


# --- ONNX


@pytest.mark.parametrize("location", ["../secret", "{folder}/secret", "beside", "sub/../../secret", "/etc/passwd", ""])
def test_a_graph_whose_numbers_lie_in_another_file_is_refused(location, tiny_folder, tmp_path, monkeypatch, capfd):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "graph"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path / "secret", folder / "beside"):
        place.write_bytes(np.ones(4, np.float32).tobytes())
    numbers = onnx.TensorProto(name="numbers", data_type=onnx.TensorProto.FLOAT, dims=[4])
    numbers.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location.format(folder=tmp_path)), ("offset", "0"), ("length", "16")):
        numbers.external_data.add(key=key, value=value)
    nodes = [
        onnx.helper.make_node("ReduceSum", ["numbers"], ["sum"]),
        onnx.helper.make_node("Add", ["input_values", "sum"], ["logits"]),
    ]
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["b", "t"]) for name in ("input_values", "logits")]
    graph = onnx.helper.make_graph(nodes, "graph", values[:1], values[1:], [numbers])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for name in ("config.json", "preprocessor_config.json"):
        (folder / name).write_bytes((tiny_folder / name).read_bytes())
    monkeypatch.chdir(folder)

    with pytest.raises(OSError, match="onnxruntime cannot run") as refused:
        hf_sqa.pipeline(str(folder), backend="onnx")
    assert len(str(refused.value)) < 800 and "\n" not in str(refused.value)
    assert capfd.readouterr().err == ""
    assert json.loads((folder / "config.json").read_text())["model_type"] == "distilled_sqa"
