"""Chains: drawn as written, replayed to the sample, and refused when misspelled."""

import json
from collections import Counter

import numpy as np
import pytest

from hf_sqa.degradations import Chain, CodecUnavailableError, presets

RATE = 16_000


def draws(chain, number):
    rng = np.random.default_rng(0)
    return [chain.draw(rng) for _ in range(number)]


def first_parameters(chain, number=2000):
    return [record["steps"][0]["parameters"] for record in draws(chain, number)]


# --- Drawing ---------------------------------------------------------------------------------------------------------------------


def test_a_step_is_drawn_as_often_as_its_probability():
    """10,000 draws of 0.3: three standard errors are 0.014."""
    chain = Chain([{"kind": "gain", "gain_db": 1, "probability": 0.3}])

    assert np.mean([len(record["steps"]) for record in draws(chain, 10_000)]) == pytest.approx(0.3, abs=0.014)


def test_branches_are_drawn_by_weight_over_the_sum_of_weights():
    branches = [
        {"weight": 3, "name": "a", "steps": []},
        {"weight": 1, "name": "b", "steps": []},
        {"weight": 0, "name": "c", "steps": []},
    ]
    counts = Counter(record["branches"][0] for record in draws(Chain([{"one_of": branches}]), 10_000))

    assert counts["a"] / 10_000 == pytest.approx(0.75, abs=0.013)
    assert counts["c"] == 0


def test_steps_in_a_group_come_together_or_not_at_all():
    steps = [{"kind": "gain", "gain_db": 1}, {"kind": "gain", "gain_db": 2}]
    chain = Chain([{"steps": steps, "probability": 0.5}])

    assert {len(record["steps"]) for record in draws(chain, 100)} == {0, 2}


def test_two_numbers_are_an_even_range():
    values = [parameters["gain_db"] for parameters in first_parameters(Chain([{"kind": "gain", "gain_db": [-10, 30]}]), 10_000)]

    assert -10 <= min(values) < -9.9 and 29.9 < max(values) <= 30
    assert np.mean(values) == pytest.approx(10, abs=0.4)  # three standard errors of 40 / sqrt(12)


def test_a_logarithmic_range_has_its_median_at_the_geometric_mean():
    chain = Chain([{"kind": "opus", "bitrate_kbps": {"log_uniform": [8, 128]}}])

    assert np.median([parameters["bitrate_kbps"] for parameters in first_parameters(chain, 10_000)]) == pytest.approx(32, rel=0.05)


def test_integers_include_both_ends():
    chain = Chain([{"kind": "low_pass", "cutoff_hz": 1000, "order": {"integers": [2, 4]}}])

    assert {parameters["order"] for parameters in first_parameters(chain)} == {2, 3, 4}


def test_one_of_draws_each_value():
    chain = Chain([{"kind": "g711", "law": {"one_of": ["mu", "a"]}}])

    assert {parameters["law"] for parameters in first_parameters(chain)} == {"mu", "a"}


def test_a_tuple_of_three_is_a_value_and_not_a_range():
    chain = Chain([{"kind": "room", "t60_seconds": 0.3, "room_m": [5, 4, 3]}])

    assert first_parameters(chain, 1)[0]["room_m"] == [5, 4, 3]


# --- Applying and replaying ------------------------------------------------------------------------------------------------------


def test_steps_act_in_order(speech_like):
    """Clipped to 0.1, then doubled; the other way round the peak would be 0.1."""
    chain = Chain([{"kind": "clip_level", "level": 0.1}, {"kind": "gain", "gain_db": 20 * np.log10(2)}])

    assert np.abs(chain(speech_like(1.0), RATE, np.random.default_rng(0))[0]).max() == pytest.approx(0.2, rel=1e-5)


def test_the_same_seed_draws_and_gives_the_same(speech_like):
    chain, speech = Chain.load("distillation"), speech_like(1.0)
    first, second = (chain(speech, RATE, np.random.default_rng(11)) for _ in range(2))

    np.testing.assert_array_equal(first[0], second[0])
    assert first[1] == second[1]


