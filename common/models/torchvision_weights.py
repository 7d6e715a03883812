"""torchvision's weights: its Faster R-CNN, trained on COCO, as a detector of this project, and ImageNet backbones.

    write_faster_rcnn("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", ("person", "dog"), "runs/base")
    detections = load_detector("runs/base").detect([image])

The head of the COCO weights has a row for each of COCO's 90 ids, ten of which no class ever had. The rows of the
classes asked for are taken by name, in that order, so that a class's probability is the one among these and the
background. The norms become batch norms that learn, as pruning by their weights needs them; the function stays the
same. Images are normalised as `common.batch.normalise` does it.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError

import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from common.models.anchors import Anchors
from common.models.detector import save_detector
from common.models.fpn import FPN
from common.models.matching import MatchSettings
from common.models.resnet import ResNet
from common.models.roi_head import RoISettings
from common.models.rpn import RPNSettings
from common.models.two_stage import TwoStage
from common.plain import InputError

COCO_NAMES: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""By the rows of the head: the background, then COCO's ids; "N/A" where an id has no class."""
COCO_CATEGORIES = tuple(name for name in COCO_NAMES if name not in ("__background__", "N/A"))
INPUT_SIZE = (1344, 800)  # torchvision's 1333x800 in whole cells of stride 32
COUNTER = "num_batches_tracked"
LEAST_VARIANCE = 1e-10  # a channel that varies less is dead: its rounding noise must not be amplified

RPN_SETTINGS = RPNSettings(
    anchors=Anchors(((32,), (64,), (128,), (256,), (512,)), rounded=True), match=MatchSettings(0.7, 0.3, 0.0)
)
ROI_SETTINGS = RoISettings(beta=1 / 9)
THEIR_SCORES, THEIR_CODES = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"
# Their names, and ours. The oldest weights lack the ".0" that came with the layers' wrappers.
NAMES = {
    r"backbone\.body\.": "backbone.",
    r"backbone\.fpn\.inner_blocks\.(\d)\.(0\.)?": r"fpn.laterals.\1.",
    r"backbone\.fpn\.layer_blocks\.(\d)\.(0\.)?": r"fpn.outputs.\1.",
    r"rpn\.head\.conv\.(0\.0\.)?": "rpn.conv.",
    r"rpn\.head\.cls_logits\.": "rpn.objectness.",
    r"rpn\.head\.bbox_pred\.": "rpn.codes.",
    r"roi_heads\.box_head\.fc6\.": "roi.heads.0.hidden.0.",
    r"roi_heads\.box_head\.fc7\.": "roi.heads.0.hidden.1.",
    rf"{re.escape(THEIR_SCORES)}\.": "roi.heads.0.classes.",
    rf"{re.escape(THEIR_CODES)}\.": "roi.heads.0.codes.",
}


# --- Faster R-CNN -----------------------------------------------------------------------------------------------------


def faster_rcnn_of_torchvision(state: Mapping[str, Tensor], classes: Sequence[int] | None = None) -> TwoStage:
    """Our network with batch norm and the weights of torchvision's `fasterrcnn_resnet50_fpn`, a state dict.

    classes: rows of its head, in the order of our labels; None means all but row 0, the background.
    InputError for weights of another network.
    """
    weights = {}
    for name, tensor in state.items():
        pattern = next((pattern for pattern in NAMES if re.match(pattern, name)), None)
        if pattern is None:
            raise InputError(f"these are not the weights of a fasterrcnn_resnet50_fpn: {name} is unknown")
        weights[re.sub(f"^{pattern}", NAMES[pattern], name)] = tensor
    try:
        for part in ("weight", "bias"):
            scores, codes = f"roi.heads.0.classes.{part}", f"roi.heads.0.codes.{part}"
            rows = list(range(1, len(weights[scores])) if classes is None else classes)
            weights[scores] = weights[scores][[*rows, 0]]  # our background comes last
            weights[codes] = weights[codes].unflatten(0, (-1, 4))[rows].flatten(0, 1)  # and has no box
        # a region's features are read channel by channel there, bin by bin here
        first = weights["roi.heads.0.hidden.0.weight"]
        weights["roi.heads.0.hidden.0.weight"] = first.unflatten(1, (256, 49)).transpose(1, 2).flatten(1)
        backbone = ResNet("resnet50")
        network = TwoStage(backbone, len(rows), FPN(backbone.out_channels), RPN_SETTINGS, ROI_SETTINGS)
        network.load_state_dict(_counters(weights) | weights)
    except (RuntimeError, KeyError) as error:  # torch has a line for each tensor that does not fit
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"these are not the weights of a fasterrcnn_resnet50_fpn ({reason} ...)") from error
    return network


