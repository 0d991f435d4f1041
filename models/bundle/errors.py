"""The root of every error that the person who started a command can mend."""


class UserError(Exception):
    """Its message is one clear sentence; it is shown without a traceback."""
