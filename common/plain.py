"""Plain data on disk: one JSON reader and writer, dataclasses to JSON and back, files written whole or not at all.

Importable without torch, and knows nothing of what it stores.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

_Kind = TypeVar("_Kind")

PARTIAL = ".partial"  # the ending of a file still being written; a killed process may leave one behind
_ABSENT = object()


class InputError(Exception):
    """Something the user gave cannot be used: the message says what, where, and what to do, in one sentence."""


def cores() -> int:
    """How many of the machine's cores this process may use: fewer than all under Slurm, taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- values


def to_json(value: Any) -> Any:
    """`value` as plain JSON: dataclasses become objects, arrays and tensors lists, NaN and infinity null."""
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, Enum)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Enum):
        return to_json(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return [to_json(item) for item in sorted(value)]
    if isinstance(value, (list, tuple, range)):
        return [to_json(item) for item in value]
    if isinstance(value, os.PathLike):
        return str(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        return to_json(value.tolist())
    if type(value).__module__ == "torch":  # devices and dtypes
        return str(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form: {value!r}")


def from_json(kind: type[_Kind], value: Any, where: str = "value") -> _Kind:
    """`value`, as `to_json` wrote it, as an object of the type `kind`.

    kind: a dataclass (fields with a default may be missing), a tuple, list or dict of such, a union, a Literal, or
    a plain type. where: named in errors, with the path to the faulty field. Raises InputError when the value does not
    fit.
    """
    origin = typing.get_origin(kind)
    if (is_dataclass(kind) or origin in (dict, Mapping)) and not isinstance(value, Mapping):
        raise InputError(f"{where} must be an object, got {value!r}")
    if is_dataclass(kind):
        kinds = typing.get_type_hints(kind)
        known = {field.name: field for field in fields(kind) if field.init}
        if unknown := sorted(map(str, value.keys() - known.keys())):
            raise InputError(f"{where} has a field {unknown[0]} that this version does not know")
        for name, field in known.items():
            if name not in value and field.default is MISSING and field.default_factory is MISSING:
                raise InputError(f"{where} lacks the field {name}")
        return kind(**{name: from_json(kinds[name], item, f"{where}.{name}") for name, item in value.items()})
    if origin in (Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        for option in (option for option in options if option is not type(None)):
            with contextlib.suppress(InputError):
                return from_json(option, value, where)
        raise InputError(f"{where} must be {_spelled(kind)}, got {value!r}")
    if origin in (tuple, list):
        return origin(_items(kind, value, where))
    if origin in (dict, Mapping):
        key_kind, item_kind = typing.get_args(kind)
        return {key_kind(key): from_json(item_kind, item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        if value not in typing.get_args(kind):
            raise InputError(f"{where} must be one of {', '.join(map(str, typing.get_args(kind)))}, got {value!r}")
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    truth = isinstance(value, bool)  # which Python takes for an int
    if kind is float and isinstance(value, int) and not truth:
        return float(value)
    if kind is Any or (isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not truth)):
        return value
    raise InputError(f"{where} must be {_spelled(kind)}, got {value!r}")


def _items(kind: Any, value: Any, where: str) -> Iterator[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where} must be a list, got {value!r}")
    inner = typing.get_args(kind)
    if inner[-1] is Ellipsis or typing.get_origin(kind) is list:
        inner = [inner[0]] * len(value)
    if len(inner) != len(value):
        raise InputError(f"{where} must have {len(inner)} items, got {len(value)}")
    for place, (item_kind, item) in enumerate(zip(inner, value, strict=True)):
        yield from_json(item_kind, item, f"{where}.{place}")


def _spelled(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) else str(kind)


def first_difference(there: Any, here: Any, field: str = "") -> tuple[str, str, str] | None:
    """The first field, dotted, in which two JSON values differ, and both values as text; None when they are equal."""
    if isinstance(there, dict) and isinstance(here, dict):
        inner = ((key, f"{field}.{key}" if field else key) for key in {**here, **there})
        found = (first_difference(there.get(key, _ABSENT), here.get(key, _ABSENT), name) for key, name in inner)
        return next(filter(None, found), None)
    if there == here and isinstance(there, bool) == isinstance(here, bool):
        return None
    shown = ["nothing" if value is _ABSENT else json.dumps(value) for value in (there, here)]
    return field or "config", shown[0], shown[1]


# ---- files


def cannot_write(path: Path, error: OSError) -> InputError:
    """The sentence for a failed write: a full disk names the space left, anything else the system's own reason."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        folder = next(parent for parent in (path, *path.parents) if parent.is_dir())
        free = shutil.disk_usage(folder).free / 2**20
        return InputError(
            f"cannot write {path}: the disk is full ({free:,.0f} MiB free); nothing written before was lost, so free "
            "some space and run the same command again"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return InputError(f"cannot write {path}: there is a file where a folder is needed; choose another place")
    return InputError(
        f"cannot write {path}: {error.strerror or error}; make the folder writable or choose another, then run the "
        "same command again"
    )


def make_folder(path: Path) -> Path:
    """The folder at `path`, made with its parents where it is missing, on disk when this returns."""
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    for folder in missing:
        sync_entries(folder.parent)
    return path


def sync_entries(folder: Path) -> None:
    """Put a folder's list of names on disk: a file that was synced is lost all the same where its name is not."""
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_atomically(path: Path, content: bytes) -> None:
    """Put `content` at `path` whole or not at all; see `write_together`."""
    write_together({path: content})


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write all of some files or none: what was there before stays until every new file is safe on disk.

    Raises InputError when the disk is full or a folder not writable; the files before are then untouched.
    """
    partial = {path: path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}") for path in contents}
    try:
        for path, content in contents.items():
            with open(partial[path], "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in contents:
            os.replace(partial[path], path)
    except OSError as error:
        for leftover in partial.values():
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
        raise cannot_write(path, error) from error
    for folder in {path.parent for path in contents}:
        sync_entries(folder)


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
    if length == 0:
        sync_entries(path.parent)


def write_json(path: Path, value: Any) -> Path:
    """Write `value` as JSON, atomically, into a folder that is made where it is missing; returns the path."""
    make_folder(path.parent)
    text = json.dumps(to_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, text.encode())
    return path


def read_json(path: Path) -> Any:
    """The JSON at `path`; an InputError says what is wrong with it."""
    try:
        return json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not valid JSON ({error}); delete it and run its command again to write it anew"
        ) from None


def read_json_if_there(path: Path) -> Any | None:
    """The JSON at `path`, or None where there is no file."""
    return read_json(path) if path.is_file() else None
