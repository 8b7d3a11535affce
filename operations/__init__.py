"""Commands for the operator of a deployed stack: `python -m operations`. They use the operator's AWS rights."""

import sys
from pathlib import Path

# Make the functions' modules importable. They have the rules of turns and messages, so no second copy of the rules is
# needed.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))


class CommandFailed(Exception):
    """A command cannot continue. The exception's text tells the operator why."""
