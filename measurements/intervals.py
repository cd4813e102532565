"""Coverage of the 95 % intervals over few units, by simulation.

    python measurements/intervals.py        seconds

The units are normal or lognormal (log-sd 0.5), or donors with several sections each: a donor's deviation from the
population has standard deviation 1, a section's from its donor 0.3. Each interval is that of the tables of scores; coverage is
the share of 40,000 intervals that hold the population mean. The last column takes sections for independent units.
"""

from __future__ import annotations

import _results
import numpy as np

from spared_sc._kernels.intervals import t_interval, unit_means

N_DRAWS = 40_000
SIZES = (3, 4, 8, 24)
N_SECTIONS = 3
SKEW = 0.5
SECTION_SD = 0.3


def coverage(values: np.ndarray, truth: float) -> float:
    """Share of the intervals, one for each column, that hold the truth."""
    found = t_interval(values)
    return float(np.mean((found.lower <= truth) & (truth <= found.upper)))


def main() -> None:
    """A row for each number of units."""
    rng = np.random.default_rng(0)
    rows = []
    for n in SIZES:
        donors = np.repeat(np.arange(n), N_SECTIONS)
        sections = rng.normal(size=(n, N_DRAWS))[donors] + rng.normal(0, SECTION_SD, size=(len(donors), N_DRAWS))
        row = {"units": n, "normal": coverage(rng.normal(size=(n, N_DRAWS)), 0)}
        row["skewed"] = coverage(rng.lognormal(0, SKEW, size=(n, N_DRAWS)), np.exp(SKEW**2 / 2))
        row["donors"] = coverage(unit_means(sections, donors.astype(str).tolist()), 0)
        rows.append({**row, "sections": coverage(sections, 0)})
    _results.write("intervals.coverage", rows)


if __name__ == "__main__":
    main()
