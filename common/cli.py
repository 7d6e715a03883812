"""The face of every command: flags from a frozen dataclass, and errors in one clear sentence.

Importable without torch: `--help` and a wrong flag answer before any of the work is loaded. So a command's module
imports what it works with inside its main function.
"""

import gc
import hashlib
import json
import os
import re
import select
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, fields, is_dataclass, make_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import tyro

from common.plain import InputError, make_folder, to_json
from common.settings import Precision, StudyPreset

Options = TypeVar("Options")

PROGRAM = "detnas"
"""The one command that an installation brings; see common.__main__."""
_HELP_ALL = "--help-all"

Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A flag that is only ever switched on."""

PREFIXES = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


def quantity(text: str) -> float:
    """The number that "25M", "2.5e7", "1.2G" or "300k" is; ValueError for anything else, or a negative one."""
    number = float(text[:-1]) * PREFIXES[text[-1]] if text[-1:] in PREFIXES else float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(f"a number from 0 on is expected, such as 25M, got {text}")
    return number


def metric(number: float) -> str:
    """The same in four figures: "25M", "1.234G"; with no prefix below a thousand."""
    prefix, size = next(((p, s) for p, s in reversed(PREFIXES.items()) if number >= s), ("", 1))
    return f"{number / size:.4g}{prefix}"


def exact(number: float) -> str:
    """As `metric`, but with every figure that `quantity` needs to give the very number again."""
    return metric(number) if quantity(metric(number)) == number else repr(float(number)).removesuffix(".0")


Quantity = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda words: quantity(words[0]),
        is_instance=lambda value: isinstance(value, float | int),
        str_from_instance=lambda value: [metric(value)],
    ),
]
"""A flag's number that may be typed with a prefix."""

DATA_KINDS = ("scenes", "auto", "coco", "voc", "yolo", "bdd")
DATA_FORMS = (
    "scenes[:train=2500,val=1000,size=96], auto:DIR, coco:DIR, voc:DIR, yolo:DIR or bdd:DIR "
    "(DIR,repair clips boxes and leaves out empty ones)"
)


@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Flags that all commands of a paper share; a paper sets `PRESETS` and the types of scale and preset."""

    PRESETS: ClassVar[Mapping[str, StudyPreset]]
    DESCRIBED: ClassVar[str | None] = None
    """The scale of --describe where none is given; None, or none of PRESETS, means that of all other commands."""
    OF_PHOTOGRAPHS: ClassVar[str | None] = None
    """The scale where none is given and --data names a folder; likewise."""
    SHOWS_RUNS: ClassVar[bool] = True
    """Whether a finished run gets a page of its own."""

    scale: str
    """Preset: smoke (seconds; its numbers mean nothing), nano (two CPU cores), photo (your own photographs), mini (a
    GPU) or paper (as published); --preset.FIELD changes any field of it. Where none is given, train and search take
    photo for a folder of your own."""
    data: str = "scenes"
    """Detection set: scenes (built in), or auto:, coco:, voc:, yolo: or bdd:DIR; auto finds out which."""
    out: Path = Path("runs")
    """Folder of all runs."""
    device: str | None = None
    """Where networks live: cpu, cuda or cuda:N (default: GPU if available)."""
    precision: Precision = "float32"
    """Number format of training; bfloat16 is faster on GPUs and CPUs that compute with it."""
    validations: int = 0
    """Times that AP is measured during a training, for its curve in log.jsonl; 0 means never."""
    retry_failed: Switch = False
    """Evaluate the candidates of a search again that failed, for example for want of memory; stages of training that
    are done stay."""
    preset: StudyPreset
    """The settings of the scale."""

    @property
    def changed(self) -> dict[str, Any]:
        """Fields of the preset that differ from the named scale's, dotted name -> value as plain JSON."""
        return {name: to_json(value) for name, value in _differences(self.preset, self.PRESETS[self.scale])}

    @property
    def trains(self) -> bool:
        """Whether the command trains anything, unless it is asked to describe or to list."""
        return True

    @property
    def run_folder(self) -> str:
        """DATA-SCALE, with a digest of the settings where they are not the scale's own: nobody else's folder."""
        return self.folder_of(self.data)

    def folder_of(self, data: str, reads: Sequence[str] | None = None) -> str:
        """The same for other data, and what depends on these fields of the preset alone; None means all."""
        name = f"{short_name(data)}-{self.scale}"
        changed = {
            field: value for field, value in self.changed.items() if reads is None or field.partition(".")[0] in reads
        }
        if not changed:
            return name
        digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()
        return f"{name}-{digest[:8]}"


