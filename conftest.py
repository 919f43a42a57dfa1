"""Loads the comparison of notebooks, for `pytest --nbval` anywhere in the project."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "tests"))

pytest_plugins = ["notebook_plugin"]
