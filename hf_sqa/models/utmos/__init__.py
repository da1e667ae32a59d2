"""UTMOS: the strong learner of UTMOS22, for synthetic speech."""

from transformers import Wav2Vec2FeatureExtractor

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.utmos.configuration_utmos import UTMOSConfig
from hf_sqa.models.utmos.convert_utmos import READS, convert
from hf_sqa.models.utmos.modeling_utmos import UTMOS

__all__ = ["UTMOS", "UTMOSConfig"]

register_family(UTMOSConfig, UTMOS, Wav2Vec2FeatureExtractor, Converter(convert, READS))
