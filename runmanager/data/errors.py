"""What is wrong with data; it imports nothing, so that commands that only read files start fast."""


class DataError(ValueError):
    """Data that cannot be used; the message says what was given and what can be."""
