"""Once-for-All's space: paths and their names, costs against networks built and counted, the evolutionary search."""

import dataclasses
import json
import zlib

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from common.models.ofa_resnet import ResNet
from common.plain import InputError, from_json, to_json
from detofa import space as module
from detofa.presets import PRESETS
from detofa.space import CostTable, EvolutionSettings, NoPath, OFAResNetSpace, evolve
from tests.detofa.tiny_space import EVERY_PATH, TINY, list_paths

PAPER = OFAResNetSpace()
ELASTIC_STEM = OFAResNetSpace(elastic_stem=True)
THIN = OFAResNetSpace(
    (1, 1, 2, 1), stage_widths=(16, 24, 32, 48), stem_width=16, channel_multiple=4, stage_strides=(1, 2, 1, 1)
)
UNEVEN = dataclasses.replace(THIN, stage_strides=(1, 2, 2, 2), elastic_stem=True)

# ---- paths


def test_widths_and_sizes_of_the_paper_space():
    widths = [[PAPER.stage_width(stage, width) for width in range(3)] for stage in range(4)]
    assert widths == [[168, 208, 256], [336, 408, 512], [664, 816, 1024], [1328, 1640, 2048]]
    assert [PAPER.stem_middle(width) for width in range(3)] == [24, 24, 32]
    assert [PAPER.stem_out(width) for width in range(3)] == [40, 48, 64]
    assert PAPER.middle_width(0, 2, 2) == 88
    assert PAPER.size() == 351**3 * 3159 == 136_606_377_609
    assert ELASTIC_STEM.size() == 2 * 2 * 3 * PAPER.size(), "two of the stem's inner widths are equal"
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


@pytest.mark.parametrize("multiple", [1, 2, 3, 4])
def test_the_size_is_that_of_different_networks(multiple):
    """Rounding makes some choices equal: every path's network is listed, and equal ones count once."""
    few = {"widths": (0.5, 0.6), "expands": (0.25, 0.4), "depths": (0,), "base_depths": (1, 1, 1, 2)}
    space = dataclasses.replace(TINY, channel_multiple=multiple, elastic_stem=True, **few)
    paths = list_paths(space)
    networks = {space.architecture(path) for path in paths}
    assert space.size() == len(networks)
    assert (space.twins() is None) == (len(networks) == len(paths))


@pytest.mark.parametrize("space", [PAPER, UNEVEN, TINY])
def test_samples_cover_every_choice_and_their_names_lead_back(space):
    paths = space.sample(2000, np.random.default_rng(0))
    assert paths.dtype == np.int8
    assert paths.shape == (2000, len(space.columns))
    assert (space.canonical(paths) == paths).all()
    for column, allowed in zip(paths.T, space.choices, strict=True):
        assert set(column.tolist()) == set(allowed)
    assert (space.sample(2000, np.random.default_rng(0)) == paths).all()
    keys = [space.key(path) for path in paths]
    assert (np.stack([space.from_key(key) for key in keys]) == paths).all()
    assert len(set(keys)) == len(np.unique(paths, axis=0))
    assert space.from_key(keys[0]).dtype == np.int8
    assert from_json(OFAResNetSpace, json.loads(json.dumps(to_json(space)))) == space


def test_depth_drops_the_last_layers():
    path = PAPER.largest()
    path[PAPER.depth_columns] = [0, 1, 2, 0]
    active = PAPER.active_layers(path)
    assert active.astype(int).tolist() == [1, 1, 0, 0, *[1, 1, 1, 0], *[1] * 6, *[1, 1, 0, 0]]
    assert PAPER.canonical(path)[PAPER.expand_columns].tolist() == [2 * int(kept) for kept in active]
    assert PAPER.active_layers(path[None]).shape == (1, 18)


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
        ({"channel_multiple": 0}, "channel_multiple, stem_width and stage_widths must be at least 1"),
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
def test_tables_equal_counting_each_network(space, monkeypatch):
    size = (226, 165)  # odd after some halvings
    paths = np.stack([*space.sample(3, np.random.default_rng(0)), space.smallest(), space.largest()])
    counted = np.array([_counted(space, path, size) for path in paths])
    for largest_table in (module.LARGEST_TABLE, 1):
        monkeypatch.setattr(module, "LARGEST_TABLE", largest_table)
        macs, params = CostTable.macs(space, size), CostTable.params(space)
        assert macs(paths).dtype == np.int64
        assert (macs(paths) == counted[:, 0]).all()
        assert (params(paths) == counted[:, 1]).all()
        assert params.range() == (counted[-2, 1], counted[-1, 1])


def test_the_papers_range():
    """7.49 G at most, 0.96 G at least at 224; 39.1 / 5.0 at 512 (the stem elastic)."""
    for size, expected in [(224, (0.96, 7.49)), (512, (5.02, 39.13))]:
        table = CostTable.macs(ELASTIC_STEM, size)
        assert np.round(np.array(table.range()) / 1e9, 2).tolist() == list(expected)
        costs = table(ELASTIC_STEM.sample(5000, np.random.default_rng(0)))
        assert table.range()[0] < costs.min() < costs.max() < table.range()[1]