def test_the_draw_does_not_depend_on_the_waveform(speech_like):
    chain = Chain.load("distillation")
    records = [chain(speech_like(seconds), RATE, np.random.default_rng(4))[1] for seconds in (1.0, 2.0)]

    assert [(step["kind"], step["parameters"], step["seed"]) for step in records[0]["steps"]] == [
        (step["kind"], step["parameters"], step["seed"]) for step in records[1]["steps"]
    ]


@pytest.mark.parametrize("preset", presets())
def test_a_record_replays_to_the_sample_after_a_way_through_json(preset, speech_like):
    chain, speech = Chain.load(preset), speech_like(1.0)
    skip_without_libraries(chain)
    for seed in range(25):
        degraded, record = chain(speech, RATE, np.random.default_rng(seed))
        again = Chain.replay(json.loads(json.dumps(record)), speech, RATE)
        np.testing.assert_array_equal(degraded, again, err_msg=json.dumps(record))


def test_a_replay_with_another_library_is_refused(speech_like):
    chain, speech = Chain([{"kind": "opus", "bitrate_kbps": 16}]), speech_like(1.0)
    _, record = chain(speech, RATE, np.random.default_rng(0))
    record["steps"][0]["notes"]["library"] = "another"

    with pytest.raises(ValueError, match=r"'opus' was made with the library 'another'"):
        Chain.replay(record, speech, RATE)


def test_a_replay_with_other_noise_is_refused(speech_like):
    chain, speech = Chain([{"kind": "background_noise", "snr_db": 5}]), speech_like(1.0)
    _, record = chain(speech, RATE, np.random.default_rng(0))

    with pytest.raises(ValueError, match="give the same recordings"):
        Chain.replay(record, speech, RATE, noises=[np.ones(100, np.float32)])


def test_a_chain_that_draws_nothing_returns_a_copy(speech_like):
    speech = speech_like(0.5)
    degraded, record = Chain([])(speech, RATE, np.random.default_rng(0))

    np.testing.assert_array_equal(degraded, speech)
    assert degraded is not speech and record["steps"] == []


def test_an_error_names_the_kind():
    chain = Chain([{"kind": "gain", "gain_db": 1}, {"kind": "white_noise", "snr_db": 5}])
    with pytest.raises(ValueError, match=r"^white_noise: .*silent"):
        chain(np.zeros(RATE, np.float32), RATE, np.random.default_rng(0))


# --- Misspellings ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "white_nois", "snr_db": 5}, "Unknown kind 'white_nois' in step 1 of chain; did you mean 'white_noise'"),
        ({"kind": "white_noise", "snr": 5}, "Unknown key 'snr'.*did you mean 'snr_db'"),
        ({"kind": "white_noise"}, "Expected 'snr_db' in step 1"),
        ({"kind": "white_noise", "snr_db": 5, "rng": 0}, "Unknown key 'rng'"),
        ({"kind": "gain", "gain_db": 5, "probabilty": 0.5}, "Unknown key 'probabilty'"),
        ({"one_of": [{"steps": [], "wieght": 2}]}, "Unknown key 'wieght' in branch 1 of step 1 of chain; did you mean 'weight'"),
        ({"steps": [], "kinds": []}, "Unknown key 'kinds'"),
    ],
)
def test_a_misspelled_key_is_refused_with_a_suggestion(step, message):
    with pytest.raises(TypeError, match=message):
        Chain([step])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"kind": "gain", "gain_db": 5, "probability": 1.5}, "between 0 and 1 in step 1 of chain, got 1.5"),
        ({"kind": "gain", "gain_db": {"unifrom": [1, 2]}}, "Expected one of uniform, log_uniform"),
        ({"kind": "gain", "gain_db": [5, 1]}, r"\[low, high\].*got \[5, 1\]"),
        ({"kind": "gain", "gain_db": {"log_uniform": [0, 1]}}, "above 0"),
        ({"one_of": [{"weight": 0, "steps": []}]}, "weight above 0"),
        ({"one_of": []}, "branches"),
        ({"gain_db": 5}, "one of `kind`, `one_of` and `steps`"),
        ("gain", "to be a mapping"),
    ],
)
def test_what_cannot_be_drawn_is_refused(step, message):
    with pytest.raises(ValueError, match=message):
        Chain([step])


