"""Random faults, one upon the other, cost nothing but time."""

import pytest
from soak import soak

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def test_a_study_outlives_random_faults(tmp_path, undisturbed):
    soak(tmp_path, undisturbed)
