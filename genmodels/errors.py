"""The one error a user is meant to read: what is wrong, where, and what to do about it."""


class InputError(ValueError):
    """What the user handed in cannot be used; the message is a single line: what, where, what to do."""
