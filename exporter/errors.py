"""What goes wrong on the way from a training folder to a model bundle.

NightreadError
  ExportError      the training folder or the converted graph is at fault

A converted model that gives other scores is a `nightread.errors.ParityMismatch`, a card that does not hold a
`nightread.errors.CardMismatch`.
"""

from nightread.errors import NightreadError


class ExportError(NightreadError):
    """Nothing that can be served comes out of this training folder."""
