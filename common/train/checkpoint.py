"""Weights and training states as bytes that know whether they are whole, and strict loading into a model.

Weights are safetensors with their facts (a JSON object) in the header of the same file, so the two never disagree. Both
kinds hold the SHA-256 of their own content, so that a changed byte is noticed; no code in a file is ever run.
"""

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from common.plain import InputError

_DIGEST = "content_sha256"  # the fact that holds the digest of a file of weights, computed with _NO_DIGEST in its place
_NO_DIGEST = b"0" * 64


def pack_tensors(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> bytes:
    """A state dict and a JSON object of facts about it as the content of one safetensors file.

    Tensors that share storage are written once a name: each gets its own copy when loaded.
    """
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    facts = json.dumps({_DIGEST: _NO_DIGEST.decode(), **meta})
    content = safetensors.torch.save(copies, {"meta": facts})
    at = content.index(_NO_DIGEST)  # the first of the facts, which the header begins with
    return b"".join([content[:at], hashlib.sha256(content).hexdigest().encode(), content[at + len(_NO_DIGEST) :]])


def unpack_tensors(content: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the facts that `pack_tensors` was given; ValueError, with a reason, when damaged."""
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts = json.loads(header.get("__metadata__", {}).get("meta", "{}"))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(_first_line(error)) from None
    digest = facts.pop(_DIGEST, None) if isinstance(facts, dict) else None
    at = content.find(str(digest).encode())
    seen = hashlib.sha256(content[:at])
    seen.update(_NO_DIGEST)
    seen.update(memoryview(content)[at + len(_NO_DIGEST) :])
    if seen.hexdigest() != digest:
        raise ValueError("its content is not what was written")
    return tensors, facts


def pack_state(state: Mapping[str, Any]) -> bytes:
    """Tensors, numbers, strings and containers of them as the content of one file."""
    buffer = io.BytesIO()  # to memory: torch hides the system's reason when writing to a file fails
    torch.save(dict(state), buffer)
    content = buffer.getvalue()
    return _state_head(content) + content


def unpack_state(content: bytes) -> dict[str, Any]:
    """What `pack_state` was given, on the CPU; ValueError, with a reason, when the content is damaged."""
    begin = len(_state_head(b""))
    rest = memoryview(content)[begin:]
    if content[:begin] != _state_head(rest):
        raise ValueError("its content is not what was written" if content else "it is empty")
    try:
        return torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(_first_line(error)) from None


def _state_head(content: bytes | memoryview) -> bytes:
    return f"sha256 {hashlib.sha256(content).hexdigest()}\n".encode()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def load_strictly(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load `tensors` into `model`; every name and shape must agree.

    Raises InputError naming the first tensor that differs and both shapes: the weights belong to another
    architecture. The model is then untouched.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in [*expected, *there]:  # the model's first
        if there.get(name) == expected.get(name):
            continue
        if name not in there:
            problem = f"the model has a tensor {name} of shape {expected[name]} and the weights have none of that name"
        elif name not in expected:
            problem = f"they hold a tensor {name} of shape {there[name]} that the model has not"
        else:
            problem = f"tensor {name} has shape {there[name]} there and {expected[name]} in the model"
        raise InputError(
            f"the weights in {source} belong to another architecture: {problem}; give the encoding or preset they "
            "were trained with, or other weights"
        )
    model.load_state_dict(dict(tensors))
