"""The benchmark of the documentation: `benchmark.yaml` on the sections at hand.

    python measurements/benchmark.py OUT               write the sets that are no files yet, and run
    python measurements/benchmark.py OUT --workers 2   on two cores

The same call goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sections import _raw
from zoo import halves

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

HERE = Path(__file__).parent
SETS: dict[str, Callable[[], AnnData]] = {"colon": halves, "olfactory_bulb": lambda: _raw("MOB")}


def write_sets() -> None:
    """Write the sets of the manifest that the catalogue does not have."""
    for name, read in SETS.items():
        path = HERE / "sets" / f"{name}.h5ad"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            read().write_h5ad(path)


def main() -> None:
    """Write the sets and run the manifest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the benchmark")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    if sp.settings.data_dir is None:
        raise SystemExit("set SPARED_SC_DATA_DIR to the folder of the sections")
    write_sets()
    if options.workers == 1:
        sp.benchmark.run(HERE / "benchmark.yaml", options.out)
        return
    from distributed import Client, LocalCluster

    local = LocalCluster(n_workers=options.workers, threads_per_worker=1, memory_limit=None, dashboard_address=None)
    with local as cluster, Client(cluster) as client:
        sp.benchmark.run(HERE / "benchmark.yaml", options.out, client=client)


if __name__ == "__main__":
    main()
