"""Model cards: what each must say, that hand-written parts survive, and that the published ones are complete."""

import importlib.util
import json
import re
import runpy
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import hf_sqa
from hf_sqa.cli import app
from hf_sqa.hub.card import RELATIVE_SENTENCE, SECTIONS, make_card, missing_from_card, write_card
from hf_sqa.hub.card_facts import CardFacts, Evaluation
from hf_sqa.metrics import bootstrap_agreement
from hf_sqa.pipelines import AudioQualityPipeline
from tests.hub.conftest import ALICE

CARDS_FOLDER = Path(__file__).parents[2] / "model_cards"
FACTS = yaml.safe_load((CARDS_FOLDER / "facts.yaml").read_text(encoding="utf-8"))
RECIPE = {
    "model": {"checkpoint": "default"},
    "data": {
        "train": [{"corpus": "nisqa/TRAIN_SIM", "root": "/data/NISQA"}, {"table": "/data/mine/swahili.csv", "language": "sw"}]
    },
    "training": {"learning_rate": 1e-4, "seed": 3},
}
RESULTS = [
    Evaluation("Swahili calls", "utt_srcc", 0.81234, 0.71, 0.88, num_clips=42, before=0.6),
    {"dataset": "Swahili calls", "metric": "sys_rmse", "value": 0.4, "low": 0.3, "high": 0.55, "num_clips": 42},
]


@pytest.fixture
def complete(checkpoint):
    write_card(checkpoint, license="mit", recipe=RECIPE, results=RESULTS, training_cost={"seconds": 300, "device": "one core"})
    return checkpoint


def text_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_says_what_a_stranger_must_know(complete):
    text = text_of(complete)

    assert missing_from_card(text) == []
    for sentence in (
        RELATIVE_SENTENCE,
        "Out of domain",
        "| `mos` | 1 to 5; overall quality, higher is better |",
        "NISQA Corpus (`nisqa/TRAIN_SIM`): en, de; licence: mixed: the terms of each source",
        "`swahili.csv`: sw; licence not stated",
        "Licence of the code (`hf_sqa`): Apache-2.0",
        "Licence of the weights: mit",
        "The weights derive from `distill-mos-v7`, whose terms apply too",
        "Training took 5 min on one core. Energy: not measured.",
        "Stahl & Gamper",
    ):
        assert sentence in text, sentence
    assert ModelCard(text).data.language == ["en", "de", "sw"]
    assert "/data" not in text


def test_results_are_shown_with_intervals_and_kept_as_model_index(complete):
    text = text_of(complete)

    assert "| Swahili calls | `mos` | Spearman correlation, recordings | 0.812 | 0.710 to 0.880 | 42 | 0.600 |" in text
    first, second = ModelCard(text).data.eval_results
    assert (first.metric_type, first.metric_value) == ("spearmanr", 0.8123)
    assert first.metric_args == {"confidence_level": 0.95, "low": 0.71, "high": 0.88}
    assert (second.metric_type, second.metric_name) == ("rmse", "mos: root mean square error, systems")


def test_intervals_of_the_metrics_go_in_as_they_come(checkpoint):
    found = bootstrap_agreement([1.0, 2.0, 3.5, 4.0, 4.5], [1.5, 2.0, 3.0, 4.5, 4.0], metrics=["utt_lcc"], num_draws=200, rng=0)
    results = [
        {"dataset": "five", "metric": metric, "value": one.value, "low": one.low, "high": one.high, "num_clips": 5}
        for metric, one in found.items()
    ]

    card = make_card(checkpoint, results=results)

    assert card.data.eval_results[0].metric_value == pytest.approx(found["utt_lcc"].value, abs=1e-4)


def test_the_identity_is_that_of_the_pipeline(complete):
    identity = hf_sqa.pipeline(str(complete), device="cpu").identity()

    assert f"weights: `{identity['weights']}`" in text_of(complete)
    assert f"preprocessing: `{identity['preprocessing']}`" in text_of(complete)


