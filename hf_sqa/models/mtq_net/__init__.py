"""MTQ-Net: S-MOS, N-MOS and G-MOS, learned together with pseudo-labels. No weights are published, so there is no converter."""

from hf_sqa.auto import register_family
from hf_sqa.models.mtq_net.configuration_mtq_net import MTQNetConfig as MTQNetConfig
from hf_sqa.models.mtq_net.modeling_mtq_net import MTQNet as MTQNet

register_family(MTQNet)
