"""Files that survive a crash: written whole or not at all, weights without pickle, and strict loading into a model.

Weights are safetensors with their facts (a JSON object) in the header of the same file, so the two never disagree.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.plain import InputError, write_atomically


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a state dict and a JSON object of facts about it as one safetensors file, atomically.

    Tensors that share storage are written once a name: each gets its own copy when loaded.
    """
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(copies, {"meta": json.dumps(meta)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the facts of a file from `save_tensors`. No code in the file is ever run."""
    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {}).get("meta", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise InputError(f"there are no weights at {path}: check the path, or train them first") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a readable safetensors file ({error}): it is damaged or cut short; delete it and "
            "make it anew"
        ) from error


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load `tensors` into `model`; every name and shape must agree.

    Raises InputError naming the first tensor that differs and both shapes: the weights belong to another
    architecture. The model is then untouched.
    """
    expected = model.state_dict()
    for name, tensor in expected.items():
        wanted = tuple(tensor.shape)
        if name not in tensors:
            problem = f"the model has a tensor {name} of shape {wanted} and the weights have none of that name"
        elif (found := tuple(tensors[name].shape)) != wanted:
            problem = f"tensor {name} has shape {found} there and {wanted} in the model"
        else:
            continue
        raise _other_architecture(source, problem)
    extra = next((name for name in tensors if name not in expected), None)
    if extra is not None:
        raise _other_architecture(
            source, f"they hold a tensor {extra} of shape {tuple(tensors[extra].shape)} that the model has not"
        )
    model.load_state_dict(dict(tensors))


def _other_architecture(source: str, problem: str) -> InputError:
    return InputError(
        f"the weights in {source} belong to another architecture: {problem}; give the encoding or preset they were "
        "trained with, or other weights"
    )
