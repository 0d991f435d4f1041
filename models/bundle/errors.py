"""The root of every error that the person who started a command can mend."""


class UserError(Exception):
    """Its message is one clear sentence; it is shown without a traceback."""

    status = 1
    """What the command exits with."""


class Interrupted(UserError):
    """Ctrl-C ended a command that can go on later."""

    status = 130
