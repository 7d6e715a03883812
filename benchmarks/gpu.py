"""What a GPU has to show, by one command: python -m benchmarks.gpu --minutes 10 --out results/gpu --data coco:DIR

First CUDA against the CPU: losses, gradients, detections and AP of every detector. Then what it does in a second, and
what bounds it. Then, for the minutes that are left, one paper at mini scale. Every part is kept as soon as it is done,
in OUT/parts, so the same command goes on after whatever broke off; OUT/gpu.json holds all of them with the hardware,
and OUT/gpu.tar.gz what is worth keeping. --dry runs every part, tiny, on the CPU: its numbers mean nothing.
"""

import json
import signal
import subprocess
import sys
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from common.cli import Switch, run, typed_command
from common.plain import InputError, make_folder, read_json, read_json_if_there, write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from common.batch import Batch

SCALES = ("nano", "mini", "paper")


@dataclass(frozen=True)
class Options:
    """Check CUDA against the CPU, measure it, and train at mini scale for the minutes that are left."""

    out: Path
    """Folder of the parts, the record gpu.json, the archive gpu.tar.gz, and the runs of the training."""
    minutes: float = 10.0
    """Time for everything; what is not done by then is done by the same command later."""
    data: str = "scenes"
    """Detection set of the training at mini scale: scenes, or auto:, coco:, voc:, yolo: or bdd:DIR."""
    dry: Switch = False
    """Run every part, tiny, on the CPU: shows that all of it works; the numbers mean nothing."""


