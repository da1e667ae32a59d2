"""Convert MOSA-Net weights from the authors' Keras files to a model that `save_pretrained` writes.

Keras is not needed and never run: a file's model description holds Python 2 byte code, so only its tensors are read. Files hold
no encoder and no filter bank: the rule `sinc_edges` gives the filters, and the encoder comes from elsewhere or is left out.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_sqa.blocks.foreign_checkpoint import converted_tensors
from hf_sqa.extras import import_extra
from hf_sqa.models.mosa_net.configuration_mosa_net import MOSANetConfig
from hf_sqa.models.mosa_net.modeling_mosa_net import MOSANet

#: What `convert` accepts, for `hf-sqa convert --list`.
READS = (
    "*.h5: Keras file of MOSA-Net for PESQ, STOI and SDI, or for VoiceMOS, with --encoder facebook/hubert-large-ll60k or whichever",
    "  encoder made its features",
)
#: By score name, in column order, the file's attention layer and the layer of its frame score.
OBJECTIVE_HEADS = {"pesq": ("Attention", "Frame_score"), "stoi": ("Attention2", "Frame_stoi"), "sdi": ("Attention3", "Frame_sdi")}
VOICEMOS_HEADS = {"mos": ("Attention", "Frame_score")}
#: Gates of an LSTM; both sides order them input, forget, cell, output.
NUM_GATES = 4
#: Tensors of an LSTM, ours and those of the file.
LSTM_PARTS = {"weight_ih_l0": "kernel", "weight_hh_l0": "recurrent_kernel", "bias_ih_l0": "bias", "bias_hh_l0": "bias"}
#: A limit above the size of any layer, and below what a few bytes of HDF5 can announce.
MAX_TENSOR_BYTES = 1 << 30


def convert(
    checkpoint: str | Path,
    *,
    encoder: str | None = None,
    sinc_edges: str = "python2",
    encoder_options: dict[str, Any] | None = None,
) -> MOSANet:
    """Build the model from a MOSA-Net `.h5` file: the one for PESQ, STOI and SDI, or the one for VoiceMOS.

    Args:
        checkpoint (`str` or `Path`): Keras file with the whole model or its weights alone.
        encoder (`str`, *optional*): Hub id or folder of the encoder that made the features, `"facebook/hubert-large-ll60k"` for the
            published files. Without it the model has no encoder and takes `ssl_features`.
        sinc_edges (`str`, *optional*, defaults to `"python2"`): Rule of the filter bank, `"python2"` for the published files.
        encoder_options (`dict[str, Any]`, *optional*): Values of the encoder's configuration to change.

    Raises:
        ImportError: If h5py is not installed.
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not an HDF5 file, or a tensor is missing, unknown or of another shape; the message names it.
    """
    original = read_keras_file(checkpoint)
    voicemos = not any(name.startswith(("Attention2/", "Attention3/", "Frame_stoi/", "Frame_sdi/")) for name in original)
    options = {"sinc_edges": sinc_edges, "checkpoint_name": Path(checkpoint).stem}
    config = MOSANetConfig.voicemos(**options) if voicemos else MOSANetConfig(**options)
    if encoder is None:
        config.precomputed_features = True
        model = MOSANet(config)
    else:
        model = MOSANet.from_encoder(encoder, config, encoder_options=encoder_options)
    converted = convert_tensors(original, model)
    model.load_state_dict(model.state_dict() | converted)
    return model.eval()


def read_keras_file(checkpoint: str | Path) -> dict[str, np.ndarray]:
    """Return every tensor of a Keras `.h5` file, in the order of layers, as `"layer/weight"` without Keras's suffix `:0`."""
    h5py = import_extra("h5py", "Converting Keras weights, which are HDF5,", "keras")
    path = Path(checkpoint)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a Keras file at {path}, found none.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"Expected a Keras `.h5` file, got {path}, which is not HDF5.")
    tensors: dict[str, np.ndarray] = {}
    announced: set[str] = set()
    present: list[str] = []
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)
            if "layer_names" not in root.attrs:
                raise ValueError(f"Expected Keras weights in {path}, got an HDF5 file without the attribute 'layer_names'.")
            for layer in map(_text, root.attrs["layer_names"]):
                for weight in map(_text, root[layer].attrs["weight_names"] if layer in root else ()):
                    name = f"{layer}/{weight}"
                    if name not in root:
                        raise ValueError(f"The checkpoint lacks the tensor {name!r}, which its layer announces: it is damaged.")
                    announced.add(name)
                    short_name = f"{layer}/{weight.removeprefix(layer + '/')}".removesuffix(":0")
                    tensors[short_name] = _tensor(root[name], name, file)
            root.visititems(lambda name, item: present.append(name) if isinstance(item, h5py.Dataset) else None)
    except (FileNotFoundError, ValueError):
        raise
    except Exception as error:  # h5py's errors on damaged files and attributes of other types have no common class
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"Cannot read {path} as Keras weights ({type(error).__name__}: {reason}); get the file again.") from error
    if unknown := sorted(set(present) - announced):
        raise ValueError(f"Unknown tensors in the checkpoint, announced by no layer: {', '.join(unknown[:5])}.")
    return tensors


