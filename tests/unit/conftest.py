"""Unit tests: pure, without a server. Rules are tried on generated values, however slow the machine is just then."""

from hypothesis import settings

settings.register_profile("no speed is judged", deadline=None)
settings.load_profile("no speed is judged")
