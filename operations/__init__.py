"""Commands for the operator of a deployed stack: `python -m operations`. They use the operator's AWS rights."""

import sys
from pathlib import Path

# The functions' modules have the rules of turns and messages. Import these modules, so that there is no second copy of
# the rules.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))


class CommandFailed(Exception):
    """A command cannot continue. The exception's text tells the operator why."""
