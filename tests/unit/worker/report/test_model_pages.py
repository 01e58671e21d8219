"""A card as a page says what it holds, as text."""

from nightread.model.bundle import DEFAULT_MODEL, find_bundle, load_bundle
from nightread.model.card import Card
from nightread.settings import read_settings
from tests.factories import make_card
from worker.report.model_pages import render_card

COMPUTED = {"digest": "0" * 64, "files": {"model.onnx": "0" * 64, "parity.npz": "0" * 64}}


def test_the_page_of_the_bundle_that_ships_has_every_figure():
    card = load_bundle(find_bundle(DEFAULT_MODEL, read_settings().models_dir)).card
    page = render_card(card, "production", [])
    assert page.count("<circle") == sum(len(figures) for figures in card.metrics.values())
    assert all(limit.split("(")[0][:40] in page for limit in card.limitations)


def test_a_card_from_elsewhere_is_text():
    card = Card.model_validate({**make_card(description="<script>alert(1)</script>\x1b[31m"), **COMPUTED})
    page = render_card(card, None, [])
    assert "<script" not in page
    assert "\x1b" not in page
