"""`models`: the bundles that are here."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import Json

if TYPE_CHECKING:
    from nightread.bundle import Bundle
    from nightread.card import Card

app = typer.Typer(help="The model bundles: list, show and check them.", no_args_is_help=True)

#: Prose is wrapped, on a wide terminal and in a file too.
_CARD_WIDTH = 110

Reference = Annotated[
    str, typer.Argument(metavar="[NAME[@VERSION]]", help="A model bundle; the one that is in use if left out.")
]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the bundles that ship and those in NIGHTREAD_MODELS_DIR.

    Example: nightread models list
    """
    from cli.console import make_table, out, print_json
    from nightread.bundle import find_bundle, list_bundles, load_bundle
    from nightread.errors import ModelError
    from nightread.settings import read_settings

    settings = read_settings()
    rows: list[dict[str, Any]] = []
    for folder in list_bundles(settings.models_dir):
        row: dict[str, Any] = {"model": f"{folder.parent.name}@{folder.name}", "in_use": False, "digest": None}
        try:
            bundle = load_bundle(folder)
        except ModelError as error:
            row["error"] = str(error)
        else:
            card = bundle.card
            row |= {"digest": bundle.digest, "labels": list(card.labels), "description": card.description}
        rows.append(row)
    in_use = find_bundle(settings.model, settings.models_dir)
    for row in rows:
        row["in_use"] = row["model"] == f"{in_use.parent.name}@{in_use.name}"
    if as_json:
        print_json(rows)
        return
    table = make_table("", "model", "digest", "labels", "description")
    for row in rows:
        table.add_row(
            "*" if row["in_use"] else "", row["model"], (row["digest"] or "")[:12], ", ".join(row.get("labels", [])),
            row.get("description") or row["error"],
        )  # fmt: skip
    out.print(table)


@app.command()
def show(model: Reference = "", as_json: Json = False) -> None:
    """Show a bundle's card: what it is for, what it was trained on, how good it is and where it fails.

    Example: nightread models show pneumonia-cnn75@1
    """
    from cli.console import print_json

    card = _load(model).card
    if as_json:
        print_json(card.model_dump(mode="json"))
    else:
        _print_card(card)


@app.command()
def check(model: Reference = "", as_json: Json = False) -> None:
    """Check a bundle on this machine: every byte, the graph against the card, the scores against the exported ones.

    Example: nightread models check
    """
    from cli.console import make_table, out, print_json
    from nightread.settings import read_settings
    from worker.process import count_cores
    from worker.scorer import Scorer

    settings = read_settings()
    bundle = _load(model)
    scorer = Scorer(bundle, settings.device, settings.threads or count_cores())
    found = {
        "model": bundle.card.reference, "digest": bundle.digest, "provider": scorer.provider,
        "runtime": scorer.runtime, "parity_scans": len(bundle.parity_inputs), "parity": scorer.parity,
        "allowed": scorer.allowed_parity,
    }  # fmt: skip
    if as_json:
        print_json(found)
        return
    table = make_table("check", "found")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:.2g}" if isinstance(value, float) else str(value))
    out.print(table)
    out.print("the bundle is whole and reproduces its scores here", markup=False)


def _load(model: str) -> "Bundle":
    from nightread.bundle import find_bundle, load_bundle
    from nightread.settings import read_settings

    settings = read_settings()
    return load_bundle(find_bundle(model or settings.model, settings.models_dir))


def _print_card(card: "Card") -> None:
    from cli.console import make_table, out

    height, width, channels = card.input.shape
    out.print(f"{card.reference}  {card.digest}", markup=False, style="bold")
    out.print(card.description, markup=False)
    table = make_table("", "")
    table.show_header = False
    for name, value in (
        ("intended use", card.intended_use),
        ("limitations", "\n".join(card.limitations)),
        ("labels", ", ".join(card.labels)),
        (
            "thresholds",
            ", ".join(_show_threshold(label, limits.low, limits.high) for label, limits in card.thresholds.items()),
        ),
        ("score", card.calibration),
        (
            "input",
            f"{height} x {width} x {channels}, {card.input.value_range}, preprocessing {card.preprocessing_version}",
        ),
        ("architecture", card.architecture),
        ("trained on", f"{card.training.data_source} ({card.training.license}): {card.training.attribution}"),
        ("split", f"{card.training.split}; scans {card.training.scans}, patients {card.training.patients}"),
        ("created", card.created_at.isoformat(timespec="seconds")),
    ):
        table.add_row(name, value)
    out.print(table, width=min(out.width, _CARD_WIDTH))
    metrics = make_table("part", "figure", "value", "95 % interval", right=("value",))
    for part, figures in card.metrics.items():
        for name, metric in figures.items():
            metrics.add_row(part, name, f"{metric.value:.4f}", f"{metric.low:.4f} to {metric.high:.4f}")
    out.print(metrics)


def _show_threshold(label: str, low: float, high: float) -> str:
    return f"{label} from {high:.4g}" + (f", uncertain from {low:.4g}" if low < high else "")
