"""Kill, fill the disk, and write twice: does everything that is read afterwards have the bytes of an undisturbed run?

Three experiments over fits with checkpoints, stores, downloads, saved models, the command line and a loop like a benchmark:

- `kills`: SIGKILL at a random moment, up to three times in a row; then the same call again.
- `full_disk`: the n-th call that writes, makes, renames or flushes a file fails, for every n; then the same call again.
- `writers`: two processes do the same at once in one place.

    python measurements/crashes.py              # 100 kills, about ten minutes
    python measurements/crashes.py --kills 4 --only "model save" --folder somewhere
"""

from __future__ import annotations

import argparse
import builtins
import errno
import hashlib
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _results
import anndata as ad
import numpy as np

import spared_sc as sp

MANY = 3  # kills in a row, at most
KEY: dict[str, Any] = {"library_key": "library_id"}
QUIET: dict[str, Any] = {**KEY, "show_progress_bar": False}
SIZE = 30_000_000  # bytes of the download


@dataclass
class Inputs:
    """What the jobs work on; made once, by another process."""

    folder: Path
    url: str

    def section(self) -> ad.AnnData:
        """The sections, each time anew."""
        return ad.read_h5ad(self.folder / "sections.h5ad")


@dataclass(frozen=True)
class Job:
    """Something that writes to a folder, and the reading of what it wrote."""

    name: str
    run: Callable[[Inputs, Path], None]
    read: Callable[[Inputs, Path], str]  # hash of the content; an error if there is none, or it is refused
    before: Callable[[Inputs, Path], None] = lambda inputs, folder: None  # what is in the folder at the start
    left: tuple[str, ...] = ()  # names in the folder at the end


# --- jobs -------------------------------------------------------------------------------------------------------------


def _save_models(inputs: Inputs, folder: Path) -> None:
    models = [sp.tl.load_predictor(inputs.folder / name) for name in ("ridge", "knn")]
    for i in range(20):
        models[i % 2].save(folder / "model")


def _read_model(inputs: Inputs, folder: Path) -> str:
    fitted = sp.tl.load_predictor(folder / "model")
    return _hash(fitted.name, *fitted.predictor.state()[0].values())


def _store(inputs: Inputs, folder: Path) -> None:
    _small_batches()
    sp.pp.extract_patches(inputs.section(), output_size=32, store=folder / "p.zarr", overwrite=True, **QUIET)


def _old_store(inputs: Inputs, folder: Path) -> None:
    _small_batches()
    sp.pp.extract_patches(inputs.section(), output_size=24, store=folder / "p.zarr", **QUIET)


def _read_store(inputs: Inputs, folder: Path) -> str:
    from spared_sc._core.validate import get_libraries
    from spared_sc._images.store import StoredPatches

    adata = inputs.section()
    patches = StoredPatches.of(folder / "p.zarr", adata.obs_names, get_libraries(adata, "library_id"))
    return _hash(patches.read(np.arange(adata.n_obs)))


def _small_batches() -> None:
    from spared_sc._images import store

    store._BATCH = 8  # so that there are many moments


def _fit_paper(inputs: Inputs, folder: Path) -> None:
    from spared_sc._models import training

    training._SAVE_EVERY = 0.0
    params = {"n_steps": 300, "patience": 300, "n_layers": 1, "feedforward": 32, "train_batch_size": 8}
    _complete(inputs, folder, "paper", params)


def _fit_counts(inputs: Inputs, folder: Path) -> None:
    from spared_sc._models.completion import variational

    variational._SAVE_EVERY = 0.0
    _complete(inputs, folder, "counts", {})


def _complete(inputs: Inputs, folder: Path, method: str, params: dict[str, Any]) -> None:
    adata = inputs.section()
    sp.tl.complete(
        adata,
        method=method,
        method_params=params,
        checkpoint=folder / "state",
        save_model=folder / "model",
        device="cpu",
        **QUIET,
    )
    _put(folder, adata.layers[method if method in adata.layers else "spackle"].toarray())


def _embed(inputs: Inputs, folder: Path) -> None:
    adata = inputs.section()
    sp.tl.embed_patches(adata, checkpoint=folder / "state", key_added="X_again", **QUIET)
    _put(folder, adata.obsm["X_again"])


def _download(inputs: Inputs, folder: Path) -> None:
    from spared_sc._core import download

    known = hashlib.sha256((inputs.folder / "file.bin").read_bytes()).hexdigest()
    download.fetch(f"{inputs.url}/file.bin", folder / "file.bin", known_hash=f"sha256:{known}")


def _read_file(inputs: Inputs, folder: Path) -> str:
    return _hash((folder / "file.bin").read_bytes())


