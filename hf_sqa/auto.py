"""`AutoModelForAudioQuality`, and the one call that makes a family known to transformers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES


class AutoModelForAudioQuality(_BaseAutoModelClass):
    """Loads whichever family a checkpoint belongs to: `AutoModelForAudioQuality.from_pretrained("folder or Hub id")`."""

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


def register_family(config_class: type, model_class: type, feature_extractor_class: type) -> None:
    """Make a family known to `AutoConfig`, the three Auto classes of models, and `AutoFeatureExtractor`.

    Args:
        config_class (`type`): Configuration with the family's `model_type`; one class per family.
        model_class (`type`): The model.
        feature_extractor_class (`type`): What turns a waveform into its inputs.
    """
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)  # type: ignore[attr-defined]
    for auto_class in (AutoModelForAudioQuality, AutoModel, AutoModelForAudioClassification):
        auto_class.register(config_class, model_class, exist_ok=True)
    AutoFeatureExtractor.register(config_class, feature_extractor_class, exist_ok=True)


def families() -> dict[str, tuple[Any, Any]]:
    """Registered families: `model_type` to `(configuration class, model class)`, in the order of registration."""
    return {config.model_type: (config, model) for config, model in AutoModelForAudioQuality._model_mapping._extra_content.items()}
