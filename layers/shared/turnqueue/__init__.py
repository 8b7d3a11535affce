"""The code that the functions of Turnqueue share: the turn and its rules, its store, its queue, and the HTTP API."""

__version__ = "0.1.0"