def _predict(ending: str) -> Callable[[Inputs, Path], None]:
    def run(inputs: Inputs, folder: Path) -> None:
        from spared_sc import cli

        output = folder / f"out.{ending}"
        if output.exists():
            return
        options = [
            "--model",
            inputs.folder / "ridge",
            "-o",
            output,
            "--mpp",
            (inputs.folder / "mpp").read_text(),
            "--force",
        ]
        status = cli.main(["predict", *map(str, (inputs.folder / "slide.png", *options))])
        if status:
            raise (FileExistsError("the output exists") if status == 2 else OSError("spared-sc predict has failed"))

    return run


def _read_output(ending: str) -> Callable[[Inputs, Path], str]:
    def read(inputs: Inputs, folder: Path) -> str:
        if not (folder / f"out.{ending}").exists():
            raise FileNotFoundError
        return _hash(getattr(ad, f"read_{ending}")(folder / f"out.{ending}").X)

    return read


def _loop(inputs: Inputs, folder: Path) -> None:
    """Cells of a table, each fitted once and kept."""
    adata = inputs.section()
    for library in ("library_1", "library_2"):
        for model in ("ridge", "gene_mean", "position_only"):
            cell = folder / f"{library} {model}"
            try:
                sp.tl.load_predictor(cell)
            except FileNotFoundError:
                part = adata[adata.obs["library_id"] != library].copy()
                sp.tl.fit_predictor(part, model=model, target="log2tpm", loss="all", **QUIET).save(cell)


def _read_loop(inputs: Inputs, folder: Path) -> str:
    cells = sorted(path for path in folder.iterdir() if (path / "card.json").is_file())
    if len(cells) < 6:
        raise FileNotFoundError
    return _hash(*(cell.name for cell in cells), *(next(cell.glob("weights-*")).read_bytes() for cell in cells))


def _put(folder: Path, values: np.ndarray) -> None:
    """Keep what a job computed; not by a call that fails on a full disk, as it is no part of the job."""
    content = io.BytesIO()
    np.save(content, values)
    file = os.open(folder / "result.npy", os.O_WRONLY | os.O_CREAT)
    os.write(file, content.getvalue())
    os.close(file)


def _read_result(inputs: Inputs, folder: Path) -> str:
    return _hash(np.load(folder / "result.npy"))


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(
            part.encode()
            if isinstance(part, str)
            else part
            if isinstance(part, bytes)
            else np.ascontiguousarray(part).tobytes()
        )
    return digest.hexdigest()


JOBS = [
    Job("model save", _save_models, _read_model, left=("model",)),
    Job("patch store", _store, _read_store, left=("p.zarr",)),
    Job("overwritten patch store", _store, _read_store, _old_store, left=("p.zarr",)),
    Job("fit of SpaCKLE", _fit_paper, _read_result, left=("model", "result.npy", "state")),
    Job("fit of the count model", _fit_counts, _read_result, left=("model", "result.npy", "state")),
    Job("embedding", _embed, _read_result, left=("result.npy", "state")),
    Job("download", _download, _read_file, left=("file.bin",)),
    Job("spared-sc predict, h5ad", _predict("h5ad"), _read_output("h5ad"), left=("out.h5ad",)),
    Job("spared-sc predict, zarr", _predict("zarr"), _read_output("zarr"), left=("out.zarr",)),
    Job("loop over models", _loop, _read_loop),
]


def prepare(folder: Path) -> None:
    """Sections, models and files that the jobs work on."""
    from PIL import Image

    adata = sp.datasets.synthetic(n_libraries=3, shape=(8, 8), n_genes=60, depth=500)
    sp.pp.recipe_spared(adata, n_genes=16, **KEY)
    sp.tl.embed_patches(adata, **QUIET)
    for model in ("ridge", "knn"):
        sp.tl.fit_predictor(adata, model=model, target="log2tpm", loss="all", **QUIET).save(folder / model)
    adata.write_h5ad(folder / "sections.h5ad")
    Image.fromarray(adata.uns["spatial"]["library_1"]["images"]["hires"]).save(folder / "slide.png")
    (folder / "mpp").write_text(str(adata.uns["spared_sc"]["X_classical"]["patches"]["sources"]["um_per_px"][0]))
    (folder / "file.bin").write_bytes(np.random.default_rng(0).bytes(SIZE))


# --- processes --------------------------------------------------------------------------------------------------------


