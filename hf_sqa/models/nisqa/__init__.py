"""NISQA: overall quality and four of its dimensions, from overlapping mel segments at the native rate of the recording."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.nisqa.bias_aware_loss import BiasAwareLoss
from hf_sqa.models.nisqa.configuration_nisqa import NISQAConfig
from hf_sqa.models.nisqa.convert_nisqa import READS, convert
from hf_sqa.models.nisqa.feature_extraction_nisqa import NISQAFeatureExtractor
from hf_sqa.models.nisqa.modeling_nisqa import NISQA

__all__ = ["NISQA", "BiasAwareLoss", "NISQAConfig", "NISQAFeatureExtractor"]

register_family(NISQAConfig, NISQA, NISQAFeatureExtractor, Converter(convert, READS))