def _unordered(shape):
    return np.random.default_rng(zlib.crc32(str(shape).encode())).random()


@pytest.mark.parametrize("largest_table", [module.LARGEST_TABLE, 1])
@pytest.mark.parametrize("space", [TINY, dataclasses.replace(TINY, expands=(0.5,), elastic_stem=True)])
def test_the_range_is_that_of_all_paths_whatever_a_block_costs(space, largest_table, monkeypatch):
    """Milliseconds need not rise with channels: here those of a block have nothing to do with them."""
    monkeypatch.setattr(module, "LARGEST_TABLE", largest_table)
    paths = list_paths(space)
    table, paths = CostTable(space, _unordered, 64), list_paths(space)
    costs = table(paths)
    assert table.range() == pytest.approx((costs.min(), costs.max()), rel=1e-12)
    assert costs.min() < table(space.smallest()[None])[0]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_operations_and_parameters_rise_with_every_choice(preset):
    ends = np.stack([preset.space.smallest(), preset.space.largest()])
    for table in (CostTable.macs(preset.space, preset.image_size), CostTable.params(preset.space)):
        assert table.range() == tuple(table(ends).tolist())


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
        self.rows += rows.tolist()
        return self.score(rows)


def _search(score=_additive, feasible=None, settings=SMALL, seed=0, sample=_sample, canonical=lambda rows: rows):
    feasible = feasible or (lambda rows: np.ones(len(rows), dtype=bool))
    return evolve(sample, canonical, feasible, score, RADICES, settings, np.random.default_rng(seed))


def test_the_same_seed_gives_the_same_search_and_another_seed_another():
    first, again, other = (_search(settings=EvolutionSettings(20, 3), seed=seed) for seed in (0, 0, 1))
    assert (first.best.tolist(), first.score) == (again.best.tolist(), again.score)
    assert first.best.tolist() != other.best.tolist()


def test_the_optimum_of_an_additive_score_is_found():
    found = _search(settings=EvolutionSettings(population=100, generations=60))
    assert found.best.tolist() == WEIGHT.argmax(axis=1).tolist()
    assert found.score == pytest.approx(WEIGHT.max(axis=1).sum())


@pytest.mark.parametrize("generations", [0, 1, SMALL.generations])
def test_only_feasible_rows_are_scored_none_twice_and_the_best_is_kept(generations):
    score = Counted()
    found = _search(score, lambda rows: _cost(rows) <= 12, EvolutionSettings(SMALL.population, generations))
    scored = np.array(score.rows)
    assert _cost(scored).max() <= 12
    assert len(np.unique(scored, axis=0)) == len(scored) == found.scored <= SMALL.population * (generations + 1)
    assert found.score == _additive(found.best[None])[0] == _additive(scored).max()


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
    score = Counted()
    _search(score, canonical=lambda rows: np.where(np.arange(COLUMNS) == 0, 0, rows).astype(np.int8))
    assert {row[0] for row in score.rows} == {0}
    assert len(set(map(tuple, score.rows))) == len(score.rows)


def test_a_single_feasible_encoding_is_enough():
    wanted = np.array([1, 2], dtype=np.int8)
    found = evolve(
        lambda count, generator: _sample(count, generator)[:, :2],
        lambda rows: rows,
        lambda rows: (rows == wanted).all(axis=1),
        _cost,
        RADICES[:2],
        EvolutionSettings(8, 3),
        np.random.default_rng(0),
    )
    assert (found.best == wanted).all()
    assert found.scored == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"population": 0}, "population must be at least 1, got 0"),
        ({"mutation_share": 1.5}, "mutation_share must be between 0 and 1, got 1.5"),
        ({"mutation_share": -0.5}, "mutation_share must be between 0 and 1, got -0.5"),
    ],
)
def test_evolutions_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(InputError, match=said):
        EvolutionSettings(**wrong)


def test_impossible_searches_are_refused_in_a_sentence():
    with pytest.raises(NoPath, match="no candidate meets the constraint") as caught:
        _search(feasible=lambda rows: np.zeros(len(rows), dtype=bool))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"2\^63"):
        evolve(None, None, None, None, np.full(32, 4), SMALL, np.random.default_rng(0))


def test_keys_of_the_largest_space_are_distinct():
    """The paper's space with its stem elastic: rows of 29 columns, keyed exactly by 64-bit numbers."""
    space, score = ELASTIC_STEM, Counted(_cost)
    radices = np.array([max(choice) + 1 for choice in space.choices])
    settings = dataclasses.replace(SMALL, population=500, generations=4)
    every = lambda rows: np.ones(len(rows), dtype=bool)  # noqa: E731
    found = evolve(space.sample, space.canonical, every, score, radices, settings, np.random.default_rng(0))
    assert found.scored == len(set(map(tuple, score.rows))) == len(score.rows) > 1500


def test_children_that_nobody_has_scored_come_first():
    """Taking any children, a search of this length scores half as many: its parents soon resemble one another."""
    assert _search().scored > 0.5 * SMALL.population * (SMALL.generations + 1)
