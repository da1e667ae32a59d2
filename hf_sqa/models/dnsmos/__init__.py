"""DNSMOS: SIG, BAK and OVRL of ITU-T P.835 and a P.808 score, from overlapping windows of nine seconds."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.dnsmos.configuration_dnsmos import DNSMOSConfig as DNSMOSConfig
from hf_sqa.models.dnsmos.convert_dnsmos import PUBLISHED, READS, convert
from hf_sqa.models.dnsmos.modeling_dnsmos import DNSMOS as DNSMOS

register_family(DNSMOS, Converter(convert, READS, PUBLISHED))
