"""Ranks meet where the launcher says: also a little later, and again in the same process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TWICE = """
from sightloop.training import distributed

print("starts", flush=True)
for _ in range(2):
    distributed.start()
    print(distributed.gather(distributed.rank()), flush=True)
    distributed.stop()
"""
WAITS = """
from sightloop.cli import app, main
from sightloop.training import distributed

print("starts", flush=True)
main(["train", "vlrm"])
"""
PATIENT = "from sightloop.training import distributed\ndistributed._PORT_SECONDS = {}\n"


def started(rank: int, port: int, program: str) -> subprocess.Popen[str]:
    where = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **where, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def taken() -> Iterator[tuple[socket.socket, int]]:
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder, holder.getsockname()[1]


def in_the_middle(process: subprocess.Popen[str]) -> None:
    """It has begun to wait."""
    assert process.stdout is not None and process.stdout.readline() == "starts\n"
    time.sleep(1)


def test_a_port_that_an_earlier_start_still_has_is_waited_for_and_ranks_meet_twice() -> None:
    with taken() as (holder, port):
        both = [started(rank, port, TWICE) for rank in (0, 1)]
        in_the_middle(both[0])
        holder.close()
        said = [one.communicate(timeout=120) for one in both]
    assert [out.replace("starts\n", "") for out, _ in said] == ["[0, 1]\n[0, 1]\n"] * 2, said


def test_a_port_of_another_job_is_one_sentence() -> None:
    program = PATIENT.format(1) + "from sightloop.cli import main\nmain(['train', 'vlrm'])"
    with taken() as (_, port):
        one = started(0, port, program)
        out, err = one.communicate(timeout=120)
    assert one.returncode == 2 and out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"sightloop: rank 0 cannot meet the others at 127.0.0.1:{port} (")
    assert "Address already in use" in line and line.endswith("give torchrun --master-port with a free one")


def test_a_rank_that_waits_for_the_first_one_hears_signals() -> None:
    with taken() as (holder, port):
        holder.close()
        waiting = started(1, port, WAITS)
        in_the_middle(waiting)
        sent = time.monotonic()
        waiting.send_signal(signal.SIGTERM)
        waiting.communicate(timeout=30)
    assert waiting.returncode == 128 + signal.SIGTERM
    assert time.monotonic() - sent < 10
