"""The conditions of the bench corpus: 13 with listeners' scores, and ladders of conditions whose order is known."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from hf_sqa.degradations import Chain


@dataclass(frozen=True)
class Condition:
    """One condition."""

    condition_id: str  # its name: `c0` to `c12` of ITU-T P.835, or what it does
    description: str  # in words
    # kinds and parameters, as for `~hf_sqa.degradations.Chain`; empty for `c0`, and for the other P.835 conditions, whose steps
    # are in the preset `p835`
    steps: tuple[dict[str, Any], ...] = ()
    # overall, speech signal and background score of the full-band study in microsoft/P.808 (CC BY 4.0), 1 to 5. They are scores of
    # the condition for other speech
    human_scores: tuple[float, float, float] | None = None

    def chain(self) -> Chain:
        """The degradations of the condition."""
        if self.human_scores is not None:
            return _p835().select(self.condition_id)
        return Chain(self.steps, name=self.condition_id)


@cache
def _p835() -> Chain:
    return Chain.load("p835")


def _p835_condition(number: int, snr_db: int | None, q_db: int, overall: float, signal: float, background: float) -> Condition:
    words = "clean" if snr_db is None else f"white noise at {snr_db} dB, MNRU at Q = {q_db} dB, both nominal to 24 kHz"
    return Condition(f"c{number}", words, human_scores=(overall, signal, background))


def _other(condition_id: str, description: str, *steps: dict[str, Any]) -> Condition:
    return Condition(condition_id, description, steps)


def _opus(bitrate_kbps: int, **losses: float) -> dict[str, Any]:
    # libopus explicitly: libsndfile encodes differently, and the corpus would depend on what is installed.
    return {"kind": "opus", "bitrate_kbps": bitrate_kbps, "library": "libopus", **losses}


P835 = (
    _p835_condition(0, None, 0, 4.53, 4.69, 4.69),
    _p835_condition(1, 40, 8, 1.85, 1.85, 3.08),
    _p835_condition(2, 40, 16, 2.68, 2.78, 3.22),
    _p835_condition(3, 40, 24, 3.29, 3.54, 3.57),
    _p835_condition(4, 40, 32, 3.71, 4.32, 3.84),
    _p835_condition(5, 40, 40, 4.12, 4.80, 3.93),
    _p835_condition(6, 0, 40, 1.88, 3.60, 1.40),
    _p835_condition(7, 10, 40, 2.51, 4.41, 2.03),
    _p835_condition(8, 20, 40, 3.16, 4.43, 2.50),
    _p835_condition(9, 30, 40, 3.37, 4.55, 3.32),
    _p835_condition(10, 10, 16, 2.03, 3.83, 1.86),
    _p835_condition(11, 20, 24, 2.60, 4.26, 2.17),
    _p835_condition(12, 30, 32, 3.39, 4.17, 3.00),
)
#: The other conditions of the small form.
SMALL = (
    *(
        _other(f"clip_{share}", f"{share} % of the samples clipped", {"kind": "clip_share", "share": share / 100})
        for share in (5, 15, 30)
    ),
    *(
        _other(f"reverb_{ms}", f"reverberation, T60 {ms} ms, tail as loud as the direct sound", step)
        for ms, step in ((ms, {"kind": "reverberation", "t60_seconds": ms / 1000}) for ms in (300, 700, 1200))
    ),
    *(_other(f"opus_{rate}", f"Opus at {rate} kb/s", _opus(rate)) for rate in (6, 9, 16)),
    *(
        _other(
            f"opus_16_loss_{share}",
            f"Opus at 16 kb/s, {share} % of the packets lost and concealed",
            _opus(16, loss_share=share / 100),
        )
        for share in (5, 15, 35)
    ),
)
#: Further conditions of the training form.
FURTHER = (
    *(_other(f"pink_{snr}", f"pink noise at {snr} dB", {"kind": "pink_noise", "snr_db": snr}) for snr in (20, 10, 0)),
    _other("hum_10", "hum of 50 Hz at 10 dB", {"kind": "hum", "snr_db": 10}),
    # Babble is made from the recording itself: other voices would carry a talker from one split into another.
    _other("babble_10", "babble at 10 dB", {"kind": "babble", "snr_db": 10}),
    _other("narrowband", "300 to 3400 Hz", {"kind": "band_pass"}),
    _other("low_pass_2000", "nothing above 2 kHz", {"kind": "low_pass", "cutoff_hz": 2000}),
    _other("chop", "three gaps of 60 ms a second", {"kind": "chop", "chops_per_second": 3, "chop_ms": 60}),
    _other("echo", "echo after 150 ms, 10 dB softer", {"kind": "echo", "delay_ms": 150, "attenuation_db": 10}),
    _other("gsm", "GSM full rate", {"kind": "gsm"}),
    _other("opus_32", "Opus at 32 kb/s", _opus(32)),
    *(_other(f"amr_nb_{rate}", f"AMR-NB at {rate} kb/s", {"kind": "amr_nb", "bitrate_kbps": rate}) for rate in (4.75, 12.2)),
    *(_other(f"amr_wb_{rate}", f"AMR-WB at {rate} kb/s", {"kind": "amr_wb", "bitrate_kbps": rate}) for rate in (6.6, 23.85)),
    _other("adpcm", "IMA ADPCM at 8 kHz", {"kind": "adpcm"}),
    _other("mp3_16", "MP3 at 16 kb/s", {"kind": "mp3", "bitrate_kbps": 16}),
)
CONDITIONS = {condition.condition_id: condition for condition in (*P835, *SMALL, *FURTHER)}
FORMS = {"ci": (*P835, *SMALL), "training": (*P835, *SMALL, *FURTHER)}

#: From best to worst: a later condition must not score higher than one before it, for the same phrase.
LADDERS = {
    "mnru": ("c0", "c5", "c4", "c3", "c2", "c1"),
    "white_noise": ("c0", "c5", "c9", "c8", "c7", "c6"),
    "white_noise_and_mnru": ("c0", "c12", "c11", "c10"),
    "clipping": ("c0", "clip_5", "clip_15", "clip_30"),
    "reverberation": ("c0", "reverb_300", "reverb_700", "reverb_1200"),
    "opus": ("c0", "opus_32", "opus_16", "opus_9", "opus_6"),
    "packet_loss": ("c0", "opus_16", "opus_16_loss_5", "opus_16_loss_15", "opus_16_loss_35"),
    "pink_noise": ("c0", "pink_20", "pink_10", "pink_0"),
    "bandwidth": ("c0", "narrowband", "low_pass_2000"),
    "amr_nb": ("c0", "amr_nb_12.2", "amr_nb_4.75"),
    "amr_wb": ("c0", "amr_wb_23.85", "amr_wb_6.6"),
    **{name: ("c0", name) for name in ("hum_10", "babble_10", "chop", "echo", "gsm", "adpcm", "mp3_16")},
}


def ladders(form: str) -> dict[str, tuple[str, ...]]:
    """Return the ladders of a form, without conditions that the form lacks; `c0`, the original, is the top of every ladder."""
    present = {condition.condition_id for condition in FORMS[form]}
    kept = {name: tuple(rung for rung in rungs if rung in present) for name, rungs in LADDERS.items()}
    return {name: rungs for name, rungs in kept.items() if len(rungs) > 1}


def place_on_ladder(condition_id: str) -> tuple[str, int] | None:
    """Return the ladder of a condition and its step there, 1 the best; the first ladder if it is on several; `None` for `c0`."""
    for name, rungs in LADDERS.items():
        if condition_id in rungs[1:]:
            return name, rungs.index(condition_id)
    return None
