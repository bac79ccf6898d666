from dataclasses import replace

import pytest
import yaml

from headstart.inference.model_card import render_model_card
from headstart.stats.metrics import classification_metrics
from tests.helpers.pictures import LABELS


@pytest.fixture
def metrics() -> dict:
    figures = classification_metrics([[0.75, 0.25, 0.0], [0.25, 0.75, 0.0]], [0, 1], LABELS)
    extra = {"split": "test", "selected_on_reported": False, "engine": "torch", "precision": "32", "strategy": "head"}
    return figures | extra


def test_the_front_matter_is_what_the_hub_reads(network, metrics):
    card = render_model_card(network, metrics, data_name="insects")
    _, front, body = card.split("---\n", 2)
    values = yaml.safe_load(front)
    assert values["pipeline_tag"] == "image-classification"
    assert values["library_name"] == "headstart"
    assert "headstart" in values["tags"]
    assert body.startswith("# insects: simple-cnn\n")


def test_it_says_what_there_is_to_know(network, metrics):
    card = render_model_card(network, metrics, data_name="insects", data_licence="CC BY 4.0.")
    for text in (
        "0. `ant`\n1. `bee`\n2. `cat`\n",
        "strategy `head`",
        "2 images of the split `test`",
        "| accuracy | 1.000 (95 % interval 0.342 to 1.000, wilson) |",
        "No epoch and no setting was chosen on these images",
        "headstart.load(",
        f"pretrained weights: {network.licence}",
        "Data (`insects`): CC BY 4.0.\n",
        "There was no image of `cat` among them, so these figures say nothing about it.",
        "## Limits",
    ):
        assert text in card
    assert "timm.create_model" not in card
    assert "\n\n\n" not in card


def test_figures_of_images_that_selected_are_marked(network, metrics):
    card = render_model_card(network, metrics | {"selected_on_reported": True}, data_name="insects")
    assert "so these figures are optimistic" in card
    assert "was chosen on these images" not in card


def test_a_timm_network_is_loaded_by_timm(network, metrics):
    card = render_model_card(replace(network, library="timm"), metrics, data_name="insects")
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "timm"
    assert 'timm.create_model("local-dir:' in card
    hidden = render_model_card(replace(network, library="timm", head_hidden=8), metrics, data_name="insects")
    assert "timm.create_model" not in hidden


def test_names_cannot_break_the_card(network, metrics):
    labels = tuple(f"a`b|{number}\n# x" for number in range(60))
    card = render_model_card(replace(network, labels=labels), metrics, data_name="---\n# `odd` {{ 1 }}")
    assert r"`` a`b|0\n# x ``" in card
    assert "\n# x" not in card
    assert "and 10 more" in card
    assert "{{ 1 }}" in card


def test_control_characters_of_names_do_not_reach_who_prints_the_card(network, metrics):
    card = render_model_card(replace(network, labels=("a\x1b[2J", "b")), metrics, data_name="c\x1b[2J")
    assert "\x1b" not in card
    assert "0. `a\\u001b[2J`" in card


def test_an_unknown_data_licence_is_said(network, metrics):
    assert "not known to Headstart" in render_model_card(network, metrics, data_name="insects")