def _counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The counters of batches that batch norms have and frozen norms lack."""
    return {name.replace("running_mean", COUNTER): torch.tensor(0) for name in state if name.endswith("running_mean")}


def is_of_torchvision(file: Path) -> bool:
    """Whether a file is taken for torchvision's: a .pth, a .pt, or a .safetensors without the JSON of ours."""
    lone = file.suffix == ".safetensors" and file.is_file() and not file.with_suffix(".json").exists()
    return file.suffix in (".pth", ".pt") or lone


def write_faster_rcnn(file: str | Path, categories: Sequence[str], path: str | Path) -> Path:
    """Write torchvision's weights of a file as a detector of this project; returns the path of its JSON.

    file: a state dict, .pth or .safetensors; one without counters of batches is of frozen norms, and is used with an
    epsilon of 0, as the COCO weights are there. categories: names by label, all of them COCO's. path: see
    `save_detector`. InputError where the file cannot be read, is of another network, or was trained on other classes.
    """
    file = Path(file)
    state = read_state(file)
    try:
        network = faster_rcnn_of_torchvision(state, _rows_of(categories, state))
    except InputError as error:
        ours = "; a detector of this project needs its .json beside it" if file.suffix == ".safetensors" else ""
        raise InputError(f"{file} is not taken over: {error}{ours}") from error
    if not any(name.endswith(COUNTER) for name in state):
        _without_epsilon(network)
    source = {"torchvision": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    description = {"categories": list(categories), "input_size": INPUT_SIZE, "provenance": source}
    return save_detector(path, network, description)


@torch.no_grad()
def _without_epsilon(network: nn.Module) -> None:
    """Let the norms compute what they would with an epsilon of 0, by weights and variances that make up for it."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            variance = layer.running_var
            small = (variance < layer.eps) & (variance > LEAST_VARIANCE)
            layer.weight[small] *= (layer.eps / variance[small]).sqrt()
            layer.running_var.copy_((variance - layer.eps).clamp(min=0))


def _rows_of(categories: Sequence[str], state: Mapping[str, Tensor]) -> list[int]:
    """The rows of the head that tell these categories apart; InputError where the head has none for one of them."""
    weight = state.get(f"{THEIR_SCORES}.weight")
    if weight is None or len(weight) != len(COCO_NAMES):
        has = "no such head" if weight is None else f"one of {len(weight)}"
        raise InputError(
            f"torchvision's fasterrcnn_resnet50_fpn trained on COCO has a head of {len(COCO_NAMES)} classes, "
            f"background and unused ids included, this has {has}: which classes it tells apart is not known"
        )
    foreign = [name for name in categories if name not in COCO_CATEGORIES]
    if foreign:
        raise InputError(
            f"it was trained on COCO, which has no class {', '.join(map(repr, foreign[:3]))}"
            f"{' ...' if len(foreign) > 3 else ''}: name the classes of the data as COCO does, or give a detector that "
            "was trained on them"
        )
    return [COCO_NAMES.index(name) for name in categories]


def read_state(file: Path) -> dict[str, Tensor]:
    """The state dict of a .safetensors or .pth file, or that under "model" or "state_dict" in a checkpoint. No code in
    the file is ever run. InputError if there is none."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{file} is not there: give a state dict, .pth or .safetensors") from error
    except Exception as error:  # any other file makes torch fail in any way, with an IndexError, too
        reason = str(error).partition("\n")[0].rstrip(". ")
        raise InputError(f"{file} is damaged or holds more than weights ({reason}): save the state dict") from error
    if isinstance(content, dict):
        content = next(
            (content[name] for name in ("model", "state_dict") if isinstance(content.get(name), dict)), content
        )
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise InputError(f"{file} holds no state dict: save that of the network")
    return dict(content)


# --- backbones --------------------------------------------------------------------------------------------------------

IMAGENET_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "mobilenet_v2")
"""Those of `common.models` that torchvision has weights for (its ResNeXt101 are wider)."""


def imagenet_backbone(name: str) -> dict[str, Tensor]:
    """ImageNet weights (IMAGENET1K_V1) of one of IMAGENET_BACKBONES by the names of its tensors; no classifier.

    Downloaded once by torchvision; InputError, with the address and where to put the file, where that is not possible
    or the file is damaged.
    """
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        reason, kept = str(error).partition("\n")[0].rstrip(". "), Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(
            f"the ImageNet weights of {name} cannot be downloaded or read ({reason}): fetch {weights.url} into {kept}, "
            "or choose a scale that pre-trains on object crops"
        ) from error
    state = _counters(state) | state  # the oldest files come without them
    return {key: tensor for key, tensor in state.items() if not key.startswith(("fc.", "classifier."))}
