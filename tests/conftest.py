"""What holds for every test."""

from hypothesis import HealthCheck, settings

# The machines that run the tests are busy: time says nothing about a property.
settings.register_profile("batchyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("batchyard")
