"""Values in eight bits, and scripts that hold data."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from spared_sc._explorer import encode


def decoded(made: encode.Coded) -> np.ndarray:
    values = made.low + made.codes / encode.STEPS * (made.high - made.low)
    return np.where(made.codes == encode.MISSING, np.nan, values)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_values_are_right_to_half_a_step(scale):
    values = scale * np.random.default_rng(0).normal(size=500)
    values[::7] = np.nan
    made = encode.coded(values)
    step = (np.nanmax(values) - np.nanmin(values)) / 254
    assert np.nanmax(np.abs(decoded(made) - values)) <= 0.5001 * step
    np.testing.assert_array_equal(np.isnan(decoded(made)), np.isnan(values))
    assert made.ends == (np.nanmin(values), np.nanmax(values))


def test_both_ends_are_exact():
    made = encode.coded(np.array([0.0, 3.7, 1.2]))
    assert decoded(made)[0] == 0
    assert decoded(made)[1] == 3.7


def test_largest_floats_infinities_and_one_value():
    largest = np.finfo(float).max
    assert encode.coded(np.array([-largest, 0, largest])).codes.tolist() == [0, 127, 254]
    assert encode.coded(np.array([np.inf, 1.0, 2.0])).codes.tolist() == [encode.MISSING, 0, 254]
    assert encode.coded(np.array([5.0, 5.0])).codes.tolist() == [0, 0]
    assert encode.coded(np.array([np.nan, np.inf])) is None


def test_masks_are_packed_from_the_lowest_bit():
    assert encode.packed(np.array([1, 0, 1, 0, 0, 0, 0, 0, 1], dtype=bool)) == bytes([5, 1])


@pytest.mark.parametrize(
    "name", ["</script><script>alert(1)</script>", '"); alert(1); ("', "\u2028\0é\ud800", "x" * 300]
)
def test_a_script_holds_no_text_of_the_data(name):
    script = encode.piece("page", {"genes": [name]}, b"\x00\xff")
    found = re.fullmatch(rb'SparedExplorer\.receive\("page","([A-Za-z0-9+/=]*)","([A-Za-z0-9+/=]*)"\);\n', script)
    assert json.loads(base64.b64decode(found[1])) == {"genes": [name]}
    assert base64.b64decode(found[2]) == b"\x00\xff"


@pytest.mark.parametrize("n", range(5))
def test_the_size_of_a_script_is_known_before(n):
    assert len(base64.b64encode(b"x" * n)) == encode.piece_size(n)
