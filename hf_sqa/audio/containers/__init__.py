"""Where a recording lies in a file, and whether all of it is there; libsndfile does not tell."""

from hf_sqa.audio.containers.frame_chain import check_frames as check_frames
from hf_sqa.audio.containers.layout import Layout as Layout, after_tags as after_tags, find_layout as find_layout
from hf_sqa.audio.containers.part import DamagedError as DamagedError, Part as Part, PartFile as PartFile
