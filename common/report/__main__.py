"""`python -m common.report runs/... --out page/`: every table and figure of any runs, side by side, on one page."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from common.cli import run
from common.plain import InputError
from common.report.page import build_page


@dataclass(frozen=True)
class Options:
    """Put every exhibit and claim found below some run folders on one self-contained page."""

    runs: Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders to look in; several are shown side by side."""
    out: Path = Path("page")
    """Folder for index.html."""


def main(options: Options) -> None:
    command = shlex.join(["python", "-m", "common.report", *map(str, options.runs), "--out", str(options.out)])
    text = build_page(options.runs, command)
    page = options.out / "index.html"
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        unfinished = page.with_name(f".index.{os.getpid()}.part")
        unfinished.write_text(text)
        os.replace(unfinished, page)
    except OSError as error:
        raise InputError(f"{page} cannot be written ({error.strerror}); choose another folder with --out") from None
    print(f"wrote {page}", file=sys.stderr)


if __name__ == "__main__":
    run(main, Options)
