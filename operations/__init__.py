"""Commands for the operator of a deployed stack: `python -m operations`. They use the operator's AWS rights."""

import sys
from pathlib import Path

# The functions' modules have the rules of turns and messages, so import them instead of a second copy.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))


class CommandFailed(Exception):
    """A command cannot continue. The text tells the operator why."""