@dataclass(frozen=True)
class Machine:
    """Where and how large everything is done."""

    device: str
    dry: bool
    out: Path
    data: str
    deadline: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()

    def settle(self) -> None:
        """Wait for the device."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object], repeats: int = 20, patience_s: float = 4.0) -> float:
        """Of one piece of work, many in a row."""
        for _ in range(1 if self.dry else 3):
            work()
        self.settle()
        done, began = 0, time.perf_counter()
        while done < (1 if self.dry else repeats) and time.perf_counter() - began < patience_s:
            work()
            done += 1
        self.settle()
        return (time.perf_counter() - began) / done

    def kernel_seconds(self, work: Callable[[], object], repeats: int = 3) -> float:
        """Of one piece of work, in which the GPU computes; 0 on a CPU."""
        from torch.profiler import ProfilerActivity, profile

        work()
        with profile(activities=[ProfilerActivity.CUDA if self.device == "cuda" else ProfilerActivity.CPU]) as seen:
            for _ in range(repeats):
                work()
            self.settle()
        return sum(event.self_device_time_total for event in seen.key_averages()) / 1e6 / repeats


def main(options: Options) -> None:
    """Check, measure, train; write the record and the archive."""
    import torch

    from common.train import distributed
    from common.train.run_folder import describe_environment

    if options.minutes <= 0:
        raise InputError(f"--minutes must be positive, got {options.minutes:g}")
    if not options.dry and not torch.cuda.is_available():
        raise InputError("torch finds no GPU here: run this on a machine with one, or give --dry")
    device = str(distributed.start("cpu" if options.dry else "cuda"))
    machine = Machine(device, options.dry, options.out, options.data, time.monotonic() + 60 * options.minutes)
    parts = make_folder(options.out / "parts")
    todo = [*agreements(), *measurements(), ("training", training)]
    for name, part in todo:
        file = parts / f"{name}.json"
        known = read_json_if_there(file)
        if known is not None and known["dry"] != options.dry:
            raise InputError(f"{options.out} holds a {'dry' if known['dry'] else 'real'} run: give another --out")
        if known is not None and known.get("done", True):
            continue
        if machine.left <= 0:
            break
        began = time.perf_counter()
        try:
            found = part(machine)
        except Exception as error:  # one that fails does not keep the others from running
            said = str(error).splitlines() or [""]
            found = {"failed": f"{type(error).__name__}: {said[0]}"}
        finally:
            if device == "cuda":
                torch.cuda.empty_cache()
        write_json(file, {"part": name, "dry": options.dry, "seconds": time.perf_counter() - began, **found})
        print(f"{name}: {summary(found)}", file=sys.stderr, flush=True)
    there = {name: read_json(parts / f"{name}.json") for name, _ in todo if (parts / f"{name}.json").exists()}
    left = [name for name, _ in todo if name not in there or not there[name].get("done", True)]
    record = {"dry": options.dry, "environment": describe_environment(typed_command()), "left": left, "parts": there}
    file = write_json(options.out / "gpu.json", record)
    print(f"{file}, {archive(options.out)}" + (f"; left: {', '.join(left)}" if left else ""))
    if wrong := [name for name, found in there.items() if "failed" in found or found.get("equal") is False]:
        raise InputError(f"{', '.join(wrong)}: see {options.out / 'parts'}; delete a part's file to do it again")


def summary(found: dict[str, Any]) -> str:
    """The plain numbers of a part, in a line."""
    shown = {name: value for name, value in found.items() if isinstance(value, (bool, int, float, str))}
    texts = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in shown.items()}
    return ", ".join(f"{name} {text}" for name, text in texts.items())


def archive(out: Path) -> Path:
    """Record, parts, and the text files of the runs; no weights."""
    file = out / "gpu.tar.gz"
    with tarfile.open(file, "w:gz") as packed:
        for each in sorted(out.rglob("*.json*")):
            if each.suffix in (".json", ".jsonl"):
                packed.add(each, each.relative_to(out))
    return file


# ---- CUDA against the CPU


def detectors(scale: str) -> dict[str, Callable[[], tuple["nn.Module", Callable, tuple[int, int]]]]:
    """Every kind of detector at a scale: name -> a network, its losses and its input size."""
    from common.models.centernet import CenterNet, centernet_losses
    from common.models.ofa_resnet import OFAResNet
    from common.models.two_stage import two_stage_losses
    from detofa.presets import PRESETS as DETOFA
    from joint_detnas.method import both_stages, build_teacher
    from joint_detnas.presets import PRESETS as JOINT
    from sm_nas import networks
    from sm_nas.presets import PRESETS as SM_NAS

    def centernet(elastic: bool) -> tuple:
        preset = DETOFA[scale]
        backbone = OFAResNet(preset.space)
        network = CenterNet(backbone, CLASSES, preset.neck_widths, preset.head_width, elastic=True)
        largest = preset.space.largest()
        network.activate(largest)
        return network if elastic else network.extract(largest), centernet_losses, (preset.image_size,) * 2

    def structure(**changes: Any) -> tuple:
        preset, norm = SM_NAS[scale], changes.pop("norm", "batch")
        asked = replace(preset.strategy_model, **changes)
        network = networks.build_detector(asked, CLASSES, preset.detector, norm)
        return network, networks.losses_of(network), asked.input_size

    def teacher() -> tuple:
        preset = JOINT[scale]
        largest = preset.teachers.largest()
        network = build_teacher(preset.teachers, largest, CLASSES, *both_stages(preset.detector))
        width, height = preset.base_size
        return network, two_stage_losses, (-(-width // 32) * 32, -(-height // 32) * 32)

    return {
        "detofa supernet": lambda: centernet(True),
        "detofa network": lambda: centernet(False),
        "sm-nas faster": structure,
        "sm-nas retinanet": lambda: structure(rpn=None, heads=0),
        "sm-nas cascade": lambda: structure(heads=3),
        "sm-nas guided": lambda: structure(rpn="ga-rpn"),
        "sm-nas group-ws": lambda: structure(norm="group-ws"),
        "joint-detnas teacher": teacher,
    }


CLASSES = 12  # of Scenes


def agreements() -> list[tuple[str, Callable[[Machine], dict[str, Any]]]]:
    """A part for each kind of detector, thin."""
    return [(f"equal-{name.replace(' ', '-')}", partial(agreement, name)) for name in detectors("nano")]


def agreement(name: str, machine: Machine) -> dict[str, Any]:
    """A network trained a little on the device, then the same on both: losses, gradients, detections, AP."""
    import torch

    from benchmarks.networks import scene_batches
    from common.data.scenes import scenes
    from common.evaluate.average_precision import GroundTruth
    from common.evaluate.subnetworks import average_precision

    torch.manual_seed(0)
    network, losses, size = detectors("nano")[name]()
    steps, images = (1, 4) if machine.dry else (150, 32)
    training = scene_batches("train", 8 * images, size, images, machine.device)
    network.to(machine.device, memory_format=torch.channels_last).train()
    step = training_step(network, losses, "float32")
    for number in range(steps):
        step(training[number % len(training)])
    unseen = scene_batches("val", images, size, 4, "cpu")
    truth = GroundTruth(scenes("val", images, min(size)))
    found = []  # of the CPU, of the device
    with exactly():
        for where in ("cpu", machine.device):
            twin = deepcopy(network).to(where)
            batch = unseen[0].to(where)
            torch.manual_seed(0)
            loss = losses(twin.train()(batch.images), batch)["loss"]
            loss.backward()
            gradient = torch.cat([each.grad.flatten().cpu() for each in twin.parameters() if each.grad is not None])
            twin = deepcopy(network).to(where).eval()
            with torch.no_grad():
                detections = [twin.detect(each.images.to(where)).to("cpu") for each in unseen]
                ap = average_precision(twin, [each.to(where) for each in unseen], truth)
            scores = torch.cat([each.scores.flatten() for each in detections])
            found.append((loss.item(), gradient, scores, ap))
    (loss, gradient, scores, ap), (their_loss, theirs, their_scores, their_ap) = found
    differences = {
        "loss": abs(loss - their_loss) / abs(loss),
        "gradient": float((gradient - theirs).norm() / gradient.norm()),
        "scores": float((scores - their_scores).abs().max()),
        "AP": max(abs(ap[key] - their_ap[key]) for key in ("AP", "AP50")),
    }
    limits = {"loss": 1e-3, "gradient": 2e-2, "scores": 1e-2, "AP": 5e-3}
    equal = all(differences[key] <= limit for key, limit in limits.items())
    return {"equal": equal, "AP": ap["AP"], "differences": differences, "limits": limits}


@contextmanager
def exactly() -> Iterator[None]:
    """Float32 as it says, and random numbers that are the same on every device."""
    import torch

    rand, matmul, cudnn = torch.rand, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def on_cpu(*shape: Any, device: Any = None, generator: Any = None, **more: Any) -> "Tensor":
        return rand(*shape, **more).to(device or "cpu")

    torch.rand = on_cpu
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.rand, torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = rand, matmul, cudnn


def training_step(network: "nn.Module", losses: Callable, precision: str) -> Callable[["Batch"], None]:
    """Forward, losses, backward and an update, as `common.train.loop` does them."""
    import torch

    from common.settings import Optimisation
    from common.train.schedule import build_optimiser

    optimiser = build_optimiser(network, Optimisation(optimiser="sgd", learning_rate=1e-3, clip_norm=35.0))
    parameters = [each for each in network.parameters() if each.requires_grad]

    def step(batch: "Batch") -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = losses(network(batch.images), batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 35.0, foreach=True)
        optimiser.step()

    return step


# ---- how fast


def measurements() -> list[tuple[str, Callable[[Machine], dict[str, Any]]]]:
    """Parts that measure, the most telling ones first."""
    names = ("detofa supernet", "sm-nas faster", "joint-detnas teacher")
    steps = [
        (f"step-{name.replace(' ', '-')}-{scale}", partial(steps_of, name, scale)) for name in names for scale in SCALES
    ]
    return [
        ("ceiling", ceiling),
        *((f"torchvision-{side}", partial(torchvision, side)) for side in (320, 800)),
        *steps,
        ("evaluation", evaluation),
        *((name, partial(benchmark, name)) for name in ("bn-reestimation", "elastic-step", "average-precision")),
        ("latency", latency),
    ]


def ceiling(machine: Machine) -> dict[str, Any]:
    """Multiply-accumulates a second of a large bfloat16 matrix product: what no network can exceed."""
    import torch

    side = 256 if machine.dry else 8192
    a, b = (torch.randn(side, side, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = machine.seconds(lambda: a @ b)
    return {"macs_per_second": side**3 / seconds, "side": side}


def share_of_ceiling(machine: Machine, macs: float, seconds: float) -> float | None:
    """Of a training step: three times the forward pass's multiply-accumulates."""
    known = read_json_if_there(machine.out / "parts" / "ceiling.json")
    return None if known is None or "failed" in known else 3 * macs / seconds / known["macs_per_second"]


