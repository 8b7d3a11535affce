"""The code that the functions of Turnqueue share: the turn and its rules, its store, its queue, and the form of
HTTP."""

__version__ = "0.1.0"
