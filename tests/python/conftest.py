# SPDX-License-Identifier: MIT
import os

import numpy
import pytest

SEED = int(os.environ.get("AXISNORM_TEST_SEED", "1"))


def pytest_report_header():
    return f"AXISNORM_TEST_SEED={SEED}"


@pytest.fixture
def random(request):
    """A generator of its own for each test, from the seed and the test's name."""
    return numpy.random.default_rng([SEED, *request.node.name.encode()])
