"""Pages of the documentation, the code in them, and the extensions that build them."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^( *)```(.+)\n((?:.*\n)*?)\1```$", flags=re.MULTILINE)


def module(path: Path) -> ModuleType:
    """A Python file outside of any package."""
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


results = module(ROOT / "measurements" / "_results.py")
generated = module(DOCS / "_ext" / "generated.py")


def blocks(page: Path, kind: str = "python") -> list[str]:
    """Code of the blocks that begin with that line, in order."""
    return [
        re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        for indent, opening, code in _FENCE.findall(page.read_text())
        if opening.strip() == kind
    ]


def captioned(page: Path) -> dict[str, str]:
    """Files that a page shows, by name."""
    shown = blocks(page, "{code-block} python")
    parts = [re.fullmatch(r":caption: (\S+)\n(.*)", code, flags=re.DOTALL) for code in shown]
    return {part[1]: part[2] for part in parts if part}
