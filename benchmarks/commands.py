"""What a user waits for: a command's help, the answer to a wrong flag, and all published results redrawn."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Disagreement, Row, Timing, Work, compare, seconds_in_turn

_ROOT = Path(__file__).resolve().parents[1]
ANSWERS = (
    ("detofa.search", "--help"),
    ("sm_nas.search", "--help"),
    ("joint_detnas.reproduce", "--help"),
    ("detofa.train", "--no-such-flag"),
)


def answers(timing: Timing, commands: Sequence[tuple[str, str]] = ANSWERS) -> list[Row]:
    """Seconds from a command that trains nothing to its last word, beside a Python that imports torch alone."""
    rows = []
    for module, flag in commands:
        arguments, status = ("-m", module, flag), 0 if flag == "--help" else 2
        theirs = {"importing torch": lambda: Work(lambda: _python(0, "-c", "import torch"))}
        ours = Work(lambda arguments=arguments, status=status: _python(status, *arguments))
        rows += compare("s", ours, theirs, timing, case=f"{module} {flag}")
    return rows


def redrawing(timing: Timing, results: str = "results") -> list[Row]:
    """Seconds to draw every published table, figure and claim on one page, from the records alone."""
    with tempfile.TemporaryDirectory() as folder:
        works = {"ours": Work(lambda: _python(0, "-m", "common.report", str(_ROOT / results), "--out", folder))}
        seconds, rounds = seconds_in_turn(works, timing)
        page = Path(folder, "index.html").stat().st_size
    note, reason = f"a page of {page / 2**20:.1f} MiB", "nobody else draws them"
    return [Row(seconds["ours"], None, "s", "-", rounds=rounds, note=note, reason=reason)]


def _python(status: int, *arguments: str) -> None:
    ended = subprocess.run([sys.executable, *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    if ended.returncode != status:
        raise Disagreement(f"{' '.join(arguments)} ended with {ended.returncode}: {ended.stderr[-300:]}")
