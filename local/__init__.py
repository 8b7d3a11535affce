"""The emulated account: all stand-ins for AWS and the model on one machine."""

import sys
from pathlib import Path

# Make the functions' modules importable. They have the rules of a turn, so no second copy of the rules is needed.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))
