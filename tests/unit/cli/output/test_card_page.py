import io

import pytest
from rich.console import Console

from cli.output.card_page import print_card
from nightread.model.bundle import find_bundle, load_bundle
from nightread.model.card import Card
from tests import factories

_DIGESTS = {"digest": "0" * 64, "files": {"model.onnx": "1" * 64, "parity.npz": "2" * 64}}
_FULL = {
    "population": "Children of one hospital. " * 8,
    "not_tested": ["Newborns and adults."],
    "calibration": "Of a hundred children with a score of about 0.8, about eighty have pneumonia.",
    "scaling": {
        "slope": 1.25, "intercept": -0.5, "scans": 780, "patients": 419,
        "ece_before": factories.make_metric(0.05), "ece_after": factories.make_metric(0.0123, 0.004),
    },
    "operating_points": {"pneumonia": factories.make_operating_points()},
    "gate": {
        "max_distance": 34.5, "doubtful_distance": 5, "max_aspect_ratio": 3,
        "false_rejection": factories.make_metric(0.004, 0.001),
    },
    "drift_reference": {"scans": 783, "rejected_share": 0.004, "quantiles": {}},
    "same_pixels": {
        "224-pixel files": {
            "scans": 240, "median_difference": 0.0043, "largest_difference": 0.21, "decisions_changed": 3,
        }
    },
    "metrics": {
        "validation": {"auc": factories.make_metric(0.98)},
        "hold-out": {
            "auc": factories.make_metric(0.97),
            "ece": factories.make_metric(0.0123, 0.004),
            "sensitivity (viral)": factories.make_metric(0.91),
        },
    },
}  # fmt: skip


def show(width=80, **fields):
    buffer = io.StringIO()
    card = Card.model_validate({**factories.make_card(), **_DIGESTS, **fields})
    print_card(card, Console(file=buffer, width=width, highlight=False))
    return buffer.getvalue()


def flatten(shown):
    return " ".join(shown.split())


@pytest.mark.parametrize("width", [80, 120])
def test_a_card_fits_the_terminal(width):
    assert max(len(line.rstrip()) for line in show(width, **_FULL).splitlines()) <= width


def test_a_card_without_a_terminal_is_wrapped_and_whole():
    buffer = io.StringIO()
    card = Card.model_validate({**factories.make_card(), **_DIGESTS, **_FULL})
    print_card(card, Console(file=buffer, width=10_000, soft_wrap=True))

    assert flatten(_FULL["population"]) in flatten(buffer.getvalue())
    assert max(len(line.rstrip()) for line in buffer.getvalue().splitlines()) <= 110


@pytest.mark.parametrize(
    "said",
    [
        "about eighty have pneumonia. Scaled on 780 scans of 419 patients",
        "calibration error on the hold-out is 0.012 (0.008-0.016); it was 0.050",
        "pneumonia: score 0.6 and above",
        "uncertain: score 0.4 to 0.6",
        "normal: score below 0.4",
        "high-sensitivity 0.2000 chosen on 0.900 (0.890-0.910) 0.800 (0.790-0.810) hold-out 0.900",
        "AUC 0.980 (0.970-0.990) 0.970 (0.960-0.980)",
        "Decisions at the threshold `balanced` alone",
        "Newborns and adults.",
        "False rejections on the hold-out: 0.40% (0.30% to 0.50%)",
        "feature distance 34.5 from the training scans (Mahalanobis",
        "224-pixel files 240 0.0043 0.21 3 (1.2%)",
        "reference: 783 hold-out scans",
    ],
)
def test_a_card_tells(said):
    assert said in flatten(show(**_FULL))


def test_subgroups_stand_apart_from_the_figures_of_whole_parts():
    before, _, after = show(**_FULL).partition("By subgroup")
    assert "sensitivity (viral)" not in before
    assert flatten(after).startswith("hold-out sensitivity (viral) 0.910 (0.900-0.920)")


def test_one_threshold_leaves_no_abstain_band():
    shown = show(thresholds={"pneumonia": {"low": 0.5, "high": 0.5}})
    assert "uncertain" not in shown


def test_of_many_labels_the_highest_score_decides():
    shown = show(labels=["bacterial", "normal", "viral"], activation="softmax", thresholds={})
    assert "highest score of bacterial, normal, viral" in shown


def test_what_a_card_does_not_have_is_not_shown():
    shown = show()
    assert not [
        title for title in ("Not tested", "balanced", "Operating points", "gate", "subgroup", "drift") if title in shown
    ]


def test_the_card_of_the_first_bundle_is_shown(tmp_path):
    buffer = io.StringIO()
    print_card(load_bundle(find_bundle("pneumonia-cnn75@1", tmp_path)).card, Console(file=buffer, width=80))
    assert "Not calibrated" in buffer.getvalue()
    assert "0.997 (0.995-0.999)" in buffer.getvalue()


def test_a_card_from_elsewhere_cannot_write_to_the_terminal_but_its_text():
    shown = show(intended_use="[bold]x[/nothing] \x1b[2J", calibration="\x1b]0;title\x07")
    assert "[bold]x[/nothing] \\x1b[2J" in shown
    assert "\x1b" not in shown
    assert "\x07" not in shown