def steps_of(name: str, scale: str, machine: Machine) -> dict[str, Any]:
    """Training images a second in bfloat16, and what bounds them.

    busy: the share of the time in which the GPU computes; well under 1, launches bound the step, not the device.
    synchronisations: how often a step waits for the device.
    """
    import torch

    from benchmarks.networks import scene_batches
    from common.cost import count

    torch.manual_seed(0)
    network, losses, size = detectors("nano" if machine.dry else scale)[name]()
    network.to(machine.device, memory_format=torch.channels_last).train()
    images = 2 if machine.dry else {"nano": 32, "mini": 32, "paper": 8}[scale]
    [batch] = scene_batches("train", images, size, images, machine.device)
    if machine.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step = training_step(network, losses, "bfloat16")
    seconds = machine.seconds(lambda: step(batch))
    busy = machine.kernel_seconds(lambda: step(batch)) / seconds
    elastic = name == "detofa supernet"
    macs = count(network.extract(network.backbone.space.largest()) if elastic else network, size).macs * images
    compiled = None
    peak = torch.cuda.max_memory_allocated() if machine.device == "cuda" else None  # compiling holds more
    if elastic and scale == "nano":  # the thinnest; compiling the others would take the minutes away
        fast = torch.compile(network, **({"backend": "eager"} if machine.dry else {"mode": "reduce-overhead"}))
        fast_step = training_step(fast, losses, "bfloat16")
        compiled = images / machine.seconds(lambda: fast_step(batch))
    return {
        "images_per_second": images / seconds,
        "batch": images,
        "size": size,
        "macs_per_image": macs / images,
        "share_of_ceiling": share_of_ceiling(machine, macs, seconds),
        "busy": busy,
        "bound": None if machine.device == "cpu" else "launches" if busy < 0.7 else "the device",
        "synchronisations": synchronisations(machine, lambda: step(batch)),
        "compiled_images_per_second": compiled,
        "peak_memory": peak,
    }


