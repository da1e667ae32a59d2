"""The families. A line here adds a family; every shared test covers it from then on."""

import hf_sqa.torchaudio_loads  # noqa: F401
from hf_sqa.models.distilled_sqa import DistilledSQA as DistilledSQA, DistilledSQAConfig as DistilledSQAConfig
from hf_sqa.models.dnsmos import DNSMOS as DNSMOS, DNSMOSConfig as DNSMOSConfig
from hf_sqa.models.mosa_net import MOSANet as MOSANet, MOSANetConfig as MOSANetConfig
from hf_sqa.models.mtq_net import MTQNet as MTQNet, MTQNetConfig as MTQNetConfig
from hf_sqa.models.nisqa import NISQA as NISQA, NISQAConfig as NISQAConfig
from hf_sqa.models.utmos import UTMOS as UTMOS, UTMOSConfig as UTMOSConfig
from hf_sqa.models.wav2vec2_mos import Wav2Vec2ForMOS as Wav2Vec2ForMOS, Wav2Vec2ForMOSConfig as Wav2Vec2ForMOSConfig
from hf_sqa.models.xlsr_sqa import XLSRSQA as XLSRSQA, XLSRSQAConfig as XLSRSQAConfig
