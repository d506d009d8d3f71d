"""Fixtures for the tests of the networks."""

import pytest

from .helpers import without_drawing


@pytest.fixture
def blank():
    """Networks are built with zeros for weights."""
    with without_drawing():
        yield
