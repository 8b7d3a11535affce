"""The emulated account: all stand-ins for AWS and the model on one machine."""

import sys
from pathlib import Path

# The functions' rules of a turn, so that there is no second copy.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))
