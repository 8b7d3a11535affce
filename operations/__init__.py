"""Commands for the operator of a deployed stack, run with the operator's own rights: `python -m operations`."""

import sys
from pathlib import Path

# The functions' own rules of a turn and of a message, not a second copy.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))


class CommandFailed(Exception):
    """A command cannot go on. The text says why, for the operator."""
