"""NISQA: overall quality and four of its dimensions, from overlapping mel segments at the native rate of the recording."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.nisqa.bias_aware_loss import BiasAwareLoss as BiasAwareLoss
from hf_sqa.models.nisqa.configuration_nisqa import NISQAConfig as NISQAConfig
from hf_sqa.models.nisqa.convert_nisqa import READS, convert
from hf_sqa.models.nisqa.feature_extraction_nisqa import NISQAFeatureExtractor as NISQAFeatureExtractor
from hf_sqa.models.nisqa.modeling_nisqa import NISQA as NISQA

register_family(NISQA, Converter(convert, READS), NISQAFeatureExtractor)
