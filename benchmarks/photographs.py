"""A detector of one's own photographs beside torchvision's Faster R-CNN, trained for as long from the same start.

The start is a ResNet18 as thin as Joint-DetNAS has it at the detector's scale, with the weights that it has from crops.
Images, input size, augmentation, optimiser, schedule and the numbers of samples and proposals are those of
Joint-DetNAS's base detector; pyramid, RPN, head, losses and suppression are torchvision's. It trains for as many CPU
seconds as all that the detector rests on took, but for pre-training on crops.

Command: python -m benchmarks.photographs DETECTOR --data auto:DIR --out results/photo/NAME.json
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from common.cli import run, short_name, typed_command
from common.letterbox import canvas_of
from common.plain import InputError, write_json
from common.settings import lasting

if TYPE_CHECKING:
    from torch import nn

    from joint_detnas.study import JointDetNASStudy


@dataclass(frozen=True, kw_only=True)
class Options:
    """Train torchvision's Faster R-CNN for as long as a detector took, and write both down."""

    detector: Annotated[Path, tyro.conf.Positional]
    """The detector, as a training or search wrote it; its run must still be there."""
    data: str
    """The photographs that it was trained on."""
    out: Path
    """The JSON file to write."""
    runs: Path = Path("runs")
    """Folder of this command's runs."""


def main(options: Options) -> None:
    """Refuses a detector of other photographs, trains, writes, prints."""
    from common.models.detector import load_detector
    from common.train.run_folder import Run, describe_environment
    from joint_detnas.presets import PRESETS
    from joint_detnas.presets import Options as StudyOptions
    from joint_detnas.study import JointDetNASStudy

    card = load_detector(options.detector).description
    made = card.get("provenance", {})
    if made.get("scale") not in PRESETS:
        raise InputError(f"{options.detector} was trained at none of the scales {', '.join(PRESETS)}")
    precision = Run.read(Path(made["run"])).config["precision"]  # what a second of training is worth depends on it
    how = {"scale": made["scale"], "preset": PRESETS[made["scale"]], "precision": precision, "device": "cpu"}
    study = JointDetNASStudy(StudyOptions(data=options.data, out=options.runs, **how))
    if study.sets["validation"].fingerprint() != made["validation_set"]:
        raise InputError(
            f"{options.detector} was measured on other images than --data {options.data} has for validation"
        )
    size, seconds = canvas_of(card["input_size"]), seconds_after_pretraining(card)
    theirs = trained_as_long(study, size, seconds)
    ours = {"AP": card["AP"], "cpu_seconds": seconds, "params": card["cost"]["params"]}
    record = {
        "photographs": short_name(options.data),
        "images": len(study.training_set),
        "paper": made["paper"],
        "scale": made["scale"],
        "input_size": size,
        "precision": precision,
        "ours": ours | {"macs": card["cost"]["macs"], "command": made["command"]},
        "torchvision": theirs,
        "environment": describe_environment(typed_command()),
    }
    write_json(options.out, record)
    print(
        f"{made['paper']}: AP {100 * card['AP']:.1f} in {seconds:.0f} s of CPU; torchvision's Faster R-CNN: AP "
        f"{100 * theirs['AP']:.1f} in {theirs['cpu_seconds']:.0f} s"
    )


def seconds_after_pretraining(card: dict[str, Any]) -> float:
    """CPU seconds of all that a detector rests on, without those of its backbone's training on crops."""
    from common.study import spent_by
    from common.train.run_folder import Run

    path = Path(card["provenance"]["run"])
    before = [name for name in Run.read(path).read_json("uses", list) if Path(name).name.startswith("classification")]
    return card["spent"]["cpu_seconds"] - spent_by(path.parents[1], before)["cpu_seconds"]


def trained_as_long(study: "JointDetNASStudy", size: tuple[int, int], seconds: float) -> dict[str, Any]:
    """torchvision's detector after about so many CPU seconds of training: AP, samples, what it took, parameters."""
    import torch

    from benchmarks.torchvision_detector import TorchvisionDetector
    from common.evaluate.recalibrate import reestimate_batch_norm
    from common.study import spent
    from common.train.loop import fit

    def make(run: Any) -> dict[str, Any]:
        def trained(stage: str, epochs: int) -> tuple["nn.Module", dict[str, Any]]:
            torch.manual_seed(study.seed)
            backbone, preset = study.backbone("resnet18"), study.preset
            backbone.load_state_dict(study.pretrained("resnet18"))
            network = study.placed(TorchvisionDetector(backbone, len(study.categories), size, preset.detector))
            batches = study.training_batches(size, preset.batch_size)
            training = replace(study.training(lasting(preset.base_training, epochs)), validations=0)
            return network, spent(fit(run, stage, network, batches, lambda batch, _: [network.losses(batch)], training))

        _, paced = trained("pace", 1)
        network, took = trained("detector", max(1, round(seconds / paced["cpu_seconds"])))
        settling = study.training_images(size, study.preset.settling_images).in_order()
        reestimate_batch_norm(network.network.backbone, (batch.images for batch in settling))  # as the study's own
        params = sum(each.numel() for each in network.parameters())
        return {**study.precision_at(network, size, "validation"), **took, "params": params}

    return study.once(f"torchvision-{'x'.join(map(str, size))}-{seconds:.0f}-s", make)


if __name__ == "__main__":
    run(main, Options)
