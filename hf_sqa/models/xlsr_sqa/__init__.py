"""XLS-R-SQA: small heads on layers of XLS-R or on MFCC features."""

from hf_sqa.auto import Converter, register_family
from hf_sqa.models.xlsr_sqa.configuration_xlsr_sqa import XLSRSQAConfig as XLSRSQAConfig
from hf_sqa.models.xlsr_sqa.convert_xlsr_sqa import PUBLISHED, READS, convert
from hf_sqa.models.xlsr_sqa.modeling_xlsr_sqa import XLSRSQA as XLSRSQA

register_family(XLSRSQA, Converter(convert, READS, PUBLISHED))
