"""The worker process: one job after another, each in a process of its own whose memory is watched.

The worker loads the packages once and forks for every job, so that a job starts at once, from the same state, and takes
its memory with it when it ends. Where a process cannot be forked safely, the worker does one job itself and ends.

Orders come as lines of JSON on standard input. An answer is a line of JSON and the bytes of a result, whose number that
line tells. The worker ends with whoever started it, and its job with the worker.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import select
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc.benchmark._tables import DONE, FAILED, KILLED, OUT_OF_MEMORY

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc.benchmark._cells import Job

FORKS = sys.platform == "linux"
DISK = "disk"  # status of a job that could not write: not the job's fault
_LOOK = 0.05  # seconds between two looks at the memory of a job
_DEATH_OF_PARENT = 1  # PR_SET_PDEATHSIG
_LONGEST = 2000  # characters of a reason
_GIB = 2**30
_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/'\":,()]+/)+([^\s/'\":,()]+)")  # of a machine, which says nothing elsewhere
_DISK = (errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC))


def main() -> None:
    """Answer orders until there are no more."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no answer
    _load()
    while line := _line(0):
        order = json.loads(line)
        answer = _forked(order) if FORKS else _alone(order)
        result = answer.pop("result")
        _write(answers, json.dumps({**answer, "size": len(result)}).encode() + b"\n" + result)
        if not FORKS or answer.get("last"):
            return


def _load() -> None:
    """Import what nearly every job needs.

    No job is done here: torch, OpenMP and BLAS have no threads yet that a fork would miss.
    """
    import anndata  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import spared_sc as sp
    from spared_sc._models.prediction import attention  # noqa: F401 - torch
    from spared_sc.benchmark import _compute  # noqa: F401

    for function in ("predict_expression", "score_prediction", "evaluate_completion", "embed_patches"):
        getattr(sp.tl, function)


# --- a job in a process of its own ------------------------------------------------------------------------------------


def _forked(order: dict[str, Any]) -> dict[str, Any]:
    """Do the job in a child, which is killed where it takes too much memory or nobody waits for it any more."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be_child()
        _write(writing, _done(order))
        os._exit(0)
    os.close(writing)
    result, peak, over, left = bytearray(), 0, False, False
    while True:
        ready, _, _ = select.select([reading, *([] if left else [0])], [], [], _LOOK)
        peak = max(peak, _peak_of(child))
        if peak > order["memory"] and not over:
            over = True
            os.kill(child, signal.SIGKILL)
        if 0 in ready and not left:  # nothing is sent while a job runs: it is the end of whoever sent the order
            left = True
            os.kill(child, signal.SIGKILL)
        if reading in ready:
            part = os.read(reading, 2**20)
            if not part:
                break
            result += part
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    found = {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_memory": peak, "last": left}
    if status == 0 and result:
        return {**_unpacked(bytes(result)), **found}
    return {
        **found,
        "status": OUT_OF_MEMORY if over else KILLED,
        "error": _why(status, order, peak, over),
        "result": b"",
    }


def _why(status: int, order: dict[str, Any], peak: int, over: bool) -> str:
    """Why there is no result."""
    used = f"{peak / _GIB:.2f} GiB of memory"
    if over:
        return f"needs more than the {order['memory'] / _GIB:.2f} GiB of memory that a cell may take"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"the process was ended by {name} after it had taken {used}; the system does that where memory runs out"
    return f"the process ended with code {os.waitstatus_to_exitcode(status)} after it had taken {used}"


def _be_child() -> None:
    """End with the worker, be the first to go where memory runs out, and take no orders."""
    ctypes.CDLL(None).prctl(_DEATH_OF_PARENT, signal.SIGKILL)
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins now
    except OSError:
        pass
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)


def _peak_of(process: int) -> int:
    """Largest resident memory of a process so far, bytes; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _alone(order: dict[str, Any]) -> dict[str, Any]:
    """Do the job here; its memory is only recorded."""
    result = _done(order)
    found = {"cpu_seconds": time.process_time(), "peak_memory": _own_peak()}
    return {**_unpacked(result), **found}


def _own_peak() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# --- the job ----------------------------------------------------------------------------------------------------------


def _done(order: dict[str, Any]) -> bytes:
    """Do the job: a line with its status and what is known of it, and a table of scores."""
    import spared_sc as sp
    from spared_sc.benchmark._cells import Job

    log, job = Path(order["log"]), Job(**order["job"])
    sp.settings.verbosity = "info"
    sp.settings.n_jobs, sp.settings.labels_dir = job.threads, Path(order["labels"])
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except OSError as error:
        return _packed({"status": DISK, "error": f"{log.parent} cannot be written ({error.strerror})"})
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    warnings.simplefilter("default", UserWarning)
    try:
        return _work(job, {name: Path(path) for name, path in order["files"].items()}, Path(order["output"]))
    except BaseException as error:  # noqa: BLE001 - everything is a row
        traceback.print_exc()
        sys.stderr.flush()
        return _packed(_failure(error))


def _failure(error: BaseException) -> dict[str, Any]:
    reason = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = _PATH.sub(r"\1", " ".join(reason.split())) or "no reason given"
    text = f"{type(error).__name__}: {text}"[:_LONGEST]
    if isinstance(error, MemoryError):
        return {"status": OUT_OF_MEMORY, "error": text}
    if getattr(error, "errno", None) in _DISK or any(os.strerror(code) in text for code in _DISK):
        return {"status": DISK, "error": text}
    return {"status": FAILED, "error": text}


def _work(job: Job, files: dict[str, Path], output: Path) -> bytes:
    import anndata as ad

    from spared_sc.benchmark import _compute, _prepare, _tables

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the file formats' versions
        read = {name: ad.read_h5ad(path) for name, path in files.items()}
    if job.kind == "data":
        _save(_prepare.prepare_data(job), output)
    elif job.kind == "features":
        _save(_prepare.prepare_features(job, read["data"]), output)
    else:
        data = read.pop("data")
        scores, row = _compute.compute(job, data, read)
        table = _tables.as_table(scores, _tables.SCORES)
        return _packed({"status": DONE, "error": "", "row": row}, _tables.to_parquet(table))
    return _packed({"status": DONE, "error": ""})


def _save(adata: AnnData, path: Path) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file formats' versions
            adata.write_h5ad(part, compression="lzf")
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _packed(head: dict[str, Any], result: bytes = b"") -> bytes:
    return json.dumps(head).encode() + b"\n" + result


def _unpacked(content: bytes) -> dict[str, Any]:
    head, _, result = content.partition(b"\n")
    return {**json.loads(head), "result": result}


# --- pipes ------------------------------------------------------------------------------------------------------------


def _line(descriptor: int) -> bytes:
    """A line, or nothing at the end; read byte by byte, so that what follows stays in the pipe."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(descriptor, 1)
        if not byte:
            return b""
        line += byte
    return bytes(line)


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main()
