"""Recipes: every key known, every number with its source, every recipe of the house tried out."""

import json
import re
from pathlib import Path

import pytest

from hf_sqa.checkpoints import family_of
from hf_sqa.data.splits import TRAINING_SETS
from hf_sqa.options import parse_yaml
from hf_sqa.training import dry_run_recipe, load_recipe, run_recipe
from hf_sqa.training.dry_run import tiny_model
from hf_sqa.training.rows import load_rows

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "train_scripts" / "recipes").glob("*.yaml"))
OWN = [
    path
    for path in RECIPES
    if path.stem.startswith(("w2v-", "nq-", "distilled_sqa-bench", "nisqa-", "xlsr_sqa-", "mosa_net-bench"))
]
PAPER = "papers/wav2vec2_finetuning_data.md"
MINIMAL = {"model": {"family": "wav2vec2_mos"}}
#: The thirteen data sets of Table 2, by the names of `load_corpus`.
THIRTEEN = {
    *("bvcc/main", "iub/cosine", "iub/voices", "tencent/without_reverberation", "tencent/with_reverberation", "pstn"),
    *(f"nisqa/{part}" for part in ("TEST_FOR", "TEST_LIVETALK", "TEST_P501", "TRAIN_LIVE", "TRAIN_SIM", "VAL_LIVE", "VAL_SIM")),
}


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_every_recipe_of_the_house_takes_two_steps(path):
    result = dry_run_recipe(path)

    assert result.num_steps == 2
    assert result.num_validation == 6


def test_the_ten_training_sets_of_the_paper_have_a_recipe_each():
    recipes = [load_recipe(path) for path in RECIPES if path.stem.startswith(("w2v-", "nq-"))]

    assert {recipe.data.training_set for recipe in recipes} == set(TRAINING_SETS)
    assert all({source.corpus for source in recipe.evaluation} == THIRTEEN for recipe in recipes)


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("w2v-")], ids=lambda path: path.stem)
def test_every_number_of_the_paper_s_recipes_cites_its_source(path):
    recipe = load_recipe(path)

    missing = [name for name in recipe.training if f"training.{name}" not in recipe.cites]
    assert not missing
    assert {"loss.kind", "data.training_set", "model.encoder", "model.config.pooling"} <= recipe.cites.keys()


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem.startswith("w2v-")], ids=lambda path: path.stem)
def test_sentences_in_quotes_are_in_the_paper(path, shared):
    paper = " ".join((shared / PAPER).read_text(encoding="utf-8").split())
    quotes = [
        quote
        for text in load_recipe(path).cites.values()
        if text.startswith(("Section", "Table 1"))
        for quote in " ".join(text.split()).split('"')[1::2]
    ]

    assert quotes
    assert not [quote for quote in quotes if quote not in paper]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"learning_rat": 1e-4}}, "Unknown key 'learning_rat' in `training` of the recipe; did you mean 'learning_r"),
        ({"trainig": {}}, "Unknown key 'trainig' in the recipe; did you mean 'training'"),
        ({"model": {"family": "nisqa", "freezes": []}}, "Unknown key 'freezes' in `model` of the recipe; did you mean 'freeze'"),
        ({"data": {"train": [{"tabel": "x.csv"}]}}, "Unknown key 'tabel' in `data.train.0` of the recipe; did you mean 'table'"),
        ({"loss": {"kind": "mse", "huberdelta": 1}}, "did you mean 'huber_delta'"),
        ({"model": {"family": "nisqa", "lora": {"rank": 4}}}, "Unknown key 'rank' in `model.lora`"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(change, message):
    with pytest.raises(TypeError, match=message):
        load_recipe(MINIMAL | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"kind": "mae"}}, "Expected `loss.kind` of the recipe to be one of mse, l1"),
        ({"model": {}}, "Expected `model.checkpoint` .* or `model.family`, got neither"),
        ({"model": {"checkpoint": "default", "encoder": "x"}}, "got both"),
        ({"data": {"train": [{"corpus": "pstn", "table": "x.csv"}]}}, "Expected one of `corpus`, `table` and `hub`"),
        ({"data": {"split": {"share": "some"}}}, "Expected `data.split.share` of the recipe to be a number, got 'some'"),
        ({"data": {"limit": 1.5}}, "Expected `data.limit` of the recipe to be a whole number, got 1.5"),
        ({"training": {"output_dir": "x"}}, "`output_dir` at the top of the recipe"),
        ({"cites": {"training.seed": "Section 1"}}, "Expected `cites` of the recipe to name keys that it sets, got 'training.se"),
        ({"augmentation": {"probability": 0.5}}, "Expected `augmentation.preset` or `augmentation.steps`"),
        ({"data": {"split": {}, "training_set": "w2v_cn"}}, "Expected one of `data.validation`, `data.split`"),
    ],
)
def test_values_that_cannot_be_used_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(MINIMAL | change)


