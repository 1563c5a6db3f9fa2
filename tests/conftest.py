"""What holds for every test."""

import signal

from hypothesis import HealthCheck, settings

# The machines that run the tests are busy: time says nothing about a property.
settings.register_profile("batchyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("batchyard")

# A shell ignores SIGINT for what a script starts in its background, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
