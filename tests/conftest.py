"""Fixtures and settings that several test files share."""

from hypothesis import settings

pytest_plugins = ["browser"]

# A busy machine makes single examples slow now and then; pytest's own timeout guards against real hangs.
settings.register_profile("seglib", deadline=None)
settings.load_profile("seglib")
