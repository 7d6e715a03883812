"""Augmentation: boxes follow the pixels, and the fast route equals the slow one."""

import pytest
import torch
from torch import Tensor

from common.batch import IMAGE_MEAN, IMAGE_STD, normalise
from common.data.augment import Drawn, augment_boxes, augment_images, draw
from common.settings import Augmentation

SIZE, WIDE = 64, 80
NOTHING = Augmentation(flip=0.0, scale_min=1.0, scale_max=1.0, jitter=0.0, shift=0.0)
FLIP = Augmentation(flip=1.0, scale_min=1.0, scale_max=1.0, jitter=0.0, shift=0.0)


def _draw(augmentation: Augmentation, count: int, device, seed: int = 0) -> Drawn:
    return draw(augmentation, count, torch.Generator().manual_seed(seed)).to(device)


def _images(count: int, device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8).to(device)


def _whole(count: int, device) -> Tensor:
    return torch.full((count, 2), float(SIZE), device=device)


def test_doing_nothing_is_normalising_and_beyond_the_image_is_zero(device):
    images = _images(3, device)
    moved = augment_images(images, _whole(3, device), _draw(NOTHING, 3, device))
    torch.testing.assert_close(moved, normalise(images), atol=2e-4, rtol=0)
    out = Augmentation(flip=0.0, scale_min=1.3, scale_max=1.3, jitter=0.4, shift=0.0)
    moved = augment_images(torch.full_like(images, 255), _whole(3, device), _draw(out, 3, device))
    assert moved[:, :, 0, :].abs().max() == 0
    assert moved[:, :, SIZE // 2, SIZE // 2].abs().min() > 0.1


def test_flip_mirrors_the_content_and_twice_is_nothing(device):
    images = _images(2, device)
    images[:, :, :, 48:] = 0  # padding
    content = torch.tensor([[48.0, 64.0], [48.0, 64.0]], device=device)
    drawn = _draw(FLIP, 2, device)
    mirrored = augment_images(images, content, drawn)
    torch.testing.assert_close(mirrored[..., :48], normalise(images)[..., :48].flip(-1), atol=2e-4, rtol=0)

    boxes = torch.tensor([[[3.0, 5.0, 20.0, 30.0]], [[10.0, 0.0, 48.0, 64.0]]], device=device)
    valid = torch.ones(2, 1, dtype=torch.bool, device=device)
    once, kept = augment_boxes(boxes, valid, content, drawn, (SIZE, SIZE))
    expected = torch.tensor([[[28.0, 5.0, 45.0, 30.0]], [[0.0, 0.0, 38.0, 64.0]]], device=device)
    torch.testing.assert_close(once, expected)
    twice, kept = augment_boxes(once, kept, content, drawn, (SIZE, SIZE))
    torch.testing.assert_close(twice, boxes)
    assert kept.all()


def _naive_box(box: list[float], content: list[float], mirror: float, window: float, shift: list[float]):
    """One box in plain numbers; None where it is no target any more."""
    x0, y0, x1, y1 = box
    centre_x, centre_y = content[0] * (0.5 + shift[0]), content[1] * (0.5 + shift[1])
    xs = [mirror * (x - centre_x) / window + content[0] / 2 for x in (x0, x1)]
    ys = [(y - centre_y) / window + content[1] / 2 for y in (y0, y1)]
    left, right, top, bottom = min(xs), max(xs), min(ys), max(ys)
    whole = (right - left) * (bottom - top)
    left, right = (min(max(x, 0.0), WIDE) for x in (left, right))
    top, bottom = (min(max(y, 0.0), SIZE) for y in (top, bottom))
    if right - left < 1.0 or bottom - top < 1.0 or (right - left) * (bottom - top) < 0.2 * whole:
        return None
    return [left, top, right, bottom]


def test_boxes_equal_the_naive_reference(device):
    B, G = 40, 8
    generator = torch.Generator().manual_seed(3)
    low = torch.rand(B, G, 2, generator=generator) * 44
    boxes = torch.cat([low, low + 0.5 + 16 * torch.rand(B, G, 2, generator=generator)], dim=2)
    valid = torch.rand(B, G, generator=generator) < 0.8
    content = 40 + torch.tensor([WIDE - 40, SIZE - 40]) * torch.rand(B, 2, generator=generator)
    drawn = draw(Augmentation(), B, generator)
    moved, kept = augment_boxes(boxes.to(device), valid.to(device), content.to(device), drawn.to(device), (SIZE, WIDE))
    lost = 0
    for image in range(B):
        for slot in range(G):
            expected = None
            if valid[image, slot]:
                expected = _naive_box(
                    boxes[image, slot].tolist(),
                    content[image].tolist(),
                    drawn.mirror[image].item(),
                    drawn.window[image].item(),
                    drawn.shift[image].tolist(),
                )
                lost += expected is None
            assert bool(kept[image, slot]) == (expected is not None)
            torch.testing.assert_close(moved[image, slot].cpu(), torch.tensor(expected or [0.0] * 4), atol=1e-4, rtol=0)
    assert 0 < lost < B * G / 2  # the rule was put to the test, in both directions


def test_boxes_cover_the_painted_object(device):
    B = 32
    images = torch.zeros(B, 3, SIZE, WIDE, dtype=torch.uint8, device=device)
    images[:, :, 22:37, 25:45] = 255
    boxes = torch.tensor([25.0, 22.0, 45.0, 37.0], device=device).repeat(B, 1, 1)
    valid = torch.ones(B, 1, dtype=torch.bool, device=device)
    content = torch.tensor([72.0, 52.0], device=device).repeat(B, 1)
    augmentation = Augmentation(jitter=0.0)
    drawn = _draw(augmentation, B, device)
    moved = augment_images(images, content, drawn)
    boxes, valid = augment_boxes(boxes, valid, content, drawn, (SIZE, WIDE))
    assert valid.any()
    middle = (0.5 - IMAGE_MEAN[0]) / IMAGE_STD[0]
    for image in range(B):
        bright = moved[image, 0] > middle
        if not valid[image]:
            continue
        rows, columns = bright.any(dim=1).nonzero(), bright.any(dim=0).nonzero()
        painted = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).flatten().float()
        assert (painted - boxes[image, 0]).abs().max() <= 1.5


