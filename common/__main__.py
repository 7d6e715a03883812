"""`detnas COMMAND ...`: every command of the project under one name, the same as `python -m MODULE ...`."""

import ast
import importlib.util
import re
import sys
import typing
from pathlib import Path

from common import __version__
from common.cli import PROGRAM, readers_may_leave, run

_ROOT = Path(__file__).resolve().parents[1]
_SHARED = {
    "predict": "common.predict",
    "evaluate": "common.evaluate.__main__",
    "export": "common.export",
    "compare": "common.compare.__main__",
    "cost": "common.cost",
    "check": "common.data.__main__",
    "download": "common.data.download",
    "pack": "common.data.pack",
    "report": "common.report.__main__",
}
"""Command -> module. `check` is the one action of its module, and is typed there, too."""
OF_PAPERS = ("train", "search", "reproduce")


def commands() -> dict[str, str]:
    """What is typed -> module: the shared commands, and those of every package that holds a paper's printed numbers."""
    papers = sorted(path.parent.name for path in _ROOT.glob("*/printed.json"))
    return _SHARED | {f"{paper} {command}": f"{paper}.{command}" for paper in papers for command in OF_PAPERS}


@readers_may_leave()
def main() -> None:
    """Find the module that the first words name, and give it the others."""
    words, known = sys.argv[1:], commands()
    if words == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return
    if not words or words[0] in ("-h", "--help"):
        print(_help(known))
        return
    typed = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
    if typed is None:
        print(f"error: no command {' '.join(words[:2])!r}: known are {', '.join(known)}", file=sys.stderr)
        raise SystemExit(2)
    rest = words[len(typed.split()) :]
    sys.argv = [f"{PROGRAM} {typed}", *(words if typed == "check" else rest)]
    module = importlib.import_module(known[typed])
    (options, *_) = typing.get_type_hints(module.main).values()
    run(module.main, options)


def _help(known: dict[str, str]) -> str:
    lines = [f"usage: {PROGRAM} COMMAND ...   ({PROGRAM} COMMAND --help says more)", ""]
    width = max(map(len, known)) + 2
    for name, module in known.items():
        spec = importlib.util.find_spec(module)
        first = ast.get_docstring(ast.parse(Path(spec.origin).read_text())).partition("\n")[0]
        first = re.sub(r"`python -m [^`]*`: |: .*", "", first)
        lines.append(f"  {name:<{width}}{first[0].upper()}{first[1:].rstrip('.:')}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
