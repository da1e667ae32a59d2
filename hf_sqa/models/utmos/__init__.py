"""UTMOS: the strong learner of UTMOS22, for synthetic speech."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.utmos.configuration_utmos import UTMOSConfig as UTMOSConfig
from hf_sqa.models.utmos.convert_utmos import READS, convert
from hf_sqa.models.utmos.modeling_utmos import UTMOS as UTMOS

register_family(UTMOS, Converter(convert, READS))
