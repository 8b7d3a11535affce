"""The emulated account: all stand-ins for AWS and the model on one machine."""

import sys
from pathlib import Path

# Make the functions' modules importable, because the emulated account uses their rules for turns.
sys.path.append(str(Path(__file__).parents[1] / "layers" / "shared"))