def test_the_block_to_paste_runs(complete, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(complete.parent)
    block = re.search(r"```python\n(.*?)```", text_of(complete), re.DOTALL)[1]
    (tmp_path / "block.py").write_text(block)

    runpy.run_path(str(tmp_path / "block.py"))

    assert "'mos'" in capsys.readouterr().out


def test_what_was_written_by_hand_stays_and_the_rest_is_renewed(complete):
    text = (
        text_of(complete).replace("## Limits", "We thank the listeners.\n\n## Limits").replace("license: mit", "license: cc0-1.0")
    )
    text = text.replace("- mean-opinion-score", "- mean-opinion-score\n- swahili")
    (complete / "README.md").write_text(text)

    write_card(complete, CardFacts(results=[Evaluation("Swahili calls", "utt_srcc", 0.9, 0.85, 0.95)]))

    renewed = text_of(complete)
    assert "We thank the listeners." in renewed and "- swahili" in renewed
    assert "0.850 to 0.950" in renewed and "0.710 to 0.880" not in renewed
    assert ModelCard(renewed).data.license == "cc0-1.0"
    assert "`swahili.csv`: sw" in renewed and "Training took 5 min" in renewed


def test_a_base_with_a_short_name_is_remembered_when_the_recipe_is_gone(complete):
    write_card(complete)

    assert "The weights derive from `distill-mos-v7`" in text_of(complete)
    assert "base_model" not in ModelCard(text_of(complete)).data.to_dict()  # the Hub takes only its own ids there


def test_the_hub_is_told_bases_data_sets_metrics_and_how_the_sample_scores(checkpoint):
    recipe = {"model": {"checkpoint": "alice/base"}, "data": {"train": [{"hub": "alice/calls"}, {"table": "mine.csv"}]}}
    (checkpoint / "recipe.yaml").write_text(json.dumps(recipe))
    write_card(checkpoint, results=RESULTS, sample_scores={"mos": 3.14159}, license="mit")

    data = ModelCard(text_of(checkpoint)).data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == ("alice/base", "finetune")
    assert data["datasets"] == ["alice/calls"]
    assert data["metrics"] == ["spearmanr", "rmse"]
    output = [{"label": "mos", "score": 3.142}]
    assert data["widget"] == [{"src": "sample.flac", "example_title": "The sample of hf_sqa", "output": output}]

    write_card(checkpoint, license="mit")  # nothing new is known
    again = ModelCard(text_of(checkpoint)).data.to_dict()
    assert {key: again[key] for key in data} == data


def test_known_failures_stand_among_the_limits_until_others_are_known(checkpoint):
    write_card(checkpoint, known_failures=["Opus: 2.8 for 4.3"])
    write_card(checkpoint)
    assert "\n\nKnown failures:\n\n- Opus: 2.8 for 4.3\n<!-- /hf-sqa:limits -->" in text_of(checkpoint)

    write_card(checkpoint, known_failures=["Opus: 3.4 for 4.3"])
    assert "2.8 for 4.3" not in text_of(checkpoint) and "- Opus: 3.4 for 4.3" in text_of(checkpoint)


def test_a_misspelt_fact_is_refused(checkpoint):
    with pytest.raises(TypeError, match="licence"):
        make_card(checkpoint, licence="mit")


def test_writing_again_changes_nothing(complete):
    before = text_of(complete)
    write_card(complete)

    assert text_of(complete) == before


def test_a_section_taken_over_by_hand_is_not_overwritten(complete):
    text = re.sub(r"<!-- hf-sqa:training -->.*?<!-- /hf-sqa:training -->", "My own words.", text_of(complete), flags=re.DOTALL)
    (complete / "README.md").write_text(text)

    write_card(complete, recipe=RECIPE)

    assert "My own words." in text_of(complete) and "NISQA Corpus" not in text_of(complete)


@pytest.mark.parametrize(
    "words", ["# Model Card for Model ID", "generated automatically according to the information the Trainer had access to"]
)
def test_an_empty_form_of_another_library_is_replaced(checkpoint, words):
    (checkpoint / "README.md").write_text(f"---\nlibrary_name: peft\n---\n{words}\n")

    assert words not in str(make_card(checkpoint))


def test_results_recipe_and_time_beside_the_weights_are_found(checkpoint):
    (checkpoint / "report.json").write_text(json.dumps({"evaluation": [RESULTS[1]], "seconds": 7200}))
    (checkpoint / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    text = str(make_card(checkpoint))

    assert "0.300 to 0.550" in text and "NISQA Corpus" in text and "2.0 h" in text


def test_without_results_or_data_the_card_says_so(checkpoint):
    text = str(make_card(checkpoint))

    assert "was not compared with listeners" in text
    assert "were not recorded" in text
    assert "Licence of the weights: **not stated**" in text
    assert [line.split(":")[0] for line in missing_from_card(text)] == ["the licence of the weights"]


def test_undefined_values_and_overlap_are_shown_not_hidden(checkpoint):
    results = [
        Evaluation("seen", "utt_lcc", 0.95, overlaps_training=True),
        Evaluation("flat", "utt_lcc", float("nan")),
    ]
    card = make_card(checkpoint, results=results)

    assert "| seen † |" in card.text and "so the value is too optimistic" in card.text
    assert "| undefined | not computed |" in card.text
    assert [one.dataset_name for one in card.data.eval_results] == ["seen"]


@pytest.mark.parametrize("section", list(SECTIONS.values()))
def test_every_section_is_missed(complete, section):
    assert f"the section '## {section}'" in missing_from_card(text_of(complete).replace(f"## {section}\n", "## Else\n"))


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ({"dataset": "a", "metric": "srcc", "value": 1.0}, r"a level \(utt, sys, con\) and a name"),
        ({"dataset": "a", "metric": "utt_srcc"}, "Expected `value` in an evaluation result"),
        ({"dataset": "a", "metric": "utt_srcc", "value": 1.0, "ci": 2}, "Unknown key 'ci' in an evaluation result"),
    ],
)
def test_malformed_results_are_refused(checkpoint, result, told):
    with pytest.raises((ValueError, TypeError), match=told):
        make_card(checkpoint, results=[result])


