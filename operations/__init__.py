"""Commands for the operator of a deployed stack: `python -m operations`. They use the operator's AWS rights."""

import sys
from pathlib import Path

# The functions' rules of a turn and of a message, so that there is no second copy.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))


class CommandFailed(Exception):
    """A command cannot continue. The text tells the operator why."""