@dataclass
class Child:
    """A forked process that does a job; its error, if it raised one, is in a file."""

    pid: int
    told: Path

    @classmethod
    def of(cls, work: Callable[[], object], told: Path) -> Child:
        """Fork, and work."""
        told.unlink(missing_ok=True)
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return cls(pid, told)
        code = 0
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            work()
        except BaseException as error:  # noqa: BLE001 - all are told
            told.write_text(f"{type(error).__name__}: {error}")
            code = 1
        os._exit(code)

    def kill_after(self, seconds: float) -> bool:
        """Whether it was still at work."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if os.waitpid(self.pid, os.WNOHANG)[0]:
                return False
            time.sleep(0.002)
        os.kill(self.pid, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(self.pid, 0)[1])

    def error(self) -> str:
        """What it raised; empty if it ended well."""
        status = os.waitpid(self.pid, 0)[1]
        return self.told.read_text() if self.told.exists() else "" if status == 0 else f"ended with {status}"


@dataclass
class Place:
    """A folder in which a job is done over and over, from the same start."""

    job: Job
    inputs: Inputs
    folder: Path
    told: Path
    start: str = ""  # hash of what is there before
    end: str = ""  # and after
    others: frozenset[str] = frozenset()  # that may be read in between
    seconds: float = 0.0

    def learn(self) -> None:
        """Do the job undisturbed."""
        self.renew()
        self.start = self.found()
        began = time.monotonic()
        error = self.do().error()
        self.seconds = time.monotonic() - began
        if error:
            raise RuntimeError(f"{self.job.name}: {error}")
        self.end = self.found()
        self.others = frozenset({self.start, self.end})
        if self.job.name == "model save":  # two models in turn
            models = [sp.tl.load_predictor(self.inputs.folder / name) for name in ("ridge", "knn")]
            self.others |= {_hash(fitted.name, *fitted.predictor.state()[0].values()) for fitted in models}

    def renew(self) -> None:
        """Back to the start."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        Child.of(lambda: self.job.before(self.inputs, self.folder), self.told).error()

    def do(self, broken: Callable[[], Any] | None = None) -> Child:
        """Begin the job, in a process of its own."""

        def work() -> None:
            if broken is None:
                self.job.run(self.inputs, self.folder)
            else:
                with broken():
                    self.job.run(self.inputs, self.folder)

        return Child.of(work, self.told)

    def found(self) -> str:
        """Hash of what can be read, or "" where nothing is there or it is refused."""
        answer = self.told.with_suffix(".found")
        answer.unlink(missing_ok=True)
        error = Child.of(lambda: answer.write_text(self.job.read(self.inputs, self.folder)), self.told).error()
        if error and not error.startswith(("FileNotFoundError", "ValueError")):
            return error
        return "" if error else answer.read_text()

    def litter(self) -> int:
        """Files and folders that no job should leave."""
        names = {path.name for path in self.folder.iterdir()}
        hidden = [path for path in self.folder.rglob("*") if path.name.endswith((".part", ".partial", ".lock", ".old"))]
        return len(names - set(self.job.left) if self.job.left else ()) + len(hidden)


# --- experiments ------------------------------------------------------------------------------------------------------


def kills(place: Place, n_kills: int, rng: random.Random) -> dict[str, Any]:
    """Kill a job at random moments, and do it again until it ends."""
    done = same = wrong = litter = runs = 0
    while done < n_kills:
        place.renew()
        runs += 1
        for _ in range(min(rng.randint(1, MANY), n_kills - done)):
            done += place.do().kill_after(rng.uniform(0, place.seconds))
            wrong += place.found() not in {"", *place.others}
        error = place.do().error()
        if error:
            print(f"  {place.job.name}: after a kill {error[:200]}")
        same += place.found() == place.end
        litter += place.litter() > 0
    row = {"kills": done, "runs": runs, "half_read": wrong, "same_bytes": same, "with_litter": litter}
    return {"job": place.job.name, **row}