def synchronisations(machine: Machine, work: Callable[[], object]) -> int | None:
    """How often a piece of work waits for the GPU; None on a CPU."""
    import torch

    if machine.device != "cuda":
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def torchvision(side: int, machine: Machine) -> dict[str, Any]:
    """Training Faster R-CNN R50-FPN in bfloat16 beside torchvision's own, the same weights and images."""
    side = 64 if machine.dry else side
    each = {
        f"batch {images}": beside_torchvision(side, images, machine) for images in ((1,) if machine.dry else (2, 8))
    }
    return {"side": side, **each}


def beside_torchvision(side: int, images: int, machine: Machine) -> dict[str, float]:
    """Images a second of both."""
    from benchmarks.networks import twin_of_torchvision
    from common.models.two_stage import two_stage_losses

    ours, theirs, batch, targets = twin_of_torchvision(side, images, machine.device)
    plain = theirs.train().forward
    theirs.forward = lambda images: plain(list(images), targets)
    steps = (
        training_step(ours.train(), two_stage_losses, "bfloat16"),
        training_step(theirs, lambda outputs, _: {"loss": sum(outputs.values())}, "bfloat16"),
    )
    our_s, their_s = (machine.seconds(lambda step=step: step(batch)) for step in steps)
    return {"images_per_second": images / our_s, "torchvision": images / their_s, "ratio": their_s / our_s}


