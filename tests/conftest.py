"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A time on a shared machine decides no test: not an example's, and not that of making one.
settings.register_profile("reasonerzero", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("reasonerzero")
