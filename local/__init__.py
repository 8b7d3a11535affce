"""The emulated account: everything that stands in for AWS and the model on one machine."""

import sys
from pathlib import Path

# The functions' own rules of a turn, not a second copy.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))
