from collections import Counter

import pytest
import torch

from dart.cameras import Pinhole
from dart.data.dataset import Sample
from dart.data.transforms import change_colour, flip
from dart.seeds import derive_seed
from dart.training.batches import Augmentation, Batches, batch_indices


def make_sample(index: int) -> Sample:
    generator = torch.Generator().manual_seed(index)
    distance = torch.rand(4, 6, generator=generator) + 1
    valid = torch.rand(4, 6, generator=generator) < 0.8
    valid[0, 0] = True
    return Sample(
        image=torch.rand(3, 4, 6, generator=generator),
        distance=distance * valid,
        valid=valid,
        camera=Pinhole(params=torch.tensor([5.0, 5.0, 2.0, 2.0]), size=(4, 6)),
        key=f"frame-{index}",
        scene=index,
    )


def test_every_epoch_sees_every_sample_once() -> None:
    drawn = [i for s in range(14) for i in batch_indices(7, batch_size=3, seed=5, step=s)]
    for epoch in range(6):
        assert sorted(drawn[epoch * 7 : (epoch + 1) * 7]) == list(range(7))
    assert drawn[:7] != drawn[7:14]


def test_a_batch_larger_than_the_data_is_fair() -> None:
    counts = Counter(batch_indices(3, batch_size=9, seed=0, step=2))
    assert counts == {0: 3, 1: 3, 2: 3}


def test_order_depends_on_the_seed_alone() -> None:
    first = [batch_indices(50, batch_size=8, seed=0, step=s) for s in range(5)]
    assert first == [batch_indices(50, batch_size=8, seed=0, step=s) for s in range(5)]
    assert first != [batch_indices(50, batch_size=8, seed=1, step=s) for s in range(5)]


def test_an_empty_data_set_raises() -> None:
    with pytest.raises(ValueError, match="empty data set"):
        batch_indices(0, batch_size=1, seed=0, step=0)


def test_flipping_twice_changes_nothing_and_rays_follow_the_pixels() -> None:
    sample = make_sample(0)
    mirrored, again = flip(sample), flip(flip(sample))
    assert torch.equal(again.image, sample.image)
    assert torch.equal(again.distance, sample.distance)
    assert torch.allclose(again.camera.rays(), sample.camera.rays())
    # the world mirrored in x: the ray of a mirrored pixel is the mirrored ray of the pixel
    expected = sample.camera.rays().flip(-2) * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(mirrored.camera.rays(), expected, atol=1e-6)


def test_augmentation_is_a_function_of_seed_and_step() -> None:
    data = [make_sample(i) for i in range(6)]
    draw = lambda seed, step: Batches(data, 4, Augmentation(True, 0.5), seed).draw(step)  # noqa: E731
    assert torch.equal(draw(0, 3).image, draw(0, 3).image)
    assert not torch.equal(draw(0, 3).image, draw(1, 3).image)
    plain = Batches(data, 4, Augmentation(False, 0.0), 0).draw(3)
    for image, key in zip(plain.image, plain.keys, strict=True):
        assert torch.equal(image, data[int(key.split("-")[1])].image)
    # keys do not depend on augmentation: variants and settings see the same images
    assert draw(0, 3).keys == plain.keys


def test_half_of_the_images_are_mirrored() -> None:
    data = [make_sample(0)]
    drawn = Batches(data, 400, Augmentation(True, 0.0), 0).draw(0)
    mirrored = sum(torch.equal(image, data[0].image.flip(-1)) for image in drawn.image)
    assert 150 < mirrored < 250


def test_colour_keeps_range_and_zero_strength_is_the_identity() -> None:
    image = make_sample(0).image
    changed = change_colour(image, strength=1.0, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(changed, image)
    assert changed.min() >= 0
    assert changed.max() <= 1
    same = change_colour(image, strength=0.0, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(same, image, atol=1e-6)


def test_streams_do_not_depend_on_each_other() -> None:
    seeds = {derive_seed(s, name) for s in range(20) for name in ("init", "order", "augmentation")}
    assert len(seeds) == 60