def evaluation(machine: Machine) -> dict[str, Any]:
    """Sub-networks of DetOFA's supernet a second: extraction, re-estimation, detection and AP of each.

    One by one, and with the AP of one computed on the CPU while the next one is on the device.
    """
    import numpy as np
    import torch

    from benchmarks.networks import scene_batches
    from common.data.scenes import scenes
    from common.evaluate.average_precision import GroundTruth
    from common.evaluate.recalibrate import reestimate_batch_norm
    from common.evaluate.subnetworks import precision_of
    from common.search.executors import evaluate_all
    from common.train.run_folder import Run

    torch.manual_seed(0)
    supernet, _, size = detectors("nano" if machine.dry else "mini")["detofa supernet"]()
    supernet.to(machine.device, memory_format=torch.channels_last)
    images, paths = (4, 2) if machine.dry else (500, 12)
    unseen = scene_batches("val", images, size, min(images, 64), machine.device)
    calibration = [each.images for each in unseen[:2]]
    truth = GroundTruth(scenes("val", images, min(size)))
    sampled = supernet.backbone.space.sample(paths, np.random.default_rng(0))

    def found_by(path: np.ndarray) -> Callable[[], dict[str, Any]]:
        network = supernet.extract(path)
        reestimate_batch_norm(network, calibration)
        return precision_of(network, unseen, truth)

    found_by(sampled[0])()  # loads kernels, which neither side should pay for
    began = time.perf_counter()
    alone = [found_by(path)()["AP"] for path in sampled]
    one_by_one = time.perf_counter() - began
    with TemporaryDirectory() as folder, Run.open(folder, {}) as run:
        began = time.perf_counter()
        overlapped = [each["AP"] for each in evaluate_all(found_by, sampled, run, np.ndarray.tolist)]
        pipelined = time.perf_counter() - began
    apart = max(abs(one - other) for one, other in zip(overlapped, alone, strict=True))
    rates = {"paths_per_second": paths / pipelined, "one_by_one": paths / one_by_one, "ratio": one_by_one / pipelined}
    return {**rates, "images": images, "size": size, "ap_apart": apart}


def benchmark(name: str, machine: Machine) -> dict[str, Any]:
    """The rows of `python -m benchmarks NAME --device cuda`."""
    from benchmarks.__main__ import measure
    from benchmarks.harness import Timing

    rows = measure(name, Timing(machine.device, repeats=1 if machine.dry else 5, patience_s=5.0), quick=machine.dry)
    return {"rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}


def latency(machine: Machine) -> dict[str, Any]:
    """Milliseconds of one image through the detectors of the paper's scale, by number format."""
    import torch

    from common.evaluate.latency import measure_latency

    found = {}
    for name, make in detectors("nano" if machine.dry else "paper").items():
        torch.manual_seed(0)
        network, _, (width, height) = make()
        for precision in ("float32", "bfloat16"):
            passes = {"warmup": 0, "runs": 1, "pause_s": 0.0} if machine.dry else {"runs": 30, "pause_s": 0.01}
            measured = measure_latency(network, (3, height, width), machine.device, precision=precision, **passes)
            found[f"{name}, {precision}"] = asdict(measured) | {"size": (width, height)}
    return {"networks": found}


# ---- the minutes that are left


def training(machine: Machine) -> dict[str, Any]:
    """DetOFA's supernet at mini scale, as far as the time goes; the same command goes on with it."""
    scale, precision = ("smoke", "float32") if machine.dry else ("mini", "bfloat16")
    command = [sys.executable, "-m", "detofa.train", "--scale", scale, "--data", machine.data, "--device"]
    command += [machine.device, "--precision", precision, "--out", str(machine.out / "runs"), "--json"]
    stopped = False
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed, _ = process.communicate(timeout=max(1.0, machine.left))
        except subprocess.TimeoutExpired:
            stopped = True
            process.send_signal(signal.SIGINT)
            printed, _ = process.communicate()
    if process.returncode and not stopped:  # stopped while it was importing, it ends as Python does
        return {"failed": f"{' '.join(command[1:])} ended with {process.returncode}; it says why above"}
    done = process.returncode == 0
    return {"done": done, "command": " ".join(command[1:]), "result": json.loads(printed) if done else None}


if __name__ == "__main__":
    run(main, Options)
