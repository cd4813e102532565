"""Fill the README's numbers in from the result files.

    python measurements/update_docs.py            rewrite the README
    python measurements/update_docs.py --check    say whether it is out of date

A value stands between `<!-- result REQUEST -->` and `<!-- /result -->`, a table between `<!-- results REQUEST`, one line per
column, `-->` and `<!-- /results -->`. The pages in `docs` are filled in when they are built.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import _results

README = Path(__file__).parents[1] / "README.md"
VALUE = re.compile(r"(<!-- result (.+?) -->).*?(<!-- /result -->)", flags=re.DOTALL)
TABLE = re.compile(r"(<!-- results ([^\n]+)\n(.+?)\n-->\n).*?(<!-- /results -->)", flags=re.DOTALL)


def filled(text: str) -> str:
    """The text with every value and table as the result files have it."""
    text = VALUE.sub(lambda m: f"{m[1]}{_results.fill(m[2])}{m[3]}", text)
    return TABLE.sub(lambda m: f"{m[1]}\n{_results.markdown(m[2], m[3])}\n\n{m[4]}", text)


def main() -> None:
    """Rewrite, or check."""
    text = README.read_text()
    if "--check" in sys.argv:
        raise SystemExit(0 if filled(text) == text else "README.md is out of date: make numbers")
    README.write_text(filled(text))


if __name__ == "__main__":
    main()