def _tensor(found: Any, name: str, file: Any) -> np.ndarray:
    """Return the numbers of a data set; refuse one in another file, without numbers, or larger than any layer."""
    if found.file.filename != file.filename or getattr(found, "external", None):
        raise ValueError(
            f"Expected the tensor {name!r} in the checkpoint itself, got one that lies in another file: it is not read."
        )
    if found.dtype.kind != "f" or found.nbytes > MAX_TENSOR_BYTES:
        raise ValueError(
            f"Expected numbers, at most {MAX_TENSOR_BYTES:,} bytes of them, for the tensor {name!r}, got {found.nbytes:,} bytes of "
            f"{found.dtype}: the file is damaged."
        )
    return found[()]


def convert_tensors(original: dict[str, np.ndarray], model: MOSANet) -> dict[str, torch.Tensor]:
    """Return the tensors of the original under the names of trunk and heads; see [`converted_tensors`]."""
    expected = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("encoder.")}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array, np.float32)) for name, array in original.items()}
    sources = _sources(original, model)

    def laid_out(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if "_lstm." in name:
            bias = name.rsplit(".", 1)[0] + ".bias_ih_l0"
            return _of_lstm(name.rsplit(".", 1)[1], tensor, len(original.get(sources[bias], ())) == len(expected[bias]))
        if tensor.dim() == 4:
            return tensor.permute(3, 2, 0, 1)
        return tensor.T if tensor.dim() == 2 else tensor

    def changes_nothing(source: str) -> bool:  # added to every logit of a softmax
        return source.endswith("_Mul_ba") and tensors[source].shape == (1,)

    return converted_tensors(tensors, expected, sources.__getitem__, "a MOSA-Net checkpoint", laid_out, changes_nothing)


def _sources(original: dict[str, np.ndarray], model: MOSANet) -> dict[str, str]:
    """Return the names in the file, by our names."""
    layers = _numbered_layers(original, len(model.trunk.convolutions.layers))
    heads = OBJECTIVE_HEADS if model.config.score_names == list(OBJECTIVE_HEADS) else VOICEMOS_HEADS
    linear = {f"trunk.convolutions.layers.{index}": layer for index, layer in enumerate(layers["conv2d"])}
    linear["trunk.bottleneck"], linear["trunk.dense"] = layers["time_distributed"]
    linear |= {f"score_heads.{score}.frame_score": frame_score for score, (_, frame_score) in heads.items()}
    sources = {f"{name}.weight": f"{layer}/kernel" for name, layer in linear.items()}
    sources |= {f"{name}.bias": f"{layer}/bias" for name, layer in linear.items()}
    for score, (attention, _) in heads.items():  # frames @ Wa @ frames.T
        sources[f"score_heads.{score}.attention.weight"] = f"{attention}/{attention}_Mul_Wa"
    for direction in ("forward", "backward"):
        sources |= {f"trunk.{direction}_lstm.{part}": f"{layers[direction][0]}/{theirs}" for part, theirs in LSTM_PARTS.items()}
    return sources


def _of_lstm(part: str, tensor: torch.Tensor, is_plain: bool) -> torch.Tensor:
    """Return a tensor of an LSTM in our layout. CuDNN keeps the gates' matrices as raw memory, which Keras shows transposed."""
    if is_plain:
        return torch.zeros_like(tensor) if part == "bias_hh_l0" else tensor.T if tensor.dim() == 2 else tensor
    if part.startswith("bias_"):
        return tensor.chunk(2)[part == "bias_hh_l0"]
    gates = tensor.chunk(NUM_GATES, dim=1)
    return torch.cat([gate.reshape(gate.shape[::-1]) if part == "weight_ih_l0" else gate for gate in gates])


def _numbered_layers(original: dict[str, np.ndarray], num_convolutions: int) -> dict[str, list[str]]:
    """Return the names of the layers that Keras numbers arbitrarily, by kind, in the order of their creation."""
    kinds: dict[str, list[str]] = {"conv2d": [], "time_distributed": [], "forward": [], "backward": []}
    for name in original:
        layer = name.rsplit("/", 1)[0]
        kind = re.match(r"conv2d|time_distributed|bidirectional_?\d*/(?P<direction>forward|backward)", layer)
        if kind and layer not in (layers := kinds[kind["direction"] or kind[0]]):
            layers.append(layer)
    wanted = {"conv2d": num_convolutions, "time_distributed": 2, "forward": 1, "backward": 1}
    for kind, count in wanted.items():
        # The numbers give the order of creation, whatever the order in the file.
        kinds[kind].sort(key=lambda layer: int(re.search(r"(\d*)$", layer.split("/")[0])[1] or 0))
        if len(kinds[kind]) != count:
            raise ValueError(
                f"Expected {count} layers of kind {kind!r} with weights in the checkpoint, got {len(kinds[kind])}: "
                f"{', '.join(kinds[kind]) or 'none'}. This is not a MOSA-Net checkpoint."
            )
    return kinds


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
