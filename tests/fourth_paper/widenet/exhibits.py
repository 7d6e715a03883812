"""The made-up paper's one table."""

from pathlib import Path

from common.report.claims import Claim, Condition
from common.report.exhibit import Drawn, Exhibit, Picture, over_seeds, stacked
from common.report.reproduce import Paper
from common.report.tables import Table


def measure(study):
    rows = {str(width): 100 * study.trained(width)["AP"] for width in study.preset.widths}
    ends = {"narrowest": study.preset.widths[0], "widest": study.preset.widths[-1]}
    return {"rows": rows, "evidence": {name: lambda w=w: 100 * study.trained(w)["AP"] for name, w in ends.items()}}


def draw(measured, setting):
    rows = [[width, over_seeds(stacked(measured, "rows", width))] for width in measured[0]["rows"]]
    bars = {width: {"AP": (value.mean, value.low, value.high)} for width, value in rows}
    picture = Picture("table1", "bars", {"groups": bars, "value_label": "AP (points)"})
    return Drawn(Table(["Width", "AP"], rows), "AP by width.", units={"AP": "points"}, pictures=[picture])


def make_study(*arguments):
    from widenet.study import WideNet

    return WideNet(*arguments)


WIDER = Condition("AP of the widest minus the narrowest", lambda e: e["widest"] - e["narrowest"], unit="AP points")
CLAIMS = (Claim("WN-1", "Table 1", "wider is better", (WIDER,)),)
EXHIBITS = (Exhibit("table1", "Widths", "AP by width", measure, draw, CLAIMS),)
PAPER = Paper("widenet", "WideNet", Path(__file__).parent, EXHIBITS, make_study, lambda study: "a made-up paper")