def test_an_unknown_preset_is_refused_with_a_suggestion():
    with pytest.raises(ValueError, match="Unknown preset 'tencnt'; did you mean 'tencent'"):
        Chain.load("tencnt")


def test_a_missing_file_is_refused():
    with pytest.raises(FileNotFoundError, match=r"there is no file 'mine\.yaml'"):
        Chain.load("mine.yaml")


@pytest.mark.parametrize(("text", "message"), [("steps: [", "is not YAML"), ("- kind: gsm", "to hold a chain, a mapping")])
def test_a_file_that_is_no_chain_is_refused(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Chain.load(tmp_path / "mine.yaml")


def test_an_unknown_key_of_a_file_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("step: []\nsteps: []")
    with pytest.raises(TypeError, match="did you mean 'steps'"):
        Chain.load(tmp_path / "mine.yaml")


def test_a_chain_of_ones_own_is_loaded_from_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("steps:\n  - {kind: gain, gain_db: [1, 2]}\n")

    chain = Chain.load(tmp_path / "mine.yaml")
    assert chain.name == "mine"
    assert 1 <= first_parameters(chain, 1)[0]["gain_db"] <= 2


# --- Presets ---------------------------------------------------------------------------------------------------------------------


def skip_without_libraries(chain):
    try:
        chain.check_requirements()
    except (CodecUnavailableError, ModuleNotFoundError) as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("preset", presets())
def test_every_preset_runs(preset, speech_like):
    chain, speech = Chain.load(preset), speech_like(1.0)
    skip_without_libraries(chain)
    assert chain.description
    for seed in range(60):
        degraded, record = chain(speech, RATE, np.random.default_rng(1000 + seed))
        assert degraded.shape == speech.shape and np.isfinite(degraded).all(), record


def test_there_are_five_presets():
    assert presets() == ["coders", "conference", "distillation", "p835", "tencent"]


def test_tencent_has_the_published_probabilities():
    """First step as printed: they add up to 100 %. Second step: 60 : 10 : 3.75 : 1.25 : 1.25 of 76.25."""
    published = {
        "white noise": 10,
        "background noise": 60,
        "filter": 3.75,
        "clipping": 1.25,
        "codec": 5,
        "background noise and codec": 5,
        "white noise and codec": 5,
        "filter and codec": 5,
        "clipping and noise": 5,
    }
    second = {"impaired": 60, "suppressed": 10, "clean": 3.75, "suppressed and lost": 1.25, "clean and lost": 1.25}
    records = draws(Chain.load("tencent"), 15_000)
    counts = Counter(branch for record in records for branch in record["branches"])
    impaired = sum(counts[name] for name in published)

    for name, percent in published.items():
        assert counts[name] / impaired == pytest.approx(percent / 100, abs=0.015), name
    for name, weight in second.items():
        assert counts[name] / 15_000 == pytest.approx(weight / 76.25, abs=0.014), name


def test_tencent_stays_within_the_published_ranges():
    ranges = {
        ("white_noise", "snr_db"): (-10, 40),
        ("background_noise", "snr_db"): (-10, 35),
        ("low_pass", "cutoff_hz"): (1000, 7200),
        ("high_pass", "cutoff_hz"): (300, 3000),
        ("clip_level", "level"): (0.02, 0.6),
        ("reverberation", "t60_seconds"): (0.4, 0.7),
        ("packet_loss", "loss_share"): (0.4, 0.7),
        ("jitter", "jitter_ms"): (600, 1200),
    }
    seen = {key: [] for key in ranges}
    for record in draws(Chain.load("tencent"), 8_000):
        for step in record["steps"]:
            for name, value in step["parameters"].items():
                if (step["kind"], name) in seen:
                    seen[step["kind"], name].append(value)
    for key, (low, high) in ranges.items():
        assert low <= min(seen[key]) and max(seen[key]) <= high, key
        assert max(seen[key]) - min(seen[key]) > 0.8 * (high - low), key


P835 = {  # condition: (SNR, Q) in dB, as in the labels of microsoft/P.808
    "c0": None, "c1": (40, 8), "c2": (40, 16), "c3": (40, 24), "c4": (40, 32), "c5": (40, 40), "c6": (0, 40), "c7": (10, 40),
    "c8": (20, 40), "c9": (30, 40), "c10": (10, 16), "c11": (20, 24), "c12": (30, 32),
}  # fmt: skip


@pytest.mark.parametrize("condition", P835)
def test_p835_has_the_reference_conditions(condition):
    record = Chain.load("p835").select(condition).draw(np.random.default_rng(0))

    assert record["branches"] == [condition]
    parameters = {step["kind"]: step["parameters"] for step in record["steps"]}
    if P835[condition] is None:
        assert parameters == {}
    else:
        assert (parameters["white_noise"]["snr_db"], parameters["mnru"]["q_db"]) == P835[condition]


def test_p835_conditions_match_the_labels_of_the_recordings(shared):
    import csv

    with (shared / "data" / "p808" / "labels.csv").open(encoding="utf-8") as file:
        labels = {
            row["condition_id"]: (float(row["snr_db"]), float(row["mnru_q_db"])) if row["snr_db"] else None
            for row in csv.DictReader(file)
        }

    assert labels == P835


def test_p835_draws_every_condition_alike():
    counts = Counter(record["branches"][0] for record in draws(Chain.load("p835"), 13_000))

    assert set(counts) == set(P835)
    assert min(counts.values()) > 880 and max(counts.values()) < 1120  # 1000, four standard errors of 30


def test_select_refuses_an_unknown_condition():
    with pytest.raises(ValueError, match=r"Unknown condition 'c13'; did you mean 'c3'"):
        Chain.load("p835").select("c13")


def test_select_fixes_a_branch_inside_others():
    chain = Chain(
        [{"one_of": [{"steps": [{"one_of": [{"name": "x", "steps": []}, {"name": "y", "steps": []}]}]}], "probability": 1}]
    )

    assert {tuple(record["branches"]) for record in draws(chain.select("y"), 50)} == {("y",)}


def test_a_missing_library_stops_a_chain_before_its_first_recording(monkeypatch):
    from hf_sqa.degradations import chain as module

    def missing(parameters):
        raise CodecUnavailableError("install it with `apt-get install libspeex1`")

    monkeypatch.setitem(module.REQUIREMENTS, "speex", missing)
    chain = Chain([{"one_of": [{"steps": [{"kind": "speex", "bitrate_kbps": 10}]}, {"weight": 99, "steps": []}]}])
    with pytest.raises(CodecUnavailableError, match="libspeex1"):
        chain.check_requirements()


def test_recorded_noise_in_a_chain_without_noises_stops_it_before_its_first_recording():
    with pytest.raises(ValueError, match="no recordings to draw from"):
        Chain([{"kind": "recorded_noise", "snr_db": 5}]).check_requirements()


@pytest.mark.slow
def test_p835_replicas_agree_with_the_original_recordings(shared):
    """Wideband PESQ by condition of what `p835` makes of the clean clips, against the clips of the study: LCC 0.95 or more."""
    import csv

    import soundfile

    pesq = pytest.importorskip("pesq", reason="needs PESQ: `pip install pesq`").pesq
    folder = shared / "data" / "p808"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["study"] == "fullband" and row["talker"] in ("f1", "m1")]
    clips = {(row["condition_id"], row["talker"]): soundfile.read(folder / row["filepath"], dtype="float32")[0] for row in rows}
    talkers = sorted({talker for _, talker in clips})
    originals, replicas = [], []
    for condition in list(P835)[1:]:
        chain = Chain.load("p835").select(condition)
        scores = []
        for talker in talkers:
            reference = clips["c0", talker]
            replica, _ = chain(reference, RATE, np.random.default_rng(0))
            scores.append([pesq(RATE, reference, one, "wb") for one in (clips[condition, talker], replica)])
        original, replicated = np.mean(scores, axis=0)
        originals.append(original)
        replicas.append(replicated)

    assert np.corrcoef(originals, replicas)[0, 1] >= 0.95
