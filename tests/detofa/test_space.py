"""Once-for-All's space: paths and their names, costs against networks built and counted, the evolutionary search."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.cost import count
from common.models.ofa_resnet import PLAIN, Bottleneck, ResNet, Stem
from common.plain import InputError, from_json, to_json
from detofa import space as module
from detofa.space import BlockShape, CostTable, EvolutionSettings, NoPath, OFAResNetSpace, StemShape, evolve
from tests.detofa.tiny_space import EVERY_PATH, TINY, list_paths

PAPER = OFAResNetSpace()
ELASTIC_STEM = OFAResNetSpace(elastic_stem=True)
UNEVEN = OFAResNetSpace(
    (1, 1, 2, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4, elastic_stem=True
)
THIN = OFAResNetSpace(
    (1, 1, 2, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4, stage_strides=(1, 2, 1, 1)
)

# ---- paths


def test_widths_of_the_paper_space():
    widths = [[PAPER.stage_width(stage, width) for width in range(3)] for stage in range(4)]
    assert widths == [[168, 208, 256], [336, 408, 512], [664, 816, 1024], [1328, 1640, 2048]]
    assert [PAPER.stem_middle(width) for width in range(3)] == [24, 24, 32]
    assert [PAPER.stem_out(width) for width in range(3)] == [40, 48, 64]
    assert PAPER.middle_width(0, 2, 2) == 88
    assert len(PAPER.layer_stage) == 18


def test_sizes():
    assert PAPER.size() == 351**3 * 3159 == 136_606_377_609
    assert ELASTIC_STEM.size() == 18 * 351**3 * 3159
    assert PAPER.size(coupled=True) == 117**3 * (3**4 + 3**5 + 3**6) == 1_686_498_489


@pytest.mark.parametrize("elastic_stem", [False, True])
def test_every_path_is_counted_and_canonical(elastic_stem):
    space = dataclasses.replace(TINY, widths=(1.0,), elastic_stem=elastic_stem)
    paths = list_paths(space)
    assert len(paths) == space.size() == len(np.unique(paths, axis=0))
    assert (space.canonical(paths) == paths).all()
    assert TINY.size() == len(EVERY_PATH)
    depths, widths = EVERY_PATH[:, TINY.depth_columns], EVERY_PATH[:, TINY.width_columns]
    assert TINY.size(coupled=True) == (depths == widths).all(axis=1).sum()


@pytest.mark.parametrize("space", [PAPER, UNEVEN, TINY])
def test_sample_is_canonical_legal_and_covers_every_choice(space):
    paths = space.sample(2000, np.random.default_rng(0))
    assert paths.dtype == np.int8
    assert paths.shape == (2000, len(space.columns))
    assert (space.canonical(paths) == paths).all()
    for column, allowed in zip(paths.T, space.choices, strict=True):
        assert set(column.tolist()) == set(allowed)
    assert (space.sample(5, np.random.default_rng(1)) == space.sample(5, np.random.default_rng(1))).all()


def test_depth_drops_the_last_layers():
    path = PAPER.largest()
    path[PAPER.depth_columns] = [0, 1, 2, 0]
    active = PAPER.active_layers(path)
    assert active.astype(int).tolist() == [1, 1, 0, 0, *[1, 1, 1, 0], *[1] * 6, *[1, 1, 0, 0]]
    assert PAPER.canonical(path)[PAPER.expand_columns].tolist() == [2 * int(kept) for kept in active]
    assert PAPER.active_layers(path[None]).shape == (1, 18)


@pytest.mark.parametrize("space", [PAPER, UNEVEN, TINY])
def test_names_tell_paths_apart_and_lead_back(space):
    paths = space.sample(200, np.random.default_rng(2))
    for path in paths:
        again = space.from_key(space.key(path))
        assert again.dtype == np.int8
        assert (again == path).all()
    assert len({space.key(path) for path in paths}) == len(np.unique(paths, axis=0))
    assert from_json(OFAResNetSpace, json.loads(json.dumps(to_json(space)))) == space


def test_a_name_by_hand():
    path = PAPER.from_key("d0100-w2012-e12.012.2222.00")
    assert path[PAPER.depth_columns].tolist() == [0, 1, 0, 0]
    assert path[PAPER.width_columns].tolist() == [2, 0, 1, 2]
    assert path[PAPER.expand_columns].tolist() == [1, 2, 0, 0, *[0, 1, 2, 0], *[2] * 4, 0, 0, *[0] * 4]
    assert PAPER.describe(path) == {
        "stem": {"residual": True, "middle": 1.0, "width": 1.0},
        "depth": [0, 1, 0, 0],
        "width": [1.0, 0.65, 0.8, 1.0],
        "expand": [[0.25, 0.35], [0.2, 0.25, 0.35], [0.35] * 4, [0.2, 0.2]],
    }


@pytest.mark.parametrize(
    "key",
    [
        "",
        "d0000-w0000",
        "d9000-w0000-e00.00.0000.00",
        "d0000-w0003-e00.00.0000.00",
        "d0000-w0000-e00.00.0000.0",
        "d0000-w0000-e00.00.0000.000",
        "d0000-w0000-e03.00.0000.00",
        "d0000-w0000-e0_.00.0000.00",
        "s000-d0000-w0000-e00.00.0000.00",
    ],
)
def test_what_is_no_name_is_refused(key):
    with pytest.raises(InputError, match="is not the name of a path"):
        PAPER.from_key(key)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"stage_strides": (1, 2, 2)}, "stage_strides must give 4 numbers, each 1 or 2"),
        ({"stage_strides": (1, 2, 2, 3)}, "stage_strides must give 4 numbers, each 1 or 2"),
        ({"widths": (1.0, 0.5)}, "widths must be 1 to 62 increasing choices"),
        ({"depths": ()}, "depths must be 1 to 62 increasing choices"),
        ({"base_depths": (2, 2, 2)}, "must each give 4 numbers"),
        ({"base_depths": (0, 1, 1, 1)}, "at least one layer"),
        ({"expands": (0.0, 0.5)}, "must be positive"),
    ],
)
def test_illegal_spaces_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        OFAResNetSpace(**change)


# ---- costs


def _counted(space, path, size):
    with torch.device("meta"):
        net, images = ResNet(space.architecture(path)).eval(), torch.empty(1, 3, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images)
    return counter.get_total_flops() // 2, sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("space", [ELASTIC_STEM, UNEVEN, THIN])
@pytest.mark.parametrize("largest_table", [module.LARGEST_TABLE, 1])
def test_tables_equal_counting_each_network(space, largest_table, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_TABLE", largest_table)
    size = (226, 165)  # odd after some halvings
    paths = np.stack([*space.sample(4, np.random.default_rng(0)), space.smallest(), space.largest()])
    counted = np.array([_counted(space, path, size) for path in paths])
    macs, params = CostTable.macs(space, size), CostTable.params(space)
    assert macs(paths).dtype == np.int64
    assert (macs(paths) == counted[:, 0]).all()
    assert (params(paths) == counted[:, 1]).all()
    assert params.range() == (counted[-2, 1], counted[-1, 1])


@pytest.mark.parametrize("residual", [False, True])
def test_a_stem_costs_what_the_counter_counts(residual):
    shape = StemShape(12, 20, residual, (45, 64))
    whole = count(Stem(PLAIN, 12, 20, residual), (64, 45))
    assert (shape.macs, shape.params) == (whole.macs, whole.params)


@pytest.mark.parametrize(("stride", "first"), [(1, False), (1, True), (2, True)])
def test_a_block_costs_what_the_counter_counts(stride, first):
    channels = 24 if first else 40
    shape = BlockShape(channels, 12, 40, stride, first, (15, 22))
    block = Bottleneck(PLAIN, channels, 12, 40, stride=stride, project=first).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(torch.zeros(1, channels, 15, 22))
    assert shape.macs == counter.get_total_flops() // 2
    assert shape.params == sum(parameter.numel() for parameter in block.parameters())


def test_the_papers_range():
    """7.49 G at most, 0.96 G at least at 224; 39.1 / 5.0 at 512 (the stem elastic)."""
    for size, expected in [(224, (0.96, 7.49)), (512, (5.02, 39.13))]:
        assert np.round(np.array(CostTable.macs(ELASTIC_STEM, size).range()) / 1e9, 2).tolist() == list(expected)
    costs = CostTable.macs(ELASTIC_STEM, 224)(ELASTIC_STEM.sample(5000, np.random.default_rng(0)))
    low, high = CostTable.macs(ELASTIC_STEM, 224).range()
    assert low < costs.min()
    assert costs.max() < high


def test_indices_of_dropped_layers_do_not_matter_and_blocks_join():
    table = CostTable.params(THIN)
    generator = np.random.default_rng(1)
    paths = THIN.sample(module.PATHS_AT_ONCE + 5, generator)
    noisy = paths.copy()
    dropped = ~THIN.active_layers(paths)
    noisy[:, THIN.expand_columns][dropped] = generator.integers(0, 3, dropped.sum())
    assert (table(noisy) == table(paths)).all()
    assert (table(paths[-3:]) == table(paths)[-3:]).all()
    assert len(table(paths[:0])) == 0


def test_head_is_added_by_the_last_width():
    head = {THIN.stage_width(3, width): 1000 * (width + 1) for width in range(3)}
    paths = THIN.sample(50, np.random.default_rng(2))
    extra = CostTable.macs(THIN, 64, head=head.get)(paths) - CostTable.macs(THIN, 64)(paths)
    assert (extra == 1000 * (paths[:, THIN.width_columns][:, -1].astype(int) + 1)).all()


def test_what_is_measured_block_by_block_is_summed():
    asked = []

    def measure(shape):
        asked.append(shape)
        return shape.out_channels / 8

    table = CostTable(UNEVEN, measure, (64, 48))
    path = UNEVEN.sample(1, np.random.default_rng(3))[0]
    architecture = UNEVEN.architecture(path)
    blocks = sum(
        width * len(middles)
        for width, middles in zip(architecture.stage_widths, architecture.middle_widths, strict=True)
    )
    assert table(path[None]).dtype == np.float64
    assert table(path[None])[0] == pytest.approx((blocks + architecture.stem_width) / 8)
    assert len(set(asked)) == len(asked), "each block once"
    assert {shape.size for shape in asked} == {(64, 48), (16, 12), (8, 6), (4, 3), (2, 2)}


# ---- search

COLUMNS, VALUES = 12, 4
RADICES = np.full(COLUMNS, VALUES)
WEIGHT = np.random.default_rng(0).normal(size=(COLUMNS, VALUES))
SMALL = EvolutionSettings(population=40, generations=30)


def _sample(count, generator):
    return generator.integers(0, VALUES, size=(count, COLUMNS)).astype(np.int8)


def _additive(rows):
    return WEIGHT[np.arange(COLUMNS), rows].sum(axis=1)


def _cost(rows):
    return rows.sum(axis=1)


class Counted:
    """A score that remembers every row it was asked for."""

    def __init__(self, score=_additive):
        self.score, self.rows = score, []

    def __call__(self, rows):
        self.rows += [row.tobytes() for row in rows]
        return self.score(rows)


def _search(score=_additive, feasible=None, settings=SMALL, seed=0, sample=_sample, canonical=lambda rows: rows):
    feasible = feasible or (lambda rows: np.ones(len(rows), dtype=bool))
    return evolve(sample, canonical, feasible, score, RADICES, settings, np.random.default_rng(seed))


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    first, again, other = (_search(settings=EvolutionSettings(20, 3), seed=seed) for seed in (0, 0, 1))
    assert (first.best == again.best).all()
    np.testing.assert_array_equal(first.history, again.history)
    assert first.scored == again.scored
    assert not np.array_equal(first.history, other.history)


def test_the_optimum_of_an_additive_score_is_found():
    found = _search(settings=EvolutionSettings(population=100, generations=60))
    assert found.best.tolist() == WEIGHT.argmax(axis=1).tolist()
    assert found.score == pytest.approx(WEIGHT.max(axis=1).sum())


def test_nothing_infeasible_is_ever_scored_or_returned():
    score = Counted()
    found = _search(score, lambda rows: _cost(rows) <= 12)
    assert max(_cost(np.frombuffer(row, dtype=np.int8)[None])[0] for row in score.rows) <= 12
    assert _cost(found.best[None])[0] <= 12
    assert found.score == _additive(found.best[None])[0]


def test_nothing_is_scored_twice():
    score = Counted()
    found = _search(score)
    assert len(score.rows) == len(set(score.rows)) == found.scored
    assert found.scored < SMALL.population * (SMALL.generations + 1)


@pytest.mark.parametrize("generations", [0, 1, 25])
def test_history_only_rises_and_ends_at_the_best(generations):
    found = _search(settings=EvolutionSettings(30, generations))
    assert found.history.shape == (generations + 1,)
    assert (np.diff(found.history) >= 0).all()
    assert found.history[-1] == found.score


def test_better_than_random_search_with_as_many_evaluations():
    """On a rugged score: neighbours on a ring of columns interact, so columns cannot be chosen one by one."""
    pair = np.random.default_rng(1).normal(size=(COLUMNS, VALUES, VALUES))

    def rugged(rows):
        return sum(pair[c, rows[:, c], rows[:, (c + 1) % COLUMNS]] for c in range(COLUMNS))

    wins = []
    for seed in range(10):
        found = _search(rugged, seed=seed)
        random = rugged(_sample(found.scored, np.random.default_rng([seed, 1]))).max()
        wins.append(found.score - random)
    assert min(wins) >= 0
    assert np.mean(wins) > 1.0


def test_equal_networks_are_one_candidate():
    """With a column that does not matter cleared by `canonical`, no two scored rows differ in it alone."""

    def canonical(rows):
        rows = rows.copy()
        rows[:, 0] = 0
        return rows

    score = Counted()
    _search(score, sample=lambda count, generator: canonical(_sample(count, generator)), canonical=canonical)
    assert {row[0] for row in score.rows} == {0}
    assert len(score.rows) == len(set(score.rows))


def test_a_single_feasible_encoding_is_enough():
    wanted = np.array([1, 2], dtype=np.int8)

    def sample(count, generator):
        return generator.integers(0, VALUES, size=(count, 2)).astype(np.int8)

    found = evolve(
        sample,
        lambda rows: rows,
        lambda rows: (rows == wanted).all(axis=1),
        _cost,
        np.array([VALUES, VALUES]),
        EvolutionSettings(8, 3),
        np.random.default_rng(0),
    )
    assert (found.best == wanted).all()
    assert found.scored == 1


def test_an_impossible_constraint_is_said_in_a_sentence():
    with pytest.raises(NoPath, match="no candidate meets the constraint") as caught:
        _search(feasible=lambda rows: np.zeros(len(rows), dtype=bool))
    assert "\n" not in str(caught.value)


def test_a_space_too_large_for_the_keys_is_refused():
    with pytest.raises(InputError, match=r"2\^63"):
        evolve(None, None, None, None, np.full(32, 4), SMALL, np.random.default_rng(0))


def test_keys_of_the_largest_space_are_distinct():
    """The paper's space with its stem elastic: rows of 29 columns, keyed exactly by 64-bit numbers."""
    space = OFAResNetSpace(elastic_stem=True)
    radices = np.array([max(choice) + 1 for choice in space.choices])
    score = Counted(lambda rows: rows.sum(axis=1))
    settings = dataclasses.replace(SMALL, population=500, generations=4)
    found = evolve(
        space.sample, space.canonical, lambda rows: np.ones(len(rows), bool), score, radices, settings,
        np.random.default_rng(0),
    )  # fmt: skip
    assert found.scored == len(set(score.rows)) == len(score.rows) > 1500


def test_children_that_nobody_has_scored_come_first():
    """Taking any children, a search of this length scores half as many: its parents soon resemble one another."""
    assert _search().scored > 0.5 * SMALL.population * (SMALL.generations + 1)