def test_a_recipe_without_a_model_is_refused():
    with pytest.raises(ValueError, match="Expected `model` in the recipe"):
        load_recipe({"data": {}})


def test_a_missing_file_and_one_that_is_no_yaml_are_told_apart(tmp_path):
    (tmp_path / "torn.yaml").write_text("model: {family: [")

    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_recipe(tmp_path / "nowhere.yaml")
    with pytest.raises(ValueError, match="is not YAML"):
        load_recipe(tmp_path / "torn.yaml")


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("training.learning_rate=1e-4", lambda recipe: recipe.training["learning_rate"], 1e-4),
        ("training.seed=7", lambda recipe: recipe.training["seed"], 7),
        ("model.lora.r=4", lambda recipe: recipe.model.lora.r, 4),
        ("data.train.0.root=/somewhere", lambda recipe: recipe.data.train[0].root, "/somewhere"),
        ("data.train+={table: more.csv}", lambda recipe: recipe.data.train[1].table, "more.csv"),
        ("model.freeze=[encoder]", lambda recipe: recipe.model.freeze, ["encoder"]),
        ("output_dir=mine", lambda recipe: recipe.output_dir, "mine"),
        ("data.split.group=talker_id", lambda recipe: recipe.data.split.group, "talker_id"),
        ("augmentation=null", lambda recipe: recipe.augmentation, None),
    ],
)
def test_changes_reach_their_place(override, place, value):
    recipe = load_recipe(MINIMAL | {"data": {"train": [{"corpus": "pstn"}]}, "augmentation": {"preset": "conference"}}, [override])

    assert place(recipe) == value


@pytest.mark.parametrize("override", ["training.seed", "=1", "training..seed=1", "data.train.3.root=x", "output_dir.x=1"])
def test_changes_that_have_no_place_are_refused(override):
    with pytest.raises(ValueError, match="Expected a"):
        load_recipe(MINIMAL | {"output_dir": "x", "data": {"train": [{"corpus": "pstn"}]}}, [override])


def test_a_saved_recipe_is_the_same_recipe(tmp_path):
    for path in OWN:
        recipe = load_recipe(path)
        recipe.save(tmp_path / "recipe.yaml")
        assert load_recipe(tmp_path / "recipe.yaml") == recipe


def test_the_definition_follows_what_changes_the_run():
    definition = load_recipe(MINIMAL).definition()

    assert load_recipe(MINIMAL | {"output_dir": "elsewhere", "paper": "x"}).definition() == definition
    assert load_recipe(MINIMAL | {"training": {"seed": 1}}).definition() != definition


def test_the_page_on_training_shows_recipes_and_code_that_work(monkeypatch, capsys):
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(ROOT)

    assert load_recipe(parse_yaml(recipe)).data.split.group == "talker_id"
    exec(compile(code, "docs/training.md", "exec"), {})
    assert capsys.readouterr().out == "2\n"


# ---- Rows


def test_the_table_s_own_splits_are_taken_where_nothing_else_is_said(table):
    labels = table(16)
    text = labels.read_text().replace("clip000.flac,1.0,system 0,train", "clip000.flac,1.0,system 0,test")
    labels.write_text(text)

    train, validation, excluded = load_rows(load_recipe(MINIMAL | {"data": {"train": [{"table": str(labels)}]}}))

    assert (len(train), len(validation)) == (11, 4)
    assert excluded == {"test split": 1}


def test_filters_keep_what_they_name_and_count_the_rest(table):
    data = {"train": [{"table": str(table(16)), "filter": {"mos": {"min": 2}}}], "split": {"share": 0.25}}

    train, validation, excluded = load_rows(load_recipe(MINIMAL | {"data": data}))

    assert min([*train["mos"], *validation["mos"]]) >= 2
    assert excluded["filter"] == 16 - len(train) - len(validation)


def test_groups_are_not_divided(table):
    notes = []
    data = {"train": [{"table": str(table(16))}], "split": {"share": 0.25, "group": "system_id"}}

    train, validation, _ = load_rows(load_recipe(MINIMAL | {"data": data}), notes)

    assert not set(train["system_id"]) & set(validation["system_id"])
    assert "groups, none in both" in notes[0]


