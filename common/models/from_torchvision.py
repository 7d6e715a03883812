"""torchvision's `fasterrcnn_resnet50_fpn`, trained on COCO, as a detector file for data whose classes are COCO's.

    write_faster_rcnn("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", ("person", "dog"), "runs/base")
    detections = load_detector("runs/base").detect([image])

Its head has a row for each of COCO's 90 ids, ten of which no class ever had. The rows of the classes asked for are
taken by name, in that order, so that a class's probability is the one among these and the background.

Its norms become batch norms that learn, as pruning by their weights needs them; the function stays as it is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from common.models.detector import save_detector
from common.models.norm import Norm
from common.models.torchvision_weights import faster_rcnn_of_torchvision
from common.models.two_stage import TwoStage
from common.plain import InputError

COCO_NAMES: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""By the rows of the head: the background, then COCO's ids; "N/A" where an id has no class."""
COCO_CLASSES = tuple(name for name in COCO_NAMES if name not in ("__background__", "N/A"))
INPUT_SIZE = (1344, 800)  # torchvision's 1333x800 in whole cells of stride 32
SUFFIXES = (".pth", ".pt")
COUNTER = "num_batches_tracked"
LEAST_VARIANCE = 1e-10  # what varies less is rounding noise of a dead channel, not to be blown up


def is_of_torchvision(file: Path) -> bool:
    """Whether a file is taken for torchvision's: a .pth, or a .safetensors without the JSON that ours have beside."""
    lone = file.suffix == ".safetensors" and file.is_file() and not file.with_suffix(".json").exists()
    return file.suffix in SUFFIXES or lone


def write_faster_rcnn(file: str | Path, categories: Sequence[str], path: str | Path) -> Path:
    """Write torchvision's weights of a file as a detector of this project; returns the path of its JSON.

    file: a state dict, .pth or .safetensors. categories: names by label, all of them COCO's. path: see `save_detector`.
    InputError where the file cannot be read, is of another network, or was trained on other classes.
    """
    file = Path(file)
    state = read_state(file)
    try:
        network = faster_rcnn(state, categories)
    except InputError as error:
        ours = "; a detector of this project needs its .json beside it" if file.suffix == ".safetensors" else ""
        raise InputError(f"{file} is not taken over: {error}{ours}") from error
    source = {"torchvision": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    description = {"categories": list(categories), "input_size": INPUT_SIZE, "provenance": source}
    return save_detector(path, network, description)


def faster_rcnn(state: Mapping[str, Tensor], categories: Sequence[str]) -> TwoStage:
    """Our network in evaluation mode, for these categories, with the weights of a state dict of torchvision's.

    One without counters of batches is of frozen norms, and used with an epsilon of 0, as the COCO weights are there.
    """
    fresh = {name.replace("running_mean", COUNTER): torch.tensor(0) for name in state if name.endswith("running_mean")}
    try:
        network = faster_rcnn_of_torchvision(fresh | _for_categories(state, categories), Norm("batch"))
    except (RuntimeError, KeyError) as error:  # torch has a line for each tensor that does not fit
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"these are not the weights of a fasterrcnn_resnet50_fpn ({reason} ...)") from error
    if not any(name.endswith(COUNTER) for name in state):
        _without_epsilon(network)
    return network.eval()


@torch.no_grad()
def _without_epsilon(network: nn.Module) -> None:
    """Let the norms compute what they would with an epsilon of 0, by weights and variances that make up for it."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            variance = layer.running_var
            small = (variance < layer.eps) & (variance > LEAST_VARIANCE)
            layer.weight[small] *= (layer.eps / variance[small]).sqrt()
            layer.running_var.copy_((variance - layer.eps).clamp(min=0))


def _for_categories(state: Mapping[str, Tensor], categories: Sequence[str]) -> dict[str, Tensor]:
    """The state dict with, of the head's rows, the background's and the categories', in their order."""
    names = {part: f"roi_heads.box_predictor.{part}" for part in ("cls_score", "bbox_pred")}
    weight = state.get(f"{names['cls_score']}.weight")
    if weight is None or len(weight) != len(COCO_NAMES):
        has = "no such head" if weight is None else f"one of {len(weight)}"
        raise InputError(
            f"torchvision's fasterrcnn_resnet50_fpn trained on COCO has a head of {len(COCO_NAMES)} classes, "
            f"background and unused ids included, this has {has}: which classes it tells apart is not known"
        )
    foreign = [name for name in categories if name not in COCO_CLASSES]
    if foreign:
        raise InputError(
            f"it was trained on COCO, which has no class {', '.join(map(repr, foreign[:3]))}"
            f"{' ...' if len(foreign) > 3 else ''}: name the classes of the data as COCO does, or give a detector that "
            "was trained on them"
        )
    rows = torch.tensor([0, *(COCO_NAMES.index(name) for name in categories)])
    taken = dict(state)
    for part in ("weight", "bias"):
        scores, codes = (f"{name}.{part}" for name in names.values())
        taken[scores] = state[scores][rows]
        taken[codes] = state[codes].unflatten(0, (len(COCO_NAMES), 4))[rows].flatten(0, 1)
    return taken


def read_state(file: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors or .pth file, or that under "model" in a checkpoint of torchvision's training
    script. No code in the file is ever run. InputError where there is none."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{file} is not there: give a state dict of torchvision's, .pth or .safetensors") from error
    except Exception as error:  # what is no such file makes torch stumble in any way, by an IndexError, too
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise InputError(f"{file} is damaged or holds more than weights ({reason}): save the state dict") from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(f"{file} holds no state dict: save that of a fasterrcnn_resnet50_fpn")
    return dict(content)
