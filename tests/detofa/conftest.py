"""One supernet of smoke scale, trained once for all tests that need a finished run."""

import functools
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.data import splits
from detofa import study
from detofa.train import TrainCommand, main

DATA = "scenes:train=64,val=24"


@pytest.fixture(scope="session")
def remembered():
    """Each data set is read, and each space's costs are tabled, once in the session rather than once a study."""
    with pytest.MonkeyPatch.context() as patch:
        load = functools.cache(study.load)
        patch.setattr(study, "load", load)
        patch.setattr(splits, "load", load)
        patch.setattr(study.CostTable, "macs", functools.cache(study.CostTable.macs))
        patch.setattr(study.CostTable, "params", functools.cache(study.CostTable.params))
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory, remembered) -> SimpleNamespace:
    """data: as `--data`, run: its folder, out: the folder of all runs, report: what `detofa.train --json` printed."""
    out = tmp_path_factory.mktemp("runs")
    printed = io.StringIO()
    with redirect_stdout(printed):
        main(TrainCommand(scale="smoke", data=DATA, out=out, device="cpu", json=True))
    report = json.loads(printed.getvalue())
    return SimpleNamespace(data=DATA, run=Path(report["run"]), out=out, report=report)
