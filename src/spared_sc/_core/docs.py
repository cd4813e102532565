"""Docstrings that share their text: a parameter that means the same everywhere is described once."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable)

_LINE = re.compile(r"^(\s*)\{(\w+)\}$")
_NAMES = re.compile(r"^\{?(\w+(?:, \w+)*)\}?$", re.MULTILINE)  # parameters that a docstring describes

# A docstring line `{name}` becomes the name and this text.
PARAMETERS = {
    "adata": "Spots x genes; an AnnData, or a SpatialData object with such a table.",
    "mask_var": (
        'Boolean column of `var` with the genes to use. `"spared_selected"` is used where it exists, all genes '
        "otherwise; `None` uses all genes."
    ),
    "library_key": (
        "Column of `obs` with the library (section) of each spot. Needed when there are several libraries; `None` "
        "asks `sp.settings`."
    ),
    "subject_key": "Column of `obs` with the donor of each spot. Without it, every library counts as its own donor.",
    "spatial_key": (
        "Key in `obsm` of the spots' positions, x and y in pixels of the full-resolution image. Neighbours come from them "
        "only where `obs` has no array coordinates."
    ),
    "split_key": 'Column of `obs` with `"train"`, `"val"` or `"test"`. The default column is used where it exists.',
    "use_rep": "Key in `obsm` of an embedding of the spots, such as of their images.",
    "allow_unrecorded_rep": (
        "Accept an embedding that :func:`spared_sc.tl.embed_patches` did not record, such as one of your own image model. One "
        "made from expression holds the entries that are hidden, and makes scores too good."
    ),
    "device": 'Torch device, such as `"cpu"` or `"cuda:0"`. `None` asks `sp.settings`.',
    "batch_size": "Spots per forward pass at inference. It changes memory and speed, not the result.",
    "n_jobs": (
        "Number of threads. `None` asks `sp.settings`. The result does not depend on it, but for the rounding of networks "
        "that are trained on the CPU."
    ),
    "random_state": "Seed. The same seed gives the same result.",
    "show_progress_bar": "Whether to show progress. `None` asks `sp.settings`.",
    "checkpoint": (
        "Folder in which the state of a fit is kept. The same call after an interrupt or a crash resumes there and "
        "ends with the same result."
    ),
    "write": (
        'Layers to write: any of `"completed"`, `"denoised"`, `"rate"`, `"sd"` and `"denoised_sd"`. `None` writes all that '
        "the method gives. What is left out takes no memory."
    ),
    "key_added": "Name of the new layer or column.",
    "copy": "Return a changed copy instead of changing `adata`.",
    "scores": (
        'Table from `sp.tl.evaluate_completion`. Several can be concatenated, with a column `"set"` that names the data '
        "set."
    ),
    "metric": 'Value of the column `"metric"`.',
    "genes": 'Value of the column `"genes"`: `"all"`, or a group.',
    "methods": "Methods to draw. `None` draws all.",
    "libraries": "Libraries to show, in this order. `None` shows all.",
    "img": "Draw the tissue image, lightened, where there is one.",
    "img_key": 'Name of the image in `uns["spatial"][library]["images"]`. `None` takes `"hires"`, else `"lowres"`.',
    "crop": "Show only the part of the image that holds spots.",
    "size": (
        "Diameter of the circles as a multiple of the spots' own (`spot_diameter_fullres`; without it, 0.55 times the "
        "distance between neighbouring spots)."
    ),
    "cmap": "Colour map of the expression.",
    "vmin": (
        "Lower end of the colour scale. `None` takes the 1st percentile of the values shown, over spots that detected "
        "the gene (over all where none did)."
    ),
    "vmax": "Upper end of the colour scale. `None` takes the 99th percentile of the same values.",
    "alpha": "Opacity of the circles.",
    "ax": "Axes to draw a single panel into. `None` makes a new figure.",
    "figsize": "Width and height of a new figure in inches. `None` chooses them.",
    "show": "Call `plt.show()`. `None` means no.",
}

COUNTS_LAYER = """
layer
    Layer with the raw counts. By default the layer that an earlier call named, else `layers["counts"]`, else `X`, else
    `adata.raw`.
"""


def fill(**texts: str) -> Callable[[F], F]:
    """Replace the lines `{name}` of a function's docstring, keeping their indentation.

    A name that is given here is replaced by its text, any other by the parameter of that name in `PARAMETERS`, and
    `{others}` by all parameters that the docstring does not describe.
    """

    def decorate(function: F) -> F:
        if function.__doc__ is not None:  # python -OO drops docstrings
            text = inspect.cleandoc(function.__doc__)
            described = ", ".join(_NAMES.findall("\n".join([text, *map(inspect.cleandoc, texts.values())]))).split(", ")
            others = [f"{{{name}}}" for name in inspect.signature(function).parameters if name not in described]
            lines = text.replace("{others}", "\n".join(others)).split("\n")
            function.__doc__ = "\n".join(_filled(line, texts) for line in lines) + "\n"
        return function

    return decorate


def _filled(line: str, texts: dict[str, str]) -> str:
    found = _LINE.match(line)
    if found is None:
        return line
    indent, name = found.groups()
    if name in texts:
        return textwrap.indent(inspect.cleandoc(texts[name]), indent)
    return textwrap.indent(f"{name}\n{textwrap.indent(textwrap.fill(PARAMETERS[name], 108), '    ')}", indent)
