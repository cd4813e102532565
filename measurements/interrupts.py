"""KeyboardInterrupt at random lines of every function that writes into an object: what is left of the object?

python measurements/interrupts.py --each 10        10 interrupts of every function and kind of object
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import _results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.interrupts import makers, outcomes, ready


def main() -> None:
    """Interrupt, and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10)
    each = parser.parse_args().each
    warnings.simplefilter("ignore")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, (calls, make) in makers(ready()).items():
            left = Counter(
                word.partition(" (")[0]
                for name, call in calls.items()
                for word in outcomes(call, make, Path(folder) / "p.zarr", each, random.Random(f"{kind} {name}"))
            )
            words = ("as before", "complete", "half written")
            row = {"object": kind, "functions": len(calls), "interrupts": left.total()}
            rows.append(row | {word.replace(" ", "_"): left[word] for word in words})
            print(rows[-1], flush=True)
    _results.write("interrupts.objects", rows)


if __name__ == "__main__":
    main()
