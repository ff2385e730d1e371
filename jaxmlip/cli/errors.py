"""How a command ends where nothing is wrong with what the user gave, nor with the program."""


class Failure(RuntimeError):
    """A run that had to stop, dynamics that blew up say: the command prints the message and leaves with code 1."""