def test_what_is_no_checkpoint_is_refused(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a checkpoint in .* config\.json"):
        make_card(tmp_path)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(ValueError, match="Expected a JSON object"):
        make_card(checkpoint)


def test_a_card_with_broken_metadata_is_refused(checkpoint):
    (checkpoint / "README.md").write_text("---\nlicense: [mit\n---\n# Mine\n")

    with pytest.raises(ValueError, match=r"Expected YAML between the lines `---`"):
        make_card(checkpoint)


def test_the_command_says_what_is_still_missing(checkpoint):
    incomplete = CliRunner().invoke(app, ["card", str(checkpoint)])
    assert incomplete.exit_code == 1 and "for example `--license mit`" in incomplete.stderr
    complete = CliRunner().invoke(app, ["card", str(checkpoint), "--license", "mit", "--language", "sw"])
    assert complete.exit_code == 0 and ModelCard(text_of(checkpoint)).data.language == ["sw"]
    refused = CliRunner().invoke(app, ["card", str(checkpoint / "gone")])
    assert refused.exit_code == 2 and "Expected a checkpoint" in refused.stderr


def test_a_card_of_an_adapter_names_its_base(tmp_path, make_tiny, checkpoint):
    peft = pytest.importorskip("peft")
    model = hf_sqa.AutoModelForAudioQuality.from_pretrained(checkpoint)
    name = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=[name])).save_pretrained(tmp_path / "adapter")

    card = make_card(tmp_path / "adapter", base_model="alice/base", license="mit")

    assert card.data.to_dict()["base_model_relation"] == "adapter"
    assert card.data.base_model == "alice/base" and "LoRA adapter (rank 4)" in card.text
    assert missing_from_card(card) == []


# The published cards


def make_cards():
    spec = importlib.util.spec_from_file_location("make_cards", CARDS_FOLDER / "make_cards.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", list(FACTS))
def test_a_published_card_is_complete_and_up_to_date(name):
    text = (CARDS_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    results = json.loads((CARDS_FOLDER / "results.json").read_text(encoding="utf-8"))

    assert missing_from_card(text) == []
    assert text == make_cards().card(name, FACTS[name], results.get(name, {})), "run `python model_cards/make_cards.py`"
    for result in ModelCard(text).data.eval_results or []:
        assert result.metric_args["low"] <= result.metric_value <= result.metric_args["high"]


def test_there_is_a_card_for_every_name_and_no_other():
    assert {path.stem for path in CARDS_FOLDER.glob("*.md")} == set(FACTS)


@pytest.mark.parametrize("name", list(FACTS))
def test_a_published_card_passes_the_validation_of_huggingface_hub(hub, name):
    card = ModelCard.load(CARDS_FOLDER / f"{name}.md")

    card.validate()
    hub.api().create_repo(f"alice/{name}", exist_ok=True)
    card.push_to_hub(f"alice/{name}", token=ALICE)
    assert ModelCard.load(f"alice/{name}").data.to_dict() == card.data.to_dict()


@pytest.mark.parametrize("name", list(FACTS))
def test_a_published_card_renders(name):
    markdown = pytest.importorskip("markdown_it")
    text = ModelCard.load(CARDS_FOLDER / f"{name}.md").text

    html = markdown.MarkdownIt("commonmark").enable("table").render(text)

    assert html.count("<h2>") == len(SECTIONS) and html.count("<table>") >= 1
    assert "{{" not in html and "{%" not in html and "|---" not in html


def test_the_score_in_the_card_of_the_default_is_the_one_it_gives(default_scorer):
    card = ModelCard.load(CARDS_FOLDER / "distill-mos-v7.md")
    promised = float(re.search(r"# \{'mos': ([\d.]+)\}", card.text)[1])
    block = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    names = {}
    exec(block, names)

    assert isinstance(names["score"], AudioQualityPipeline)
    assert names["score"](hf_sqa.__path__[0] + "/assets/sample.flac")["mos"] == pytest.approx(promised, abs=0.006)
    assert names["score"].identity()["weights"] in card.text
