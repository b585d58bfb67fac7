"""Where the tests find the project's files, and real input beside the project."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"
"""Real tasks and text; tests that need them are skipped where they are absent."""
needs_shared_data = pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="the real tasks are not in ../shared/data")
"""Leaves out a test of real tasks where they are absent."""
QUICKSTART_YAML = ROOT / "search" / "templates" / "quickstart.yaml"
EARLIER_STUDY = ROOT / "tests" / "search" / "earlier_study"
"""A study that version 0.1.0 with records of schema 1 began and that was killed; ROOT stands for its folder."""
