"""MOSA-Net: PESQ, STOI and SDI without a reference."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.mosa_net.configuration_mosa_net import MOSANetConfig as MOSANetConfig
from hf_sqa.models.mosa_net.convert_mosa_net import READS, convert
from hf_sqa.models.mosa_net.modeling_mosa_net import MOSANet as MOSANet

register_family(MOSANet, Converter(convert, READS))
