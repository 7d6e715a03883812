"""`python -m common.report runs/... results/... --out page`: any tables, figures and claims, redrawn on one page."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from common.cli import run, words_for
from common.plain import make_folder, write_atomically


@dataclass(frozen=True)
class Options:
    """Put every exhibit, claim and run found below some folders on one self-contained page."""

    folders: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders of runs or of published results; exhibits of several are shown side by side."""
    out: Path = Path("page")
    """Folder for index.html."""


def main(options: Options) -> None:
    from common.report.page import build_page  # takes matplotlib

    command = shlex.join([*words_for("common.report"), *map(str, options.folders), "--out", str(options.out)])
    text = build_page(options.folders, command)
    page = make_folder(options.out) / "index.html"
    write_atomically(page, text.encode())
    print(f"wrote {page}", file=sys.stderr)


if __name__ == "__main__":
    run(main, Options)
