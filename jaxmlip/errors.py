"""Errors that the user can mend: the commands print their message and leave with exit code 2."""


class UserError(ValueError):
    """What was given cannot be used; the message says what it was, where it stands and what to do."""
