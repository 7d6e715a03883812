"""Values, texts and JSON of annotation files, as every reader takes them: lenient in spelling, strict in meaning."""

import codecs
import gc
import json
import math
import os
import reprlib
import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from common.plain import InputError

LARGEST_SIDE = 1_000_000  # pixels
YES = ("1", "1.0", "yes", "y", "true", "t", "on")
NO = ("0", "0.0", "no", "n", "false", "f", "off", "none", "null", "unspecified", "")

Value = TypeVar("Value")


class BadRecord(Exception):
    """What is wrong with a record, "has ...": whoever knows which record it is makes the sentence."""


_REQUIRED: Any = object()
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 2


def shown(value: Any) -> str:
    """A value for an error message, cut short where it is long."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not spell out integers of more than 4,300 digits
        return "a number of thousands of digits"


def reason(error: Exception) -> str:
    """What an error says, on one line; its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def read_field(record: Mapping[str, Any], key: str, read: Callable[[Any], Value], default: Any = _REQUIRED) -> Value:
    """record[key] as `read` takes it; a missing value or null is the default. Raises `BadRecord`.

    `read` raises ValueError, TypeError or OverflowError for a value that its docstring does not describe.
    """
    value = record.get(key)
    if value is None:
        if default is _REQUIRED:
            raise BadRecord(f"has no {key}")
        return default
    try:
        return read(value)
    except (ValueError, TypeError, OverflowError):
        raise BadRecord(f"has {shown(value)} as {key}, which must be {read.__doc__}") from None


def number(value: Any) -> float:
    """a finite number"""
    result = float(value)
    if isinstance(value, bool) or not math.isfinite(result):
        raise ValueError
    return result


def whole_number(value: Any) -> int:
    """a whole number"""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    result = number(value)
    if not result.is_integer():
        raise ValueError
    return int(result)


def side(value: Any) -> int:
    """a whole number of pixels"""
    result = whole_number(value)
    if result > LARGEST_SIDE:
        raise ValueError
    return max(result, 0)  # tools write 0 or -1 for what they do not know


def identity(value: Any) -> int | str:
    """a whole number or a text"""
    return value if isinstance(value, str) else whole_number(value)


def text(value: Any) -> str:
    """a text"""
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def class_label(value: Any) -> str:
    """a text that can be printed"""
    result = text(value)
    result.encode()  # JSON and YAML can spell half a character, which no file holds
    return result


def flag(value: Any) -> bool:
    """0 or 1, or a word for no or yes"""
    word = str(value).strip().lower() if isinstance(value, bool | int | float | str) else "?"
    if word not in YES + NO:
        raise ValueError
    return word in YES


def read_bytes(path: Path) -> bytes:
    """The contents of a file; `InputError` where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no annotations at {path}; check the folder and its layout") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({getattr(error, 'strerror', error)}); check the file") from None


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark, or in UTF-16 with one."""
    contents = read_bytes(path)
    utf_16 = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return contents.decode("utf-16" if utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from None


def read_unicode_json(path: Path) -> Any:
    """The contents of a JSON file of annotations, in any of Unicode's encodings."""
    contents = read_bytes(path)
    collecting = gc.isenabled()
    gc.disable()  # a million records are no garbage, and looking through them again and again doubles the time
    try:
        return json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); export or download it again") from None
    finally:
        if collecting:
            gc.enable()


def names_in(folder: str | Path) -> list[str]:
    """Names of what lies in a folder; none for what is no folder, also for a path that no system could hold."""
    try:
        return os.listdir(folder) if os.path.isdir(folder) else []
    except OSError as error:
        raise InputError(f"{folder} cannot be listed ({error.strerror}); check its permissions") from None


def composed(name: str) -> str:
    """A file name in Unicode's form NFC: macOS writes "é" as two characters, most others as one."""
    return unicodedata.normalize("NFC", name)


def speller(folder: Path) -> Callable[[str], str | None]:
    """What finds a path relative to `folder` as the disk spells it, in whichever of Unicode's forms; None for none.

    Each folder is listed once.
    """

    @cache
    def listed(place: str) -> dict[str, str]:
        names = names_in(os.path.join(folder, place))
        return {composed(name): name for name in names} | {name: name for name in names}

    @cache
    def folder_on_disk(place: str) -> str | None:
        if os.path.isdir(os.path.join(folder, place)):
            return place
        found = ""
        for part in PurePosixPath(place).parts:
            if (name := listed(found).get(composed(part))) is None:
                return None
            found = os.path.join(found, name)
        return found

    def on_disk(path: str) -> str | None:
        parent, base = os.path.split(path)
        if (place := folder_on_disk(parent)) is None:
            return None
        name = listed(place).get(base) or listed(place).get(composed(base))
        if name is None or (place, name) == (parent, base):
            return name and path
        return os.path.join(place, name)

    return on_disk


def refuse_escape(file_name: str, what: str) -> None:
    """Raise `InputError` unless `file_name` stays inside the folder that it is relative to, on any system."""
    windows = PureWindowsPath(file_name)
    absolute = PurePosixPath(file_name).is_absolute() or windows.drive or windows.root
    if not file_name or "\0" in file_name or absolute or ".." in windows.parts:
        raise InputError(f"{what} does not stay inside its folder; give a plain relative path")
