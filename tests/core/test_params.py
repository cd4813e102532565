"""Parameters as dataclass fields: ranges, choices, foreign names, and the table of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest

from spared_sc._core.params import Allowed, allowed_of, check_names, check_params, parameter, params_table


@dataclass(kw_only=True)
class Base:
    """Of many.

    Parameters
    ----------
    rate
        How fast.
    """

    rate: float | str = parameter(0.5, least=0, most=1, choices=("search",))

    def __post_init__(self) -> None:
        check_params(self)


@dataclass(kw_only=True)
class Method(Base):
    """One method.

    It says more.

    Parameters
    ----------
    steps, size
        Two numbers: how many,
        and how large.

        Both are whole.
    loss
        What is minimised.

    Notes
    -----
    rate
        Nothing of this is a parameter.
    """

    steps: int = parameter(3, least=1, whole=True)
    size: int | None = parameter(None, least=2, most=9, whole=True, grid=(2, 4, 8))
    loss: str = parameter("all", choices=("all", "hidden"))
    flag: bool = parameter(True, choices=(True, False))
    free: str = "anything"
    learned: object = field(default=None, init=False)


def test_defaults_and_values_in_range_are_taken():
    method = Method()
    assert (method.rate, method.steps, method.size, method.loss) == (0.5, 3, None, "all")
    for name, values in {
        "rate": (0, 1, 0.25, "search"),
        "steps": (1, 10**9),
        "size": (None, 2, 9),
        "loss": ("all", "hidden"),
        "flag": (True, False),
        "free": (3, None),
    }.items():
        for value in values:
            assert getattr(Method(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rate", -0.1, "rate=-0.1 cannot be used: give .*number from 0 to 1"),
        ("rate", 1.01, "from 0 to 1"),
        ("rate", np.nan, "rate=nan"),
        ("rate", "find", "rate=.find. .*search"),
        ("rate", None, "rate=None"),
        ("rate", True, "rate=True"),
        ("steps", 0, "steps=0 cannot be used: give a whole number from 1 upwards"),
        ("steps", 2.0, "steps=2.0 .*whole number"),
        ("steps", None, "steps=None"),
        ("size", 10, "size=10 .*from 2 to 9"),
        ("loss", "some", "loss='some' is unknown: choose 'all', 'hidden'"),
        ("loss", 1, "loss=1 is unknown"),
        ("flag", "yes", "flag='yes' is unknown: choose 'True', 'False'"),
        ("flag", 1, "flag=1 is unknown"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        Method(**{name: value})


def test_numbers_of_numpy_become_plain():
    method = Method(rate=np.float32(0.25), steps=np.int64(7), size=np.int32(4))
    assert json.loads(json.dumps([method.rate, method.steps, method.size])) == [0.25, 7, 4]
    with pytest.raises(ValueError, match="steps=0"):
        Method(steps=np.int64(0))


def test_foreign_names_are_refused_with_the_parameters_that_there_are():
    check_names(Method, "method", {"rate": 1, "free": 2})
    check_names(Method, "method", {})
    with pytest.raises(TypeError, match="'method' has no parameter 'learned', 'speed'; .*'rate', 'steps', 'size'"):
        check_names(Method, "method", {"speed": 1, "rate": 2, "learned": 3})


def test_what_a_parameter_can_be():
    assert allowed_of(Method) == {
        "rate": Allowed(0, 1, choices=("search",)),
        "steps": Allowed(1, whole=True),
        "size": Allowed(2, 9, whole=True, grid=(2, 4, 8)),
        "loss": Allowed(choices=("all", "hidden")),
        "flag": Allowed(choices=(True, False)),
    }


def test_the_table_has_ranges_grids_and_meanings():
    table = params_table(Method)
    assert list(table.index) == ["rate", "steps", "size", "loss", "flag", "free"]
    assert table["default"].tolist() == ["0.5", "3", "None", "'all'", "True", "'anything'"]
    assert table["range"].tolist() == [
        "'search' or number from 0 to 1",
        "whole number from 1",
        "whole number from 2 to 9",
        "'all' or 'hidden'",
        "True or False",
        "",
    ]
    assert table["tuned over"].tolist() == ["", "", "2, 4, 8", "", "", ""]
    numbers = "Two numbers: how many, and how large. Both are whole."
    assert table["meaning"].tolist() == ["How fast.", numbers, numbers, "What is minimised.", "", ""]


def test_a_class_without_parameters_has_an_empty_table():
    @dataclass
    class Nothing:
        pass

    table = params_table(Nothing)
    assert table.empty
    assert list(table.columns) == ["default", "range", "tuned over", "meaning"]
