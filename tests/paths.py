"""Where the tests find the project's files, and real input beside the project."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real tasks and text; tests that need them are skipped where they are absent."""
QUICKSTART_YAML = ROOT / "search" / "templates" / "quickstart.yaml"
