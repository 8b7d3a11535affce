"""Commands for the operator of a deployed stack: `python -m operations`. They use the operator's AWS rights."""

import sys
from pathlib import Path

# Make the functions' modules importable, because the commands use their rules for turns and messages.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))


class CommandFailed(Exception):
    """A command cannot continue. The exception's text tells the operator why."""
