"""How architectures are written: structures and codes to text and back, what is illegal, standard networks as codes."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.mobilenetv2 import InvertedResidual

from common.cost import count
from common.models.outline import outline
from common.plain import InputError
from sm_nas.encoding import BLOCKS, STANDARD_STAGES, BackboneCode, Structure
from sm_nas.method import Group, ModularSpace, StructuralSpace
from sm_nas.networks import EncodedBackbone

DETECTOR = Structure("resnet34", (800, 600), (2, 5), 256, "rpn", 1)

# ---- structures


def test_a_structure_comes_back_from_its_text():
    generator = np.random.default_rng(1)
    one = [StructuralSpace().sample(generator) for _ in range(300)]
    two = [Group(ModularSpace(), DETECTOR).sample(generator) for _ in range(100)]
    extra = Structure("Xbottleneck_56_21-21-111-2111", (1333, 800), (1, 5), 256, "ga-rpn", 3, pooled=False)
    assert str(extra) == "Xbottleneck_56_21-21-111-2111 1333x800 P1-P5 c256+conv ga-rpn cascade3"
    texts = [str(structure) for structure in (*one, *two, extra)]
    assert [Structure.parse(text) for text in texts] == [*one, *two, extra]
    assert len(set(texts)) == len({*one, *two, extra})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a structure: write it as"),
        ("resnet50 800x600 P2-P5 c256 rpn", "is not a structure: write it as"),
        ("resnet50 800x600 P2-P5 c256 rpn cascade5", "is not a structure: write it as"),
        ("resnet50 800x600 no-fpn+conv rpn 2fc", "is not a structure: write it as"),
        ("resnet50 800x600 P2-P5 rpn 2fc", "is not a structure: write it as"),
        ("resnet51 800x600 P2-P5 c256 rpn 2fc", "the backbone must be a standard one .* or a code, got 'resnet51'"),
        ("basicblock_64_1-1-1-1 800x600 P2-P5 c256 rpn 2fc", "must double 3 times"),
        ("basicblock_64_11-21 800x600 P1-P3 c256 rpn 2fc", "its FPN or head reads 3 stages, and the backbone"),
        ("resnet50 0x600 P2-P5 c256 rpn 2fc", "the size must have at least one pixel a side, got 0x600"),
        ("resnet50 800x600 P2-P5 c0 rpn 2fc", "the FPN must have at least 1 channel, got 0"),
        ("resnet50 800x600 P5-P6 c256 rpn 2fc", "from one of P1 to P4 to a later level up to P6, got P5-P6"),
        ("resnet50 800x600 P3-P3 c256 rpn 2fc", "to a later level up to P6, got P3-P3"),
        ("resnet50 800x600 P3-P7 c256 rpn 2fc", "to a later level up to P6, got P3-P7"),
        ("resnet50 800x600 P2-P5 c256 2fc", "a one-stage detector .* has no RPN, and every other one has an RPN"),
        ("resnet50 800x600 P2-P5 c256 rpn retinanet", "a one-stage detector .* has no RPN"),
    ],
)
def test_an_illegal_structure_is_one_sentence(text, said):
    with pytest.raises(InputError, match=said) as raised:
        Structure.parse(text)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"levels": None}, "levels and a width must both be given for an FPN, got "),
        ({"neck_width": None}, "levels and a width must both be given for an FPN, got "),
        ({"levels": None, "neck_width": None, "pooled": False}, "only an FPN has levels past the backbone"),
        ({"rpn": "spn"}, "the RPN must be one of rpn, ga-rpn, got 'spn'"),
        ({"heads": 5}, "heads must be 0 to 4, got 5"),
    ],
)
def test_parts_that_do_not_go_together(parts, said):
    with pytest.raises(InputError, match=said):
        Structure(**{**vars(DETECTOR), **parts})


def test_the_canvas_is_the_size_in_whole_strides():
    assert Structure("resnet18", (800, 600), None, None, "rpn", 1).input_size == (800, 608)
    assert Structure("resnet18", (1333, 800), None, None, "rpn", 1).input_size == (1344, 800)
    assert Structure("resnet18", (32, 1), None, None, "rpn", 1).input_size == (32, 32)


def test_the_block_setting_of_a_structure():
    assert DETECTOR.block == "basicblock"
    assert Structure("Xbottleneck_12_2-2-2-11", (8, 8), None, None, "rpn", 1).block == "Xbottleneck"


# ---- codes


@st.composite
def codes(draw) -> BackboneCode:
    blocks = draw(st.integers(5, 35))
    doubled = draw(st.sets(st.integers(0, blocks - 1), min_size=3, max_size=3))
    cuts = sorted(draw(st.sets(st.integers(1, blocks - 1), min_size=3, max_size=3)))
    digits = "".join("2" if place in doubled else "1" for place in range(blocks))
    stages = tuple(digits[a:b] for a, b in itertools.pairwise([0, *cuts, blocks]))
    return BackboneCode(draw(st.sampled_from(BLOCKS)), 2 * draw(st.integers(1, 64)), stages)


@settings(max_examples=200, deadline=None)
@given(code=codes())
def test_a_code_comes_back_from_its_text_and_says_its_widths(code):
    assert BackboneCode.parse(str(code)) == code
    width, widths, doublings = code.base, [], []
    for digit in str(code).rpartition("_")[2].replace("-", ""):
        if digit == "2":
            width *= 2
            doublings.append(len(widths))
        widths.append(width)
    assert code.widths == tuple(widths)
    assert code.doublings == tuple(doublings)
    assert code.blocks == len(widths)


def test_the_papers_own_example():
    code = BackboneCode.parse("basicblock_54_1211-211-1111-12111")
    assert code.block == "basicblock"
    assert code.stages == ("1211", "211", "1111", "12111")
    assert code.widths == (54, *[108] * 3, *[216] * 3, *[216] * 4, 216, *[432] * 4)
    assert code.doublings == (1, 4, 12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("basicblock_64", "write block, base channels and stages with _ between them"),
        ("basicblock_x_11-21-21-21", "write block, base channels and stages with _ between them"),
        ("basicblock_64_11_21-21-21", "write block, base channels and stages with _ between them"),
        (
            "ghostblock_64_11-21-21-21",
            "the block must be one of basicblock, bottleneck, Xbottleneck, MBblock, got 'ghostblock'",
        ),
        ("basicblock_63_11-21-21-21", "the base channels must be an even number, got 63"),
        ("basicblock_0_11-21-21-21", "the base channels must be an even number, got 0"),
        ("basicblock_64_11-21-31-21", "a block must be written as 1 or 2, got"),
        ("basicblock_64_112121", "there must be 4 stages with - between them, none empty"),
        ("basicblock_64_11-21-21-21-1", "there must be 4 stages with - between them, none empty"),
        ("basicblock_64_1121--21-21", "there must be 4 stages with - between them, none empty"),
        ("basicblock_64_11-21-21-11", "must double 3 times, got 2 digits 2"),
        ("basicblock_64_12-21-21-21", "must double 3 times, got 4 digits 2"),
        ("basicblock_64_12-2221", "must double 3 times, got 4 digits 2"),
        ("basicblock_64_1-2-2-2", "5 to 35 blocks, got 4"),
        (f"basicblock_64_{'1' * 30}-21-21-21", "5 to 35 blocks, got 36"),
    ],
)
def test_an_illegal_code_is_one_sentence(text, said):
    with pytest.raises(InputError, match=said) as raised:
        BackboneCode.parse(text)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("backbone", [name for name in STANDARD_STAGES if name != "mobilenet_v2"])
def test_standard_resnets_in_the_codes_own_words(backbone):
    code = BackboneCode.standard(backbone, 64)
    with outline():
        network = torchvision.models.get_model(backbone.replace("101_32x4d", "101_32x8d"))  # as deep
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    assert [len(stage) for stage in code.stages] == [len(stage) for stage in stages]
    kinds = {"basicblock": "BasicBlock", "bottleneck": "Bottleneck", "Xbottleneck": "Bottleneck"}
    assert type(stages[0][0]).__name__ == kinds[code.block]
    assert (stages[0][0].conv2.groups > 1) == (code.block == "Xbottleneck")
    assert all(stage.startswith("2") for stage in code.stages[1:])


def test_mobilenet_in_the_codes_own_words():
    code, stride, depth = BackboneCode.standard("mobilenet_v2", 64), 2, Counter()
    with outline():
        network = torchvision.models.mobilenet_v2()
    for layer in network.features:
        if isinstance(layer, InvertedResidual):
            stride *= layer.stride
            depth[stride] += 1
    assert [len(stage) for stage in code.stages] == [depth[stride] for stride in (4, 8, 16, 32)]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("base", [12, 48, 98])
@pytest.mark.parametrize("stages", ["12-1-2111-21", "2-112-1-2", "11-21-21-21", "1112-11-22-1"])
def test_the_closed_form_counts_what_the_counter_counts(block, base, stages):
    code = BackboneCode.parse(f"{block}_{base}_{stages}")
    with outline():
        network = EncodedBackbone(code)
    assert code.macs((128, 96)) == count(network, (128, 96)).macs
