"""The device that the tests run on, for what several tests share."""

import pytest


@pytest.fixture(scope="session")
def device(request):
    """Its name for an experiment; a fixture of a module is made outside the `with` that surrounds a test."""
    return request.config.option.place
