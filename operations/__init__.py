"""What an operator does to a deployed stack, from his own machine and with his own rights: `python -m operations`."""

import sys
from pathlib import Path

# The rules of a turn and the form of a message are those of the functions, not a second set of them.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))
