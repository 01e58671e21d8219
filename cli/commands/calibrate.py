"""`calibrate`: makes a bundle with the probabilities and thresholds of one site."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import Json
from cli.output.console import print_json, progress_bar
from nightread.model.bundle import Bundle, find_bundle, find_new_folder
from nightread.settings import read_settings
from trainer.calibrate import calibrate_bundle, open_bundle, shift_bundle
from trainer.evaluation.site_scores import list_site, score_site


def calibrate(
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Bundle to start from; it does not change.")],
    version: Annotated[str, typer.Option(help="Version of the new bundle.")],
    labels: Annotated[
        Path | None,
        typer.Option("--labels", "--scans", help="50 to 200 labelled scans: a folder per label, or a CSV file."),
    ] = None,
    prevalence: Annotated[
        float | None, typer.Option(min=0.001, max=0.999, help="Share of the site's scans with the label, if known.")
    ] = None,
    site: Annotated[str, typer.Option(help="Name of the site on the card.")] = "site",
    out: Annotated[Path | None, typer.Option(help="Folder of bundles; default: NIGHTREAD_MODELS_DIR.")] = None,
    as_json: Json = False,
) -> None:
    """Calibrate a model bundle on labelled scans of one site.

    No weight is trained: the last layer is scaled, and thresholds are chosen again. With --prevalence alone, without
    labelled scans, probabilities are shifted and every decision stays.

    Example: nightread calibrate pneumonia-lite0 --labels our-scans --version 2-our-site
    """
    if labels is None and prevalence is None:
        raise typer.BadParameter("name labelled scans with --labels, or a share with --prevalence")
    models_dir = out or read_settings().models_dir
    bundle = open_bundle(find_bundle(model, read_settings().models_dir))
    folder = find_new_folder(models_dir, bundle.card.name, version)
    if labels is None:
        new, unreadable = shift_bundle(bundle, folder, version=version, prevalence=prevalence or 0.0), 0
    else:
        listed = list_site(labels, bundle.card)
        with progress_bar("score", len(listed)) as bar:
            scored = score_site(bundle, listed, report=bar.set)
        unreadable = scored.unreadable
        new = calibrate_bundle(bundle, scored, folder, site_name=site, version=version, prevalence=prevalence)
    if as_json:
        card = new.card.model_dump(mode="json", include={"name", "version", "digest", "thresholds", "metrics"})
        print_json({**card, "folder": str(folder), "unreadable": unreadable})
    else:
        _print(new, folder, site, unreadable)


def _print(new: Bundle, folder: Path, site: str, unreadable: int) -> None:
    card = new.card
    typer.echo(f"{card.reference} in {folder}")
    typer.echo(f"digest     {new.digest}")
    if unreadable:
        typer.echo(f"unreadable {unreadable} scans")
    for label, threshold in card.thresholds.items():
        typer.echo(f"decisions  {label} from {threshold.high:.4f}, {card.negative_decision} below {threshold.low:.4f}")
    for name, metric in card.metrics.get(site, {}).items():
        typer.echo(f"{name.replace('_', ' ')}: {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})")