@dataclass(frozen=True, kw_only=True)
class OneSeed:
    """Flags of a command that trains or searches once; beside a paper's own options."""

    DESCRIBED: ClassVar[str | None] = "paper"
    OF_PHOTOGRAPHS: ClassVar[str | None] = "photo"

    seed: int = 0
    """Seed of weights, data order and all that is drawn."""
    json: Switch = False
    """Print one JSON object instead of text."""


def short_name(data: str) -> str:
    """A name for run folders: "scenes", or the name of the folder in lower-case letters, digits and dashes."""
    kind, rest, _ = data_parts(data)
    if kind == "scenes":
        return kind
    return re.sub(r"[^a-z0-9]+", "-", Path(os.path.expanduser(rest)).resolve().name.lower()).strip("-") or kind


def data_parts(data: str) -> tuple[str, str, bool]:
    """The kind of a `--data` text, its folder or settings, and whether small faults are repaired.

    Raises InputError for an unknown kind.
    """
    kind, _, rest = data.partition(":")
    folder = rest if kind == "scenes" else rest.removesuffix(",repair")
    if kind not in DATA_KINDS or (kind != "scenes" and not folder):
        forms = f"auto:{data} for that folder" if os.path.isdir(data) else DATA_FORMS
        raise InputError(f"unknown data {data!r}; give {forms}")
    return kind, folder, folder != rest


