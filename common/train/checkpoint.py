"""Files that survive a crash: written whole or not at all, weights without pickle, and strict loading into a model.

Weights are safetensors with their facts (a JSON object) in the header of the same file, so the two never disagree.
"""

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from common.command import InputError

PARTIAL = ".partial"  # the ending of a file still being written; a killed process may leave one behind


def cannot_write(path: Path, error: OSError) -> InputError:
    """The sentence for a failed write: a full disk names the space left, anything else the system's own reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(folder).free / 2**20
        return InputError(
            f"cannot write {path}: the disk is full ({free:,.0f} MiB free); nothing written before was lost, so free "
            "some space and run the same command again to go on"
        )
    return InputError(
        f"cannot write {path}: {error.strerror or error}; make the folder writable or choose another, then run the "
        "same command again to go on"
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all: what was there before stays until the new file is safe on disk.

    Raises InputError when the disk is full or the folder not writable; the file before is then untouched.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        with open(partial, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Append `line` and a line end, on disk when this returns; a failed write leaves the file at its former length."""
    content = memoryview(f"{line}\n".encode())
    try:
        with open(path, "ab", buffering=0) as file:
            length = file.seek(0, os.SEEK_END)
            try:
                while content:  # near a full disk the system may take a part only
                    content = content[file.write(content) :]
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(length)
                raise
    except OSError as error:
        raise cannot_write(path, error) from error


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


def number_or_none(value: float) -> float | None:
    """NaN and infinity have no JSON: they become null."""
    return value if math.isfinite(value) else None
