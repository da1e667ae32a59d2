"""Distill-MOS: students of XLS-R-SQA, from thousands to millions of weights."""

from transformers import Wav2Vec2FeatureExtractor

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.distilled_sqa.configuration_distilled_sqa import DistilledSQAConfig
from hf_sqa.models.distilled_sqa.convert_distilled_sqa import READS, convert
from hf_sqa.models.distilled_sqa.modeling_distilled_sqa import DistilledSQA

__all__ = ["DistilledSQA", "DistilledSQAConfig"]

register_family(DistilledSQAConfig, DistilledSQA, Wav2Vec2FeatureExtractor, Converter(convert, READS))
