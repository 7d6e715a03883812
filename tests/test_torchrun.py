"""Two processes train each paper's networks to the same numbers, whoever is late, killed, and started again.

Run as a script, this file forks both processes of each start, so that torch is imported once for all of them.
"""

import hashlib
import importlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

COMMANDS = {
    "detofa": ["--variant", "ours"],
    "sm_nas": ["--model", "E0"],
    "joint_detnas": ["--what", "pool"],
}
STARTS, KILLS = 10, 7  # of each paper


def numbers(out: Path) -> dict[str, str]:
    """A digest of every file of weights."""
    files = sorted(out.rglob("*.safetensors"))
    return {str(file.relative_to(out)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
@pytest.mark.parametrize("paper", COMMANDS)
def test_delays_and_kills_change_nothing(tmp_path, paper):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, __file__, paper, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    started = [numbers(tmp_path / f"start{start}") for start in range(STARTS)]
    assert len(started[0]) > 1
    assert all(each == started[0] for each in started)
    report = json.loads(done.stdout)
    assert report["kills"] >= KILLS
    assert report["finished"]
    for name in report["finished"]:
        assert numbers(tmp_path / name) == started[0]
    (config, *_) = [json.loads(file.read_text()) for file in (tmp_path / "start0").rglob("config.json")]
    assert config["processes"] == 2

    # torchrun itself, one of its processes killed, and the same command again
    arguments = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    arguments = [sys.executable, *arguments, "-m", f"{paper}.train", *options(paper, tmp_path / "torchrun")]
    torchrun = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not list((tmp_path / "torchrun").rglob("*.state")):
        assert torchrun.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    [second] = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
    os.kill(int(second), signal.SIGKILL)
    torchrun.communicate()
    assert torchrun.returncode != 0
    again = subprocess.run(arguments, env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-5000:]
    assert len(again.stdout.splitlines()) == 1  # the first process alone reports
    assert numbers(tmp_path / "torchrun") == started[0]

    # one process takes the finished runs as they are, and goes on with no unfinished one
    alone = [sys.executable, "-m", f"{paper}.train", *options(paper, tmp_path / "torchrun")]
    read = subprocess.run(alone, env=environment, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr
    assert numbers(tmp_path / "torchrun") == started[0]
    run = json.loads(again.stdout)["run"]
    Path(run, "result.json").unlink()
    refused = subprocess.run(alone, env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "processes = 2, and this command asks for 1" in refused.stderr


def options(paper: str, out: Path) -> list[str]:
    return [*COMMANDS[paper], "--scale", "smoke", "--device", "cpu", "--out", str(out), "--json"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# ---- as a script


def start(paper: str, out: Path, seed: int) -> list[int]:
    """Two forked processes that train, each late at random; their numbers."""
    from common.cli import run

    module = importlib.import_module(f"{paper}.train")
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            status = 1
            try:
                delay(random.Random(1000 * seed + rank))
                run(module.main, module.Options, options(paper, out))
                status = 0
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        children.append(child)
    return children


def delay(draw: random.Random) -> None:
    """Make exchanges and writes of this process late, now and then."""
    import torch.distributed as dist

    from common import plain
    from common.train import distributed

    def late(function, share: float, seconds: float):
        def later(*arguments, **more):
            if draw.random() < share:
                time.sleep(draw.uniform(0, seconds))
            answer = function(*arguments, **more)
            if draw.random() < share:
                time.sleep(draw.uniform(0, seconds))
            return answer

        return later

    distributed.MEETING = timedelta(minutes=1)  # the other one may be killed before they meet
    time.sleep(draw.uniform(0, 0.3))
    for name, share in {"all_reduce": 0.005, "all_gather": 0.005, "broadcast_object_list": 0.3, "barrier": 0.3}.items():
        setattr(dist, name, late(getattr(dist, name), share, 0.05))
    plain.os.replace = late(os.replace, 0.3, 0.05)


def ended(children: list[int]) -> bool:
    """Whether all of them did what they were asked for."""
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return not any(statuses)


def main(paper: str, folder: Path) -> None:
    import torch
    from torch import nn

    from common.settings import Optimisation
    from common.train.schedule import build_optimiser

    torch.set_num_threads(1)
    importlib.import_module(f"{paper}.study")
    build_optimiser(nn.Linear(1, 1), Optimisation())  # imports half of torch: not in each child anew
    began = time.monotonic()
    for number in range(STARTS):
        if not ended(start(paper, folder / f"start{number}", number)):
            raise SystemExit(f"start {number} failed")
    each = (time.monotonic() - began) / STARTS
    draw, kills, finished, place = random.Random(0), 0, [], 0
    while kills < KILLS or not finished:
        name = f"killed{place}"
        children = start(paper, folder / name, 100 + kills)
        if kills < KILLS:
            time.sleep(draw.uniform(0, each))
            os.kill(draw.choice(children), signal.SIGKILL)  # the other one loses its peer and ends
        if ended(children):
            finished.append(name)
            place += 1
        else:
            kills += 1
    print(json.dumps({"kills": kills, "finished": finished, "seconds": each}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
