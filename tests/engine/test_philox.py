"""Counter-based random numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.philox import uniform


def test_uniform_is_in_range_reproducible_and_spread():
    numbers = [uniform(seed, counter) for seed in range(40) for counter in range(40)]
    assert all(0.0 <= number < 1.0 for number in numbers)
    assert len(set(numbers)) == len(numbers)
    assert numbers == [uniform(seed, counter) for seed in range(40) for counter in range(40)]
    assert sum(numbers) / len(numbers) == pytest.approx(0.5, abs=0.03)
    assert uniform(2**64 - 1, 2**31) != uniform(2**64 - 2, 2**31)


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_uniform_is_numpys_philox(seed, counter):
    raw = np.random.Philox(key=seed, counter=counter).random_raw()
    assert uniform(seed, counter) == (int(raw) >> 11) * 2.0**-53
