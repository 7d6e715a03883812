"""One supernet of smoke scale, trained once for all tests that need a finished run."""

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

DATA = "scenes:train=80,val=24"


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> SimpleNamespace:
    """data: as `--data`, run: its folder, out: the folder of all runs, report: what `detofa.train --json` printed."""
    from detofa.train import Options, main

    out = tmp_path_factory.mktemp("runs")
    printed = io.StringIO()
    with redirect_stdout(printed):
        main(Options(data=DATA, out=out, device="cpu", json=True))
    report = json.loads(printed.getvalue())
    return SimpleNamespace(data=DATA, run=Path(report["run"]), out=out, report=report)
