"""A checkpoint that is damaged, forged or not whole gives one message, and never a score."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import hf_sqa
from hf_sqa.auto import families
from hf_sqa.checkpoints import load_checkpoint

FAMILIES = list(families())


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A folder with a tiny checkpoint of every family."""
    folders = {}
    for family, (config_class, model_class) in families().items():
        folders[family] = tmp_path_factory.mktemp(family)
        torch.manual_seed(0)
        model = model_class(config_class.tiny())
        model.save_pretrained(folders[family])
        model.make_feature_extractor().save_pretrained(folders[family])
    return folders


@pytest.fixture
def copy(originals, tmp_path):
    """`copy(family)`: a copy of its tiny checkpoint, to be damaged."""

    def make(family):
        folder = tmp_path / family
        folder.mkdir()
        for file in originals[family].iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        return folder

    return make


def refusal(folder):
    """What is said of a checkpoint that is refused; anything but one readable message fails."""
    with pytest.raises((OSError, ValueError)) as caught:
        load_checkpoint(folder)
    message = str(caught.value)
    assert message and len(message) < 1500, message
    return message


def changed(folder, **changes):
    """The folder with other values in its configuration; `encoder__hidden_size` is that of the encoder."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for name, value in changes.items():
        section = config
        if name.startswith("encoder__"):
            section, name = config["encoder_config"], name.removeprefix("encoder__")
        section[name] = value
    path.write_text(json.dumps(config))
    return folder


# --- config.json

NO_CONFIGURATIONS = {
    "empty": b"",
    "null": b"null",
    "a list": b"[]",
    "a number": b"3",
    "text": b'"distilled_sqa"',
    "cut": b'{"model_type": "nisqa", ',
    "nested deeply": b"[" * 100_000,
    "an object nested deeply": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "binary": bytes(range(256)),
    "UTF-16": '{"model_type": "nisqa"}'.encode("utf-16"),
    "no family": b"{}",
    "family null": b'{"model_type": null}',
    "family a number": b'{"model_type": 3}',
    "family a list": b'{"model_type": ["nisqa"]}',
    "family unknown": b'{"model_type": "sqa_of_tomorrow"}',
    "another library's family": b'{"model_type": "bert"}',
}


@pytest.mark.parametrize("content", NO_CONFIGURATIONS.values(), ids=NO_CONFIGURATIONS)
def test_what_is_no_configuration_is_refused(content, copy):
    folder = copy("nisqa")
    (folder / "config.json").write_bytes(content)

    refusal(folder)


COMMON = {
    "sampling_rate": [-1, 0, 1, 10**9, float("nan"), float("inf"), "16000", [16000], 16000.5, {}],
    "score_min": [float("nan"), float("-inf"), "1", None, 5.0, [1]],
    "score_max": [float("inf"), 0.5],
    "id2label": [
        {"0": 3},
        {"a": "mos"},
        {"1": "mos"},
        {"0": "mos", "2": "noise"},
        {"0": "mos", "1": "mos"},
        {"0": ""},
        ["mos"],
        "mos",
    ],
    "score_loss": ["cubic", 3, None],
    "huber_delta": [0, -1, float("nan")],
    "score_mapping": [{"mos": "x"}, {"mos": [0]}, {"nobody": [1, 5, 0, 1]}, [1], {"mos": [1, 5, float("nan"), 1]}],
    "ranking_weight": [-1, float("nan")],
    "dtype": ["float99", 3],
}


@pytest.mark.parametrize(
    ("option", "value"),
    [pytest.param(option, value, id=f"{option}={value}") for option, values in COMMON.items() for value in values],
)
def test_a_value_that_no_model_has_is_refused(option, value, copy):
    folder = changed(copy("distilled_sqa"), **{option: value})

    refusal(folder)


SIZES = {
    "distilled_sqa": (
        "window_samples hop_samples fft_size fft_hop_samples num_conv_layers conv_initial_channels "
        "conv_final_channels hidden_size num_hidden_layers num_attention_heads intermediate_size num_mel_bins"
    ),
    "nisqa": (
        "fft_size num_mel_bins segment_frames segment_hop_frames hidden_size num_hidden_layers num_attention_heads "
        "intermediate_size pooling_size hop_seconds window_seconds max_frequency_hz"
    ),
    "mosa_net": "fft_size hop_samples sinc_kernel_size lstm_hidden_size hidden_size encoder__hidden_size",
    "mtq_net": "fft_size lstm_hidden_size encoder__num_attention_heads",
    "wav2vec2_mos": (
        "layer num_last_frames encoder__hidden_size encoder__num_attention_heads encoder__intermediate_size "
        "encoder__num_hidden_layers encoder__num_conv_pos_embeddings encoder__conv_dim"
    ),
    "xlsr_sqa": (
        "num_mel_bins num_mfcc fft_size fft_hop_samples num_frames hidden_size num_hidden_layers "
        "num_attention_heads intermediate_size encoder__hidden_size encoder__conv_kernel"
    ),
}


@pytest.mark.parametrize("value", [-1, 10**9, "many", [[]]], ids=str)
@pytest.mark.parametrize(
    ("family", "option"), [(family, option) for family, options in SIZES.items() for option in options.split()]
)
def test_a_size_that_no_model_has_is_refused_before_anything_is_built(family, option, value, copy):
    refusal(changed(copy(family), **{option: value}))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "dnsmos"])  # which is convolutions only
def test_no_heads_are_refused(family, copy):
    of_encoder = family in ("wav2vec2_mos", "mosa_net", "mtq_net", "utmos")

    assert "num_attention_heads" in refusal(
        changed(copy(family), **{"encoder__num_attention_heads" if of_encoder else "num_attention_heads": 0})
    )


@pytest.mark.parametrize("encoder", [None, [], "wav2vec2", 3, {}, {"model_type": "bert"}, {"model_type": 3}], ids=str)
def test_an_encoder_that_is_none_is_refused(encoder, copy):
    refusal(changed(copy("wav2vec2_mos"), encoder_config=encoder))


@pytest.mark.parametrize("family", ["distilled_sqa", "xlsr_sqa", "nisqa"])
def test_fewer_layers_than_there_are_weights_for_are_refused(family, copy):
    assert "unexpected: " in refusal(changed(copy(family), num_hidden_layers=1))


# --- model.safetensors


def damaged_weights(folder, change):
    """The folder with other tensors in its file."""
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def a_weight(weights):
    """Name of a matrix in the middle of the file."""
    names = [name for name, tensor in sorted(weights.items()) if tensor.ndim > 1 and tensor.shape[0] != tensor.shape[1]]
    return names[len(names) // 2]


def without_one(weights):
    return {name: tensor for name, tensor in weights.items() if name != a_weight(weights)}


def without_buffers_and_norms(weights):
    return {name: tensor for name, tensor in weights.items() if "norm" not in name and "running" not in name}


def renamed(weights):
    return {name + "_" if name == a_weight(weights) else name: tensor for name, tensor in weights.items()}


def with_another(weights):
    return weights | {"left.over": torch.zeros(3)}


def transposed(weights):
    name = a_weight(weights)
    return weights | {name: weights[name].transpose(0, 1).contiguous()}


def shortened(weights):
    name = a_weight(weights)
    return weights | {name: weights[name][1:].contiguous()}


def unrelated(weights):
    return {"unrelated": torch.ones(2)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (without_one, "missing: "),
        (renamed, "missing: "),
        (renamed, "unexpected: "),
        (with_another, "unexpected: left.over"),
        (transposed, "of another shape: "),
        (shortened, "of another shape: "),
        (unrelated, "missing: "),
    ],
)
def test_weights_that_are_not_whole_are_refused_and_named(change, kind, family, copy):
    folder = damaged_weights(copy(family), change)

    assert kind in refusal(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_other_way_to_load_refuses_them_too(family, copy):
    folder = damaged_weights(copy(family), without_one)

    for load in (
        families()[family][1].from_pretrained,
        AutoModel.from_pretrained,
        hf_sqa.AutoModelForAudioQuality.from_pretrained,
        lambda place: hf_sqa.pipeline(str(place), device="cpu"),
    ):
        with pytest.raises(ValueError, match="do not fit the configuration"):
            load(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_not_numbers_are_refused(value, family, copy):
    def spoiled(weights):
        weights[a_weight(weights)].view(-1)[1] = value
        return weights

    assert "not all numbers" in refusal(damaged_weights(copy(family), spoiled))


def test_a_folder_without_weights_says_what_it_lacks(copy):
    folder = copy("nisqa")
    (folder / "model.safetensors").unlink()

    assert "Expected weights in model.safetensors" in refusal(folder)
    (folder / "model.onnx").touch()
    assert "an ONNX graph, which can only score" in refusal(folder)


def test_a_folder_without_a_checkpoint_says_so(tmp_path):
    assert "with config.json or adapter_config.json, got neither" in refusal(tmp_path)


def bytes_changed(folder, change):
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    return folder


HEADERS = {
    "no bytes": lambda content: b"",
    "seven bytes": lambda content: content[:7],
    "half a header": lambda content: content[:100],
    "half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-1],
    "a byte more": lambda content: content + b"\0",
    "a header of 2**63 bytes": lambda content: struct.pack("<Q", 2**63) + content[8:],
    "a header of no bytes": lambda content: struct.pack("<Q", 0) + content[8:],
    "a header a byte longer": lambda content: struct.pack("<Q", struct.unpack("<Q", content[:8])[0] + 1) + content[8:],
    "a pickle": lambda content: b"\x80\x04\x95" + content,
    "a page": lambda content: b"<!DOCTYPE html>" + content,
    "a pointer of git": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
    "other types": lambda content: content.replace(b'"F32"', b'"I32"'),
    "narrower types": lambda content: content.replace(b'"F32"', b'"F16"'),
    "unknown types": lambda content: content.replace(b'"F32"', b'"F33"'),
    "offsets swapped": lambda content: content.replace(b'"data_offsets":[0,', b'"data_offsets":[9,', 1),
    "a list for an object": lambda content: b"[" + content[1:8] + b"[" + content[9:],
}


@pytest.mark.parametrize("change", HEADERS.values(), ids=HEADERS)
def test_a_damaged_file_of_weights_is_refused(change, copy):
    refusal(bytes_changed(copy("distilled_sqa"), change))


def test_a_flipped_bit_of_the_header_is_refused_or_changes_nothing(copy, originals):
    whole = load_checkpoint(originals["nisqa"]).model.state_dict()
    folder = copy("nisqa")
    content = (folder / "model.safetensors").read_bytes()
    size = struct.unpack("<Q", content[:8])[0]

    for place in range(8, 8 + size, size // 60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        (folder / "model.safetensors").write_bytes(flipped)
        try:
            loaded = load_checkpoint(folder).model.state_dict()
        except (OSError, ValueError):
            continue
        assert all(torch.equal(loaded[name], tensor) for name, tensor in whole.items()), place


# --- preprocessor_config.json

EXTRACTORS = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "another rate": b'{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": 8000}',
    "a rate that is none": b'{"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": "fast"}',
    "an unknown one": b'{"feature_extractor_type": "NobodysFeatureExtractor"}',
    "a number": b'{"feature_extractor_type": 3}',
}


@pytest.mark.parametrize("content", EXTRACTORS.values(), ids=EXTRACTORS)
def test_a_feature_extractor_that_does_not_belong_is_refused(content, copy):
    folder = copy("distilled_sqa")
    (folder / "preprocessor_config.json").write_bytes(content)

    refusal(folder)


# --- adapters


@pytest.fixture
def adapter(originals, tmp_path):
    """A LoRA adapter of the tiny DistilledSQA, to be damaged."""
    peft = pytest.importorskip("peft")
    model = load_checkpoint(originals["distilled_sqa"]).model
    options = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, options)
    adapted.peft_config["default"].base_model_name_or_path = str(originals["distilled_sqa"])
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    return tmp_path / "adapter"


def damaged_adapter(folder, change):
    weights = change(load_file(folder / "adapter_model.safetensors"))
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("merge", [False, True], ids=["attached", "merged"])
@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {"unrelated": torch.zeros(2)},
        lambda weights: dict(list(weights.items())[1:]),
        lambda weights: weights | {"left.over.lora_A.weight": torch.zeros(2, 2)},
        lambda weights: {name: tensor[:, 1:].contiguous() for name, tensor in weights.items()},
        lambda weights: {f"base.{name}": tensor for name, tensor in weights.items()},
    ],
    ids=["no usable tensor", "one missing", "one left over", "another shape", "other names"],
)
def test_an_adapter_that_does_not_fit_is_refused(change, merge, adapter):
    damaged_adapter(adapter, change)

    with pytest.raises(ValueError, match=f"adapter '{adapter}' does not fit"):
        load_checkpoint(adapter, merge=merge)


@pytest.mark.parametrize("merge", [False, True], ids=["attached", "merged"])
def test_an_adapter_that_is_not_all_numbers_is_refused(merge, adapter):
    damaged_adapter(adapter, lambda weights: {name: tensor / 0 for name, tensor in weights.items()})

    with pytest.raises(ValueError, match="not all numbers"):
        load_checkpoint(adapter, merge=merge)


@pytest.mark.parametrize(
    "content",
    ["", "null", "[]", "3", "{}", '{"base_model_name_or_path": 3}', '{"peft_type": "LORA", "base_model_name_or_path": "no/such"}'],
)
def test_an_adapter_without_a_sensible_configuration_is_refused(content, adapter):
    (adapter / "adapter_config.json").write_text(content)

    refusal(adapter)


@pytest.mark.parametrize(
    "change", [{"r": -1}, {"r": "two"}, {"peft_type": "MAGIC"}, {"target_modules": ["nothing"]}, {"target_modules": 3}], ids=str
)
def test_an_adapter_with_impossible_options_is_refused(change, adapter):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    refusal(adapter)


def test_an_adapter_whose_base_has_other_weights_is_refused(adapter):
    (adapter / "base.json").write_text('{"weights": "0123456789abcdef"}')

    assert "its scores would be plausible and wrong" in refusal(adapter)


def test_adapters_that_are_each_others_base_are_refused(adapter):
    path = adapter / "adapter_config.json"
    second = adapter.parent / "second"
    second.mkdir()
    for file in adapter.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    for place, base in ((adapter, second), (second, adapter)):
        config = json.loads(path.read_text()) | {"base_model_name_or_path": str(base)}
        (place / "adapter_config.json").write_text(json.dumps(config))

    assert "base of itself" in refusal(adapter)


def test_an_adapter_in_a_folder_that_still_holds_a_configuration_is_an_adapter(adapter, originals):
    (adapter / "config.json").write_bytes((originals["distilled_sqa"] / "config.json").read_bytes())

    opened, base = (load_checkpoint(place, merge=True).model.state_dict() for place in (adapter, originals["distilled_sqa"]))

    assert [name for name in base if not torch.equal(base[name], opened[name])]
    assert [name for name in opened if not torch.equal(base[name], opened[name])] == [
        name for name in opened if "q_proj.weight" in name or "v_proj.weight" in name
    ]


def test_an_adapter_saved_beside_its_base_is_an_adapter(adapter, copy):
    folder = copy("distilled_sqa")
    for file in adapter.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(folder)}))

    beside, apart = (load_checkpoint(place, merge=True).model.state_dict() for place in (folder, adapter))

    assert all(torch.equal(beside[name], tensor) for name, tensor in apart.items())


# --- On the command line


@pytest.mark.parametrize("damage", ["configuration", "weights"])
def test_the_command_stops_with_one_line_and_exit_code_2(damage, copy, tmp_path):
    from typer.testing import CliRunner

    from hf_sqa.cli import app

    folder = copy("distilled_sqa")
    if damage == "weights":
        damaged_weights(folder, without_one)
    else:
        changed(folder, num_attention_heads=0)
    sample = hf_sqa.__path__[0] + "/assets/sample.flac"

    result = CliRunner().invoke(app, ["score", sample, "--model", str(folder), "--device", "cpu"])

    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("hf-sqa: The model ") and len(result.stderr.splitlines()) == 1
