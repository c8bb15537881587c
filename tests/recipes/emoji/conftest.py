"""The scripts of recipes/emoji import each other from their own folder, which is not installed."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[3] / "recipes" / "emoji"))
