"""Find where a recording lies in a file, and whether all of it is there, which libsndfile does not report."""

from hf_sqa.audio.containers.frame_chain import check_frames as check_frames
from hf_sqa.audio.containers.layout import after_tags as after_tags, find_parts as find_parts
from hf_sqa.audio.containers.part import DamagedError as DamagedError, Part as Part, PartFile as PartFile
