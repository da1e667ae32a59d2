"""Convert SSL-MOS and fairseq checkpoints (wav2vec 2.0, HuBERT; small and large) to a `Wav2Vec2ForMOS`.

Nothing of fairseq or omegaconf is imported, and nothing in a checkpoint is executed: an unpickler that builds tensors and plain
containers turns the objects of a training configuration into inert records, and refuses everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from hf_sqa.blocks.fairseq_encoder import PRETRAINING_TENSORS, fairseq_name, infer_encoder
from hf_sqa.blocks.foreign_checkpoint import InertRecord, converted_tensors, read_foreign_checkpoint, tensors_of
from hf_sqa.blocks.speech_encoder import check_encoder_options
from hf_sqa.models.wav2vec2_mos.configuration_wav2vec2_mos import Wav2Vec2ForMOSConfig
from hf_sqa.models.wav2vec2_mos.modeling_wav2vec2_mos import Wav2Vec2ForMOS

#: What `convert` accepts.
READS = (
    "SSL-MOS checkpoints (ckpt_w2vsmall and what its authors' code trains)",
    "fairseq checkpoints of wav2vec 2.0 and HuBERT, to be fine-tuned",
)
#: Encoders of fairseq that are converted.
MODEL_TYPES = ("wav2vec2", "hubert")
#: Options of fairseq's model configuration, and our names for them.
FAIRSEQ_OPTIONS = {
    "encoder_attention_heads": "num_attention_heads",
    "layer_norm_first": "do_stable_layer_norm",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "dropout_input": "feat_proj_dropout",
    "encoder_layerdrop": "layerdrop",
    "activation_fn": "hidden_act",
}


def convert(
    checkpoint: str | Path, encoder_config: dict[str, Any] | PreTrainedConfig | None = None, **options: Any
) -> Wav2Vec2ForMOS:
    """Build the model from a fine-tuned SSL-MOS checkpoint or from a fairseq pre-training checkpoint.

    An SSL-MOS checkpoint gives the published model: padding is not masked, waveforms are not normalised. A fairseq checkpoint gives
    an encoder to fine-tune, below a new random head, with the defaults of new training.

    Args:
        checkpoint (`str` or `Path`): File written by the original code.
        encoder_config (`dict` or `PreTrainedConfig`, *optional*): What the tensors do not show: a dict of single values, which
            override inferred ones, or a whole configuration. Needed for sizes that were never published, for example
            `{"num_attention_heads": 4}`.
        **options: Options of [`Wav2Vec2ForMOSConfig`], which override those of the published model.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds anything but tensors and a training configuration, if the architecture cannot be inferred, or
            if a tensor is missing, unknown or of another shape; the message names it.
    """
    path = Path(checkpoint)
    content = read_foreign_checkpoint(path)
    tensors = {}
    for name, tensor in tensors_of(content, path, "model").items():
        name = name.removeprefix("module.")
        if not name.startswith("w2v_encoder.proj."):  # output letters of a model fine-tuned for recognition
            tensors[name.removeprefix("ssl_model.").removeprefix("w2v_encoder.w2v_model.")] = tensor
    fine_tuned = "output_layer.weight" in tensors
    fairseq = {} if fine_tuned else fairseq_options(content)
    if isinstance(encoder_config, PreTrainedConfig):
        config = encoder_config
        if config.model_type not in MODEL_TYPES:
            raise ValueError(
                f"Expected `encoder_config` of {' or '.join(MODEL_TYPES)}, the encoders of fairseq that are converted, got "
                f"{config.model_type!r}."
            )
    else:
        values = infer_encoder(tensors, heads_known="num_attention_heads" in {**fairseq, **(encoder_config or {})})
        check_encoder_options(AutoConfig.for_model(values["model_type"]), encoder_config or {})
        trained_with = {name: value for name, value in fairseq.items() if name in FAIRSEQ_OPTIONS.values()}
        config = AutoConfig.for_model(**values | trained_with | (encoder_config or {}))
    if fine_tuned and len(tensors["output_layer.weight"]) != 1 and "id2label" not in options:
        raise ValueError(
            f"Expected one score, got an `output_layer` with {len(tensors['output_layer.weight'])}; name them by "
            '`id2label={0: "mos", 1: ...}`.'
        )
    defaults: dict[str, Any] = {"checkpoint_name": path.stem}
    if fine_tuned:
        defaults |= {"mask_padding": False, "do_normalize": False}
    else:
        defaults |= {name: fairseq[name] for name in ("feature_grad_mult", "do_normalize") if name in fairseq}
    model = Wav2Vec2ForMOS(Wav2Vec2ForMOSConfig(encoder_config=config, **{**defaults, **options}))
    converted = convert_state_dict(tensors, model)
    missing = model.load_state_dict(converted, strict=False).missing_keys
    assert fine_tuned == (not missing), missing
    return model.eval()


def convert_state_dict(original: dict[str, torch.Tensor], model: Wav2Vec2ForMOS) -> dict[str, torch.Tensor]:
    """Return the tensors of the original, named as in fairseq within the encoder, under our names; see [`converted_tensors`]."""
    has_head = any(name.startswith("output_layer.") for name in original)
    expected = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name.startswith("encoder.") or (has_head and name.startswith("score_head."))
    }
    grouped = model.config.encoder_config.feat_extract_norm == "group"
    return converted_tensors(
        original,
        expected,
        lambda name: _original_name(name, grouped),
        f"a wav2vec 2.0 or HuBERT encoder of {model.encoder.config.num_hidden_layers} layers as `encoder_config` describes it",
        may_stay=PRETRAINING_TENSORS.search,
    )


def fairseq_options(content: dict[str, Any]) -> dict[str, Any]:
    """Return what a fairseq checkpoint's configuration says about encoder, `feature_grad_mult` and `do_normalize`, by our names."""
    cfg, args = _plain(content.get("cfg")), _plain(content.get("args"))
    model = (cfg or {}).get("model") or args or {}
    task = (cfg or {}).get("task") or args or {}
    # Anything else, an enumeration for example, was an object that is not built.
    values = {name: value for name, value in model.items() if isinstance(value, (bool, int, float, str))}
    options = {ours: values[theirs] for theirs, ours in FAIRSEQ_OPTIONS.items() if theirs in values}
    if "feature_grad_mult" in values:
        options["feature_grad_mult"] = values["feature_grad_mult"]
    if isinstance(task.get("normalize"), bool):
        options["do_normalize"] = task["normalize"]
    return options


def _plain(value: Any) -> Any:
    """Return the dicts and values of a configuration that was unpickled into inert records."""
    if isinstance(value, InertRecord):
        content = value.__dict__
        if "_content" in content:  # omegaconf's containers
            return _plain(content["_content"])
        return _plain(content["_val"] if "_val" in content else dict(content))  # omegaconf's values; argparse's namespaces
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value


def _original_name(name: str, grouped: bool) -> str:
    """Return the original name of one of our tensors."""
    if name.startswith("score_head."):
        return name.replace("score_head.", "output_layer.")
    return fairseq_name(name.removeprefix("encoder."), grouped)