@contextmanager
def readers_may_leave() -> Iterator[None]:
    """End quietly, with the status that shells know for it, where what reads the output, such as `head`, has had
    enough."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # at the end of Python it would be too late to say nothing
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):  # another pipe is broken
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written goes nowhere
        raise SystemExit(141) from None


@readers_may_leave()
def run(main: Callable[[Options], None], options_class: type[Options], arguments: Sequence[str] | None = None) -> None:
    """Parse the command line into `options_class` and call `main` with it.

    Exit status: 0 done; 2 for a wrong flag or an `InputError`, whose sentence goes to stderr without a traceback; 130
    when interrupted, where it says whether the same command goes on; 141 by `readers_may_leave`.
    """
    # Torch leaves a million objects in memory: to look through them as often as Python does by itself takes a tenth of
    # the time of thin networks.
    gc.set_threshold(20_000, 20, 20)
    try:
        main(parse(options_class, arguments))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from where it stopped" if issubclass(options_class, StudyOptions) else ""
        print(f"\ninterrupted{goes_on}", file=sys.stderr)
        raise SystemExit(130) from None


def parse(options_class: type[Options], arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line. Of a class with `PRESETS`, --scale first says which preset the flags change.

    Its --help leaves the settings of the scale to --help-all, for they are hundreds.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    default, only_tried_out = None, False
    if not {"-h", "--help", _HELP_ALL}.isdisjoint(arguments):
        options_class = _as_told(options_class, briefly=_HELP_ALL not in arguments)
    arguments = ["--help" if each == _HELP_ALL else each for each in arguments]
    if issubclass(options_class, StudyOptions):
        given = {
            name: re.findall(rf"^--{name}[=\n](.*)$", "\n".join(arguments), re.MULTILINE)[-1:]
            for name in ("scale", "data")
        }
        photographs = any(not data.startswith("scenes") for data in given["data"])
        own = options_class.OF_PHOTOGRAPHS if photographs else None
        unsaid = options_class.DESCRIBED if "--describe" in arguments else own
        unsaid = unsaid if unsaid in options_class.PRESETS else options_class().scale
        scale = given["scale"][0] if given["scale"] else unsaid
        if scale in options_class.PRESETS:
            default = options_class(scale=scale, preset=options_class.PRESETS[scale])
        only_tried_out = scale == "smoke" and photographs and {"--describe", "--list"}.isdisjoint(arguments)
    options = tyro.cli(options_class, default=default, args=arguments, prog=program())
    if only_tried_out and options.trains:
        print(
            "--scale smoke only tries the commands out: what it trains finds nothing; give another scale for a "
            "detector of use",
            file=sys.stderr,
        )
    return options


def _as_told(options_class: type[Options], briefly: bool) -> type[Options]:
    """The same options for --help; briefly: without the settings of the scale.

    What a field says goes on one line, for tyro would break it where the source does. Of a default of None or () it
    says itself what that means.
    """
    import docstring_parser

    says = {
        each.arg_name: " ".join(each.description.split())
        for source in reversed(options_class.__mro__[:-1])
        for each in docstring_parser.parse_from_object(source).params
        if each.description
    }
    about = {
        item.name: tyro.conf.arg(help=says[item.name], help_behavior_hint="" if item.default in (None, ()) else None)
        for item in fields(options_class)
        if item.name in says and not is_dataclass(item.type)
    }
    doc = options_class.__doc__
    if briefly and issubclass(options_class, StudyOptions):
        about["preset"] = tyro.conf.Suppress
        doc = f"{doc}\n{_HELP_ALL} also lists the settings of the scale, each of which is a flag: --preset.FIELD VALUE."
    changed = [
        (item.name, Annotated[item.type, about[item.name]], copy(item))
        for item in fields(options_class)
        if item.name in about
    ]
    told = make_dataclass(options_class.__name__, changed, bases=(options_class,), frozen=True, kw_only=True)
    told.__doc__ = doc
    return told


def program() -> str:
    """How this command is typed: "python -m detofa.train", or "detnas detofa train"."""
    if sys.argv[0].partition(" ")[0] == PROGRAM:
        return sys.argv[0]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return Path(sys.argv[0]).name if spec is None else f"python -m {spec.name.removesuffix('.__main__')}"


def typed_command() -> str:
    """The command line as it was typed, for the records of a run."""
    return shlex.join([*program().split(), *sys.argv[1:]])


def words_for(module: str) -> list[str]:
    """How another command is typed the way that this one was: "detofa.train" by python -m, or by detnas."""
    if program().partition(" ")[0] == PROGRAM:
        return [PROGRAM, *module.removeprefix("common.").split(".")]
    return ["python", "-m", module]


@contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Make a folder before the work, so that one that cannot be made is told in time.

    What was made of it and is empty at the end, such as after an error, is removed.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_folder(path)
    try:
        yield
    finally:
        for folder in missing:
            with suppress(OSError):  # it holds something
                folder.rmdir()


def next_with(detector: Path | str, data: str) -> str:
    """What to type with a finished detector, a command a line; data: what it was trained on."""
    typed = {
        "common.evaluate": ("--data", data, "--out", "evaluation"),
        "common.predict": ("PHOTOS", "--out", "found"),
        "common.export": ("--out", "detector.onnx", "--check"),
        "common.compare": ("OTHER", "--data", data),
    }
    return "\n".join(
        f"next: {shlex.join([*words_for(module), str(detector), *rest])}" for module, rest in typed.items()
    )


def command(module: str, options: Any, leave_out: Sequence[str] = (), always: Sequence[str] = ("scale", "data")) -> str:
    """The command that gives `options` again: those flags that differ from their defaults.

    module: "detofa.train". leave_out: names of fields that are not said. always: names said in any case.
    """
    defaults = type(options)()
    if isinstance(options, StudyOptions):
        defaults = type(options)(scale=options.scale, preset=options.PRESETS[options.scale])
    words = words_for(module)
    for name in (item.name for item in fields(options) if item.name not in leave_out):
        value, default = getattr(options, name), getattr(defaults, name)
        if name in always:
            words += _flag(name, value)
        elif is_dataclass(value):
            words += [word for part, inner in _differences(value, default, name) for word in _flag(part, inner)]
        elif value != default:
            words += _flag(name, value)
    return shlex.join(words)


def _differences(here: Any, there: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names of the fields in which two records of settings differ, with the value that `here` has."""
    if is_dataclass(here) and type(here) is type(there):
        for item in fields(here):
            name = f"{prefix}.{item.name}" if prefix else item.name
            yield from _differences(getattr(here, item.name), getattr(there, item.name), name)
    elif _holds_settings(here) and _holds_settings(there) and len(here) == len(there):
        for place, (one, other) in enumerate(zip(here, there, strict=True)):
            yield from _differences(one, other, f"{prefix}.{place}")
    elif here != there:
        yield prefix, here


def _holds_settings(value: Any) -> bool:
    return isinstance(value, tuple) and any(is_dataclass(item) or _holds_settings(item) for item in value)


def _flag(name: str, value: Any) -> list[str]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        records, dot, field = name.rpartition(".")
        return [f"--{name}" if value else f"--{records}{dot}no-{field}"]
    return [f"--{name}", *_words(value)]


def _words(value: Any) -> list[str]:
    return [word for each in value for word in _words(each)] if isinstance(value, tuple) else [str(value)]


def show(report: Mapping[str, Any], as_json: bool, text: Callable[[Mapping[str, Any]], str]) -> None:
    """Print a command's report on stdout: one JSON object, or as text."""
    plain = to_json(report)
    print(json.dumps(plain) if as_json else text(plain))
