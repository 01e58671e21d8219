"""The pages of the models: their stages and history, each card, and two models on one run."""

from typing import Any, Final

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from db.marks import count_agreement
from db.registry import StoredModel, find_model, list_models, list_stage_changes
from nightread.model.card import Card
from web.api_answers import read_name
from web.lookup import reading_request
from web.showing import render
from web.stored_card import read_labels
from worker.report.model_pages import render_card_part, render_shadow_part
from worker.runs.shadow import read_shadow

#: Changes of stages that are listed.
_MOST_CHANGES: Final = 50
#: A run with more scored scans is compared by `nightread shadow`, which has more time than a page.
_MOST_SCANS: Final = 100_000


def show_models(request: Request) -> Response:
    """Show the models of the database, what users said of their decisions, and who changed their stages."""
    with reading_request(request) as connection:
        models = list_models(connection)
        agreement = count_agreement(connection)
        changes = list_stage_changes(connection)[::-1][:_MOST_CHANGES]
    labels = {model.digest: read_labels(model.card) for model in models}
    return render(request, "models.html", models=models, labels=labels, agreement=agreement, changes=changes)


def show_model(request: Request) -> Response:
    """Show the card of a model, its stages, and the models that it can be compared with."""
    with reading_request(request) as connection:
        model = _find(connection, read_name(request, "name"), read_name(request, "version"))
        changes = list_stage_changes(connection, model.digest)
        others = [
            other
            for other in list_models(connection)
            if other.digest != model.digest and set(read_labels(other.card)) & set(read_labels(model.card))
        ]
    try:
        card = render_card_part(Card.model_validate(model.card), model.stage.value, changes)
    except ValidationError:
        card = None
    return render(request, "model.html", model=model, card=card, others=others)


def show_shadow(request: Request) -> Response:
    """Show the newest run of one model as another one has scored it, too."""
    with reading_request(request) as connection:
        after = _find(connection, read_name(request, "name"), read_name(request, "version"))
        before = _find(connection, read_name(request, "other"), read_name(request, "other_version"))
    shadow = None
    if before.digest != after.digest and read_labels(before.card) and read_labels(after.card):
        shadow = read_shadow(request.app.state.engine, before, after, most_scans=_MOST_SCANS)
    part = None if shadow is None else render_shadow_part(shadow, {"thresholds": {}} | after.card)
    return render(request, "shadow.html", before=before, after=after, shadow=shadow, part=part)


def _find(connection: Any, name: str, version: str) -> StoredModel:
    model = find_model(connection, name, version)
    if model is None:
        raise HTTPException(404, "The database has no model bundle of this name and version.")
    return model
