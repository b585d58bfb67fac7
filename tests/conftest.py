"""What holds for all tests."""

from hypothesis import settings

# A deadline for a single example would make a test's outcome depend on what else the machine does.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")