def test_missing_audio_can_be_dropped_and_is_counted(table):
    labels = table(16)
    (labels.parent / "clip002.flac").unlink()
    source = {"table": str(labels), "on_missing": "drop"}

    train, _, excluded = load_rows(load_recipe(MINIMAL | {"data": {"train": [source]}}))

    assert len(train) == 11 and excluded == {"missing": 1}
    with pytest.raises(FileNotFoundError, match="clip002"):
        load_rows(load_recipe(MINIMAL | {"data": {"train": [{"table": str(labels)}]}}))


def test_a_limit_draws_clips_with_the_score_distribution_of_all(table):
    data = {"train": [{"table": str(table(24))}], "split": {"share": 0.25}, "limit": 6}

    train, validation, _ = load_rows(load_recipe(MINIMAL | {"data": data}))

    assert (len(train), len(validation)) == (6, 6)


def test_a_filter_that_keeps_nothing_is_an_error(table):
    data = {"train": [{"table": str(table(8))}], "filter": {"language": "xx"}}

    with pytest.raises(ValueError, match=r"Expected language of data.filter to be one of .*, got 'xx'"):
        load_rows(load_recipe(MINIMAL | {"data": data}))


# ---- Dry runs


def test_a_dry_run_knows_the_family_by_every_name_of_a_checkpoint(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "hf-sqa/distilled-sqa-xs"}')
    for name in ("default", "distilled-sqa-xs", str(tmp_path)):
        assert tiny_model(load_recipe(MINIMAL | {"model": {"checkpoint": name}})).config.model_type == "distilled_sqa"
    assert family_of("xls-r-sqa-mfcc-full") == "xlsr_sqa"


@pytest.mark.parametrize(
    "config, message",
    [("{}", "family's name as `model_type`"), ("[]", "JSON object"), (None, "got neither"), ("base", "of itself")],
)
def test_a_dry_run_says_why_a_checkpoint_has_no_family(config, message, tmp_path):
    if config == "base":
        (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    elif config is not None:
        (tmp_path / "config.json").write_text(config)

    with pytest.raises(ValueError, match=message):
        dry_run_recipe(MINIMAL | {"model": {"checkpoint": str(tmp_path)}})


def test_a_dry_run_without_validation_takes_no_split():
    recipe = {"model": {"family": "nisqa"}, "data": {"split": {"share": 0.25}}, "training": {"eval_strategy": "no"}}

    assert dry_run_recipe(MINIMAL | recipe).num_validation == 0


def test_a_dry_run_finds_a_misspelled_option_of_the_model():
    with pytest.raises(TypeError, match="Unknown option 'mask_paddin'"):
        dry_run_recipe(MINIMAL | {"model": {"family": "wav2vec2_mos", "config": {"mask_paddin": False}}})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"train": [{"corpus": "niska"}]}}, "did you mean 'nisqa'"),
        ({"data": {"training_set": "w2v_klingon"}}, "Expected `data.training_set` to be one of w2v_ger"),
        ({"data": {"split": {"group": "talkers"}}}, "Expected `data.split.group` to name columns of"),
        ({"model": {"family": "wav2vec"}}, "Expected `model.family` to be one of"),
        ({"model": {"checkpoint": "someone/model"}}, "Expected `model.family` beside the checkpoint"),
    ],
)
def test_a_dry_run_finds_names_that_do_not_exist(change, message):
    with pytest.raises(ValueError, match=message):
        dry_run_recipe(MINIMAL | change)


def test_a_dry_run_tries_loss_augmentation_adapter_and_freezing():
    result = dry_run_recipe(
        {
            "model": {
                "family": "wav2vec2_mos",
                "scores": ["mos", "noisiness"],
                "lora": {"r": 2},
                "freeze": ["encoder.feature_extractor*"],
            },
            "loss": {"kind": "huber", "huber_delta": 0.5, "ranking_weight": 0.5},
            "augmentation": {"steps": [{"kind": "white_noise", "snr_db": [0, 30]}], "probability": 0.5},
            "training": {"metric_for_best_model": "noisiness_utt_mae"},
        }
    )

    assert result.num_steps == 2 and "eval_noisiness_utt_mae" in result.metrics


def test_a_recipe_does_not_publish(tmp_path):
    recipe = MINIMAL | {"training": {"push_to_hub": True}, "output_dir": str(tmp_path / "out")}

    with pytest.raises(ValueError, match=r"published by `hf-sqa push \S+ owner/name"):
        run_recipe(recipe)
