"""Why a network cannot be given exits."""

from models.bundle.errors import UserError


class AttachError(UserError):
    """No bundle was written; the message says why, in one sentence."""