def test_colour_jitter_equals_three_steps_on_one_image(device):
    B = 4
    images = _images(B, device)
    drawn = _draw(Augmentation(flip=0.0, scale_min=1.0, scale_max=1.0, shift=0.0, jitter=0.4), B, device)
    moved = augment_images(images, _whole(B, device), drawn)
    weights = torch.tensor([0.299, 0.587, 0.114], device=device).view(3, 1, 1)
    for image in range(B):
        brightness, contrast, saturation = drawn.colour[image]
        pixels = images[image].float() / 255
        pixels = pixels * brightness
        pixels = contrast * pixels + (1 - contrast) * (pixels * weights).sum(dim=0).mean()
        pixels = saturation * pixels + (1 - saturation) * (pixels * weights).sum(dim=0)
        expected = normalise(255 * pixels[None])[0]
        torch.testing.assert_close(moved[image], expected, atol=1e-3, rtol=0)
    assert (drawn.colour - 1).abs().max() <= 0.4
    assert drawn.colour.std() > 0.1


def test_draws_stay_in_their_ranges_and_follow_the_generator():
    drawn = _draw(Augmentation(), 4000, "cpu")
    assert 0.6 <= drawn.window.min() < 0.61
    assert 1.29 < drawn.window.max() <= 1.3
    assert drawn.shift.abs().max() <= 0.25
    assert (drawn.mirror == -1).float().mean() == pytest.approx(0.5, abs=0.04)
    again, other = _draw(Augmentation(), 4000, "cpu"), _draw(Augmentation(), 4000, "cpu", seed=1)
    assert torch.equal(again.window, drawn.window)
    assert not torch.equal(other.window, drawn.window)
