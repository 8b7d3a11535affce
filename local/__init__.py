"""The emulated account: all stand-ins for AWS and the model on one machine."""

import sys
from pathlib import Path

# The functions' modules have the rules of a turn. Import these modules, so that there is no second copy of the rules.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))
