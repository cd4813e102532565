"""_core/locks."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spared_sc._core import locks
from spared_sc._core.locks import only_writer

HOLDER = """
import sys, time
from pathlib import Path
from spared_sc._core.locks import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of `target`."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / "target"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_waits_and_is_told_who_writes(holder, tmp_path, caplog):
    with (
        caplog.at_level(logging.WARNING, logger="spared_sc"),
        pytest.raises(TimeoutError, match=rf"target is being written by process {holder.pid} on .*: wait until"),
        only_writer(tmp_path / "target", wait=0.2),
    ):
        pass
    assert f"waiting for process {holder.pid}" in caplog.text
    with only_writer(tmp_path / "other", wait=0):  # another target, another lock
        pass


def test_a_lock_ends_with_its_process(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with only_writer(tmp_path / "target", wait=0):
        assert [path.name for path in tmp_path.iterdir()] == [".target.lock"]
    assert not list(tmp_path.iterdir())


def test_whoever_waits_goes_on_once_the_writer_has_ended(holder, tmp_path):
    threading.Timer(0.3, holder.kill).start()
    with only_writer(tmp_path / "target", wait=20):
        pass
    assert holder.wait() == -signal.SIGKILL


def test_one_thread_at_a_time(tmp_path):
    inside, most = [], []

    def write():
        with only_writer(tmp_path / "target", wait=20), only_writer(tmp_path / "target", wait=0):  # it may ask again
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path):
    script = HOLDER.replace('print("held", flush=True)', "import os; os.fork() and os._exit(0)")
    parent = subprocess.Popen([sys.executable, "-c", script.replace("60", "5"), tmp_path / "target"])
    parent.wait()
    with only_writer(tmp_path / "target", wait=1):
        assert (tmp_path / ".target.lock").exists()


def test_two_names_of_one_place(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with only_writer(tmp_path / "real" / "a"):
        done = subprocess.run(
            [sys.executable, "-c", HOLDER.replace("Path(sys.argv[1])", "Path('link/../link/a'), wait=0")],
            capture_output=True,
            text=True,
        )
        with only_writer(Path("link/a"), wait=0):
            pass
    assert "TimeoutError" in done.stderr


def test_a_folder_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, logger="spared_sc"), only_writer(tmp_path / "target"):
        pass
    assert "has no locks" in caplog.text
    with pytest.raises(FileNotFoundError), only_writer(tmp_path / "nowhere" / "target"):
        pass
