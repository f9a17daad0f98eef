"""Every published format on files in exactly that format: values, camera, holes, damage."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dart.data.dataset import Sample, collate
from dart.data.sets import open_dataset
from dart.data.sets.base import DepthDataset
from dart.errors import UserError
from tests.helpers.set_files import NORMAL, Published, picture, pixel_grid
from tests.helpers.set_writers import WRITERS


@pytest.fixture(scope="module", params=list(WRITERS))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def published(case: str, tmp_path_factory: pytest.TempPathFactory) -> Published:
    return WRITERS[case][1](tmp_path_factory.mktemp(case))


def open_case(case: str, published: Published) -> DepthDataset:
    return open_dataset(published.root, WRITERS[case][0], **published.options)


@pytest.fixture(scope="module")
def sample(case: str, published: Published) -> Sample:
    return open_case(case, published)[0]


def expected_distance(published: Published) -> np.ndarray:
    """Return the distance along the ray by hand."""
    known = published.stored > 0
    cosine = np.where(known, published.rays[..., 2], 1)
    return published.stored / cosine if published.convention == "z" else published.stored


def test_frames_are_listed(case: str, published: Published) -> None:
    dataset = open_case(case, published)
    assert tuple(entry.key for entry in dataset.entries) == published.listed
    assert dataset.skipped == ()


def test_values_are_metres_along_the_ray(published: Published, sample: Sample) -> None:
    known = torch.from_numpy(published.stored > 0)
    wanted = torch.from_numpy(expected_distance(published)).float()
    torch.testing.assert_close(sample.distance[known], wanted[known], rtol=2e-6, atol=0)


def test_holes_never_count(published: Published, sample: Sample) -> None:
    assert (published.stored == 0).any()
    assert torch.equal(sample.valid, torch.from_numpy(published.stored > 0))
    assert not sample.distance[~sample.valid].any()
    assert sample.valid.float().mean() > 0.2


def test_camera_is_the_formats(published: Published, sample: Sample) -> None:
    camera = sample.camera.to(dtype=torch.float64)
    known = np.isfinite(published.rays).all(-1)
    pixels, seen = camera.project(torch.from_numpy(published.rays[known]))
    u, v = pixel_grid(camera.size)
    centres = np.stack([u, v], axis=-1)[known] + 0.5
    assert seen.all()
    # Parameters are kept in float32, which is a ten-thousandth of a pixel.
    np.testing.assert_allclose(pixels.numpy(), centres, rtol=0, atol=1e-4)
    assert (camera.valid().numpy() >= (published.stored > 0)).all()


def test_a_tilted_plane_stays_a_plane(published: Published, sample: Sample) -> None:
    points = sample.camera.to(dtype=torch.float64).rays() * sample.distance[..., None]
    residual = (points @ torch.from_numpy(NORMAL) - published.plane)[sample.valid].abs()
    cosine = sample.camera.rays()[..., 2][sample.valid].min().item()
    stretch = 1 / cosine if published.convention == "z" else 1.0
    assert residual.max() < published.quantum / 2 * stretch + 1e-5


def test_picture_is_rgb(published: Published, sample: Sample) -> None:
    wanted = torch.from_numpy(picture(published.stored.shape).transpose(2, 0, 1)) / 255
    lossless = published.image_file.suffix != ".jpg" and published.image_file.suffix != ".JPG"
    tolerance = 1e-6 if lossless else 0.06
    shifted = "2011_09_26" in published.image_file.as_posix()
    if shifted:
        full = torch.from_numpy(picture((375, 1242)).transpose(2, 0, 1)) / 255
        wanted = full[:, 23:375, 13:1229]
    torch.testing.assert_close(sample.image, wanted, rtol=0, atol=tolerance)


@pytest.fixture
def damaged(published: Published) -> Iterator[Path]:
    """Hand out the depth file, and restore what a test does to it."""
    content = published.depth_file.read_bytes()
    yield published.depth_file
    published.depth_file.write_bytes(content)


def test_truncated_file_is_named(case: str, published: Published, damaged: Path) -> None:
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 3])
    with pytest.raises(UserError, match=damaged.name):
        open_case(case, published)[0]


def test_missing_file_is_named(case: str, published: Published, damaged: Path) -> None:
    damaged.unlink()
    with pytest.raises(UserError, match=damaged.name):
        open_case(case, published)


def test_pickles_for_spawned_workers(case: str, published: Published) -> None:
    dataset = open_case(case, published)
    first = dataset[0]
    again = pickle.loads(pickle.dumps(dataset))[0]
    assert torch.equal(first.distance, again.distance)


@pytest.mark.parametrize("name", ["nyuv2_labelled"])
def test_two_workers_read_one_hdf5_file(name: str, tmp_path: Path) -> None:
    published = WRITERS[name][1](tmp_path)
    dataset = open_dataset(tmp_path, name)
    # Read once in this process: an open handle would be inherited by the workers.
    alone = [dataset[number] for number in range(len(dataset))]
    loader = DataLoader(cast(Any, dataset), batch_size=1, num_workers=2, collate_fn=collate)
    for wanted, batch in zip(alone, loader, strict=True):
        assert batch.keys == (wanted.key,)
        assert torch.equal(batch.distance[0], wanted.distance)
    assert published.listed == tuple(sample.key for sample in alone)
