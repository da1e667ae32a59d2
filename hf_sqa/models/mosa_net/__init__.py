"""MOSA-Net: PESQ, STOI and SDI without a reference."""

from transformers import Wav2Vec2FeatureExtractor

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.mosa_net.configuration_mosa_net import MOSANetConfig
from hf_sqa.models.mosa_net.convert_mosa_net import READS, convert
from hf_sqa.models.mosa_net.modeling_mosa_net import MOSANet

__all__ = ["MOSANet", "MOSANetConfig"]

register_family(MOSANetConfig, MOSANet, Wav2Vec2FeatureExtractor, Converter(convert, READS))
