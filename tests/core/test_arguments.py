"""Arguments of a wrong type, in every public function."""

from __future__ import annotations

import inspect

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from spared_sc._core.arguments import checks_arguments

MODULES = ("pp", "tl", "pl", "get")
FUNCTIONS = [getattr(getattr(sp, module), name) for module in MODULES for name in getattr(sp, module).__all__]
WRONG = {
    "str": [3, None, ["a"], b"a", np.nan, object()],
    "str | None": [3, ["a"], {}, True],
    "bool": [None, "False", 0, 1.0, []],
    "bool | None": ["no", 1],
    "str | Sequence[str] | None": [3, print, [3], [["a"]], np.array(["a"])[0:1].reshape(1, 1), {"a": 1}],
    "tuple[float, float] | None": [3, "ab", (1,), [True, 2], (1, 2, 3), ("1", "2"), (1, None), np.ones(2)],
    "Axes | None": ["ax", 3, [None]],
}
CASES = [
    (function, name, value)
    for function in FUNCTIONS
    for name, one in list(inspect.signature(function).parameters.items())
    for value in WRONG.get(str(one.annotation), [])
]


@pytest.mark.parametrize("function", dict.fromkeys(function for function, _, _ in CASES), ids=lambda f: f.__qualname__)
def test_every_function_refuses_a_wrong_type_before_it_reads_anything(function):
    first = next(iter(inspect.signature(function).parameters))
    for name, value in [(name, value) for one, name, value in CASES if one is function]:
        given = {name: value} if name == first else {first: "nothing that can be read", name: value}
        with pytest.raises(TypeError, match=rf"^{name}=.* cannot be used: give "):
            function(**given)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("str | Sequence[str] | None", np.array(["a", "b"])),
        ("str | Sequence[str] | None", pd.Index(["a"])),
        ("str | Sequence[str] | None", pd.Series(["a"], dtype="category")),
        ("str | Sequence[str] | None", []),
        ("Collection[str] | None", {"a", "b"}),
        ("str", np.str_("a")),
        ("bool", np.bool_(True)),
        ("tuple[float, float] | None", [np.int64(1), np.float32(2)]),
        ("Sequence[float]", np.ones(3)),
        ("tuple[float, float]", "left to the function"),
        ("int", "left to the function"),
        ("str | Path | Completer", object()),
    ],
)
def test_what_is_meant_by_the_type_is_taken(annotation, value):
    def function(given):
        return given

    function.__annotations__["given"] = annotation
    function.__signature__ = inspect.Signature(
        [inspect.Parameter("given", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)]
    )
    assert checks_arguments(function)(value) is value
    assert checks_arguments(function)(given=value) is value
