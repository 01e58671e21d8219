"""The scores of a run's scans: predictions of the same content under the run's model and its preprocessing version."""

from typing import Final

from sqlalchemy import FromClause, and_

from db.tables import models, predictions, runs, scans

#: Scans with their run, its model and their predictions; a scan without a prediction is left out.
SCORED_SCANS: Final[FromClause] = (
    scans.join(runs, runs.c.id == scans.c.run_id)
    .join(models, models.c.digest == runs.c.model_digest)
    .join(
        predictions,
        and_(
            predictions.c.sha256 == scans.c.sha256,
            predictions.c.model_digest == models.c.digest,
            predictions.c.preprocessing == models.c.preprocessing,
        ),
    )
)
