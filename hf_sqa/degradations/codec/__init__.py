"""Speech and audio codecs: waveforms are coded and decoded in memory, and the delay of the codec is removed."""