@contextmanager
def failing(n: int, count: list[int]) -> Iterator[None]:
    """The n-th call that changes the disk fails, and all that follow; `count` is raised by each."""

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def calling(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] >= n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **options)

        return calling

    class Full:
        """A file on a full disk."""

        def __init__(self, file: Any) -> None:
            self._file = file
            self.write = counted(file.write)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

    opened = io.open

    def opening(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        found = opened(file, mode, *args, **options)
        return Full(found) if isinstance(file, str | os.PathLike) and set(mode) & set("wax+") else found

    names = ("fsync", "rename", "replace", "mkdir")
    kept = {name: getattr(os, name) for name in names}
    try:
        builtins.open = io.open = opening  # type: ignore[assignment]
        for name in names:
            setattr(os, name, counted(kept[name]))
        yield
    finally:
        builtins.open = io.open = opened  # type: ignore[assignment]
        for name in names:
            setattr(os, name, kept[name])


def full_disk(place: Place, most: int) -> dict[str, Any]:
    """Let the n-th writing call fail, for every n (or for `most` of them, evenly)."""
    counted = place.told.with_suffix(".count")

    @contextmanager
    def counting(n: int) -> Iterator[None]:
        count = [0]
        try:
            with failing(n, count):
                yield
        finally:
            counted.write_text(str(count[0]))

    place.renew()
    place.do(lambda: counting(10**9)).error()
    n_calls = int(counted.read_text())
    row = dict.fromkeys(("failures", "clear_error", "no_error", "other_error", "half_read", "same_bytes_after"), 0)
    for n in sorted({round(x) for x in np.linspace(1, n_calls, min(n_calls, most))}):
        error, n_done = "", 0
        while n_done < n:
            n = n_done or n  # a download came in fewer blocks than at first
            place.renew()
            error = place.do(lambda n=n: counting(n)).error()
            n_done = int(counted.read_text())
        row["failures"] += 1
        kind = "no_error" if not error else "clear_error" if _is_clear(error) else "other_error"
        row[kind] += 1
        if kind == "other_error":
            print(f"  {place.job.name}: call {n}: {error[:200]}")
        row["half_read"] += place.found() not in {"", *place.others}
        place.do().error()
        row["same_bytes_after"] += place.found() == place.end
    return {"job": place.job.name, "writing_calls": n_calls, **row}


def _is_clear(error: str) -> bool:
    """Whether an error says what to do."""
    return "cannot be written" in error and ("free some space" in error or "choose" in error)


def writers(place: Place, n_runs: int, rng: random.Random) -> dict[str, Any]:
    """Two processes do one job in one place."""
    row = dict.fromkeys(("runs", "both_ended", "one_refused", "other_error", "same_bytes", "with_litter"), 0)
    for _ in range(n_runs):
        place.renew()
        first = place.do()
        second = Child.of(lambda: place.job.run(place.inputs, place.folder), place.told.with_suffix(".second"))
        time.sleep(rng.uniform(0, 0.05))
        errors = [error for error in (first.error(), second.error()) if error]
        row["runs"] += 1
        refused = [error for error in errors if error.startswith("TimeoutError") or "exists" in error]
        row["both_ended"] += not errors
        row["one_refused"] += len(errors) == len(refused) == 1
        row["other_error"] += len(errors) > len(refused) or len(errors) == 2
        for error in errors:
            if error not in refused:
                print(f"  {place.job.name}: {error[:200]}")
        row["same_bytes"] += place.found() == place.end
        row["with_litter"] += place.litter() > 0
    return {"job": place.job.name, **row}


# --- all --------------------------------------------------------------------------------------------------------------


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A server of the files of a folder on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ["NO_PROXY"] = "127.0.0.1"
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with suppress(OSError), urllib.request.urlopen(f"{url}/mpp"):
                break
            time.sleep(0.05)
        yield url
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Count what is the same, refused and wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="over all jobs")
    parser.add_argument("--failures", type=int, default=40, help="of the writing calls of a job, at most")
    parser.add_argument("--pairs", type=int, default=4, help="runs of two processes of a job")
    parser.add_argument("--only", nargs="*", help="names of jobs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=_results.FOLDER, help="where the results are put")
    options = parser.parse_args()
    jobs = [job for job in JOBS if not options.only or job.name in options.only]
    rng = random.Random(options.seed)
    share = [options.kills * (i + 1) // len(jobs) - options.kills * i // len(jobs) for i in range(len(jobs))]
    tables: dict[str, list[dict[str, Any]]] = {"kills": [], "full_disk": [], "writers": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        error = Child.of(lambda: prepare(folder / "inputs"), folder / "told").error()
        if error:
            raise RuntimeError(error)
        _load_all()
        with serving(folder / "inputs") as url:
            for job, n_kills in zip(jobs, share, strict=True):
                place = Place(job, Inputs(folder / "inputs", url), folder / "place", folder / "told")
                place.learn()
                if n_kills:
                    tables["kills"].append(kills(place, n_kills, rng))
                if options.pairs:
                    tables["writers"].append(writers(place, options.pairs, rng))
                if options.failures and not job.name.startswith(
                    ("spared-sc", "fit")
                ):  # HDF5 writes by itself; fits write what others write
                    tables["full_disk"].append(full_disk(place, options.failures))
                for table, rows in tables.items():  # an interrupted run keeps what it has
                    if rows:
                        _results.write(f"crashes.{table}", rows, folder=options.folder)


def _load_all() -> None:
    """Import once, before the forks, what computes nothing: threads do not outlive a fork.

    What trains networks is loaded by each child: it refuses to work in a fork of a process that has it.
    """
    import PIL.Image
    import requests
    import torch
    import zarr

    torch.set_num_threads(1)
    sp.settings.show_progress_bar = False
    del PIL, requests, zarr


if __name__ == "__main__":
    main()
