import time
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from afictl.data import eval_batches, load_dataset, loader, train_batches
from afictl.data.sampler import batches_of
from afictl.errors import UserError
from afictl.presets import InputConfig

CONFIG = InputConfig(min_sizes=(64, 80), max_size=160, test_size=72)


@pytest.fixture
def dataset(shapes_dir):
    return load_dataset(shapes_dir, "train")


def take(number, *args, **kwargs):
    return list(islice(train_batches(*args, **kwargs), number))


def assert_same(batch, expected):
    assert batch.image_ids == expected.image_ids
    pairs = [(batch.images, expected.images), (batch.half_images or [], expected.half_images or [])]
    for first, second in pairs:
        assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    targets = (
        [*batch.targets, *(batch.half_targets or [])],
        [*expected.targets, *(expected.half_targets or [])],
    )
    for first, second in zip(*targets, strict=True):
        assert first.keys() == second.keys()
        assert all(torch.as_tensor(first[k]).equal(torch.as_tensor(second[k])) for k in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_batch_depends_on_seed_and_step_alone(dataset, workers):
    options = {"seed": 5, "half_view": True, "masks": True}
    batches = take(8, dataset, CONFIG, 4, workers=0, **options)
    later = take(3, dataset, CONFIG, 4, workers=workers, start_step=5, **options)
    for batch, expected in zip(batches[5:], later, strict=True):
        assert_same(batch, expected)
    other_seed = take(1, dataset, CONFIG, 4, workers=0, seed=6)
    assert other_seed[0].image_ids != batches[0].image_ids


def test_prefetching_does_not_overwrite_the_batch_in_use(dataset):
    samples = loader._Samples(partial(loader._train_sample, dataset, np.zeros(0), CONFIG, True, True))
    requests = list(islice(batches_of(range(len(dataset)), [0] * len(dataset), 4, seed=3), 9))
    batches, expected_batches = (
        loader._sample_lists(samples, requests, workers, dataset.image_path) for workers in (1, 0)
    )
    for batch, expected_batch in zip(batches, expected_batches, strict=True):
        time.sleep(0.1)  # time to prefetch
        for sample, expected in zip(batch, expected_batch, strict=True):
            assert sample["image"].equal(expected["image"])
            assert sample["half_image"].equal(expected["half_image"])


@pytest.mark.parametrize("config", [CONFIG, None])
def test_evaluation_batches_without_resizing_stay_valid(dataset, config):
    expected_batches, batches = (list(eval_batches(dataset, config, 1, workers=workers)) for workers in (0, 1))
    for batch, expected in zip(expected_batches, batches, strict=True):
        assert batch.image_ids == expected.image_ids
        assert batch.images[0].equal(expected.images[0])


def test_batches_of_ranks_make_up_the_whole_batch(dataset):
    whole = take(3, dataset, CONFIG, 4, seed=1, workers=0)
    parts = [take(3, dataset, CONFIG, 4, seed=1, workers=0, rank=rank, world_size=2) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert batch.image_ids == first.image_ids + second.image_ids
        images = first.images + second.images
        assert all(a.equal(b) for a, b in zip(batch.images, images, strict=True))


def test_reading_does_not_change_the_global_random_state(dataset):
    state = torch.get_rng_state()
    take(2, dataset, CONFIG, 2, seed=0, workers=1)
    assert torch.get_rng_state().equal(state)


def test_every_image_occurs_equally_often(dataset):
    batches = take(7 * 5, dataset, CONFIG, 2, seed=0, workers=0)
    counts = np.unique([image_id for batch in batches for image_id in batch.image_ids], return_counts=True)[1]
    assert counts.tolist() == [5] * len(dataset)


def test_batches_do_not_mix_landscape_and_portrait_and_include_every_image(write_coco):
    shapes = [{"width": 64, "height": 48}] * 5 + [{"width": 48, "height": 64}] * 2
    data = write_coco([{"image_id": k + 1} for k in range(7)], images=shapes)
    batches = take(30, load_dataset(data, "train"), CONFIG, 4, seed=0, workers=0)
    for batch in batches:
        assert len({image.shape[1] > image.shape[2] for image in batch.images}) == 1
    counts = np.unique([image_id for batch in batches for image_id in batch.image_ids], return_counts=True)[1]
    assert len(counts) == 7
    assert counts.max() - counts.min() <= 4


def test_full_and_half_view_agree(dataset):
    flips = set()
    for batch in take(4, dataset, CONFIG, 4, seed=2, workers=0, half_view=True, masks=True):
        samples = zip(batch.images, batch.targets, batch.half_images, batch.half_targets, strict=True)
        for image, target, half, half_target in samples:
            assert half.shape[1:] == (image.shape[1] // 2, image.shape[2] // 2)
            difference = (F.avg_pool2d(image, 2) - half).abs().mean()
            assert difference < (F.avg_pool2d(image, 2) - half.flip(-1)).abs().mean() / 2
            torch.testing.assert_close(half_target["boxes"], target["boxes"] / 2)
            assert half_target["labels"].equal(target["labels"])
            assert "masks" not in target
            assert half_target["masks"].shape == (len(target["boxes"]), *half.shape[1:])
            i = dataset.image_ids.index(target["image_id"])
            original = dataset.training_objects(i).boxes * (image.shape[2] / 96)
            flips.add(not torch.allclose(original, target["boxes"]))
    assert flips == {True, False}


def test_targets_follow_torchvisions_convention(dataset):
    (batch,) = take(1, dataset, CONFIG, 2, seed=0, workers=0, masks=True)
    for image, target in zip(batch.images, batch.targets, strict=True):
        assert image.dtype == torch.float32
        assert 0 <= image.min() < image.max() <= 1
        assert image.is_contiguous()
        assert target["labels"].dtype == torch.int64
        assert target["masks"].dtype == torch.uint8
        assert set(target["labels"].tolist()) <= {1, 2, 3, 4}
        x1, y1, x2, y2 = target["boxes"].unbind(1)
        assert (x1 < x2).all()
        assert (y1 < y2).all()
        assert (target["masks"].flatten(1).sum(1) <= (x2 - x1 + 2) * (y2 - y1 + 2)).all()


def test_objects_without_a_mask_are_left_out_if_masks_are_trained(write_coco):
    data = write_coco([{}, {"segmentation": []}])
    dataset = load_dataset(data, "train")
    (batch,) = take(1, dataset, CONFIG, 1, seed=0, workers=0, masks=True)
    assert len(batch.targets[0]["boxes"]) == len(batch.targets[0]["masks"]) == 1
    (batch,) = take(1, dataset, CONFIG, 1, seed=0, workers=0)
    assert len(batch.targets[0]["boxes"]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_error_names_broken_image_in_one_line(write_coco, workers):
    data = write_coco([{}])
    (data / "train" / "1.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(UserError, match=r"1\.png ") as error:
        take(1, load_dataset(data, "train"), CONFIG, 1, seed=0, workers=workers)
    assert "\n" not in str(error.value)


def test_untrainable_settings_are_errors(write_coco, dataset):
    without_objects = load_dataset(write_coco([{"iscrowd": 1}]), "train")
    with pytest.raises(UserError, match=r"instances_train\.json: no image .*object"):
        train_batches(without_objects, CONFIG, 1, seed=0)
    without_masks = load_dataset(write_coco([{"segmentation": []}]), "train")
    with pytest.raises(UserError, match=r"instances_train\.json: .*mask"):
        train_batches(without_masks, CONFIG, 1, seed=0, masks=True)
    with pytest.raises(UserError, match="--seed -1"):
        train_batches(dataset, CONFIG, 1, seed=-1)
    for batch_size, world_size in ((1, 2), (3, 2), (0, 1)):
        with pytest.raises(UserError, match=f"{batch_size} images .*{world_size} devices"):
            train_batches(dataset, CONFIG, batch_size, seed=0, world_size=world_size)


def test_evaluation_reads_every_image_once_in_order(dataset):
    batches = list(eval_batches(dataset, CONFIG, 4, workers=2))
    assert len(batches) == 4
    assert [image_id for batch in batches for image_id in batch.image_ids] == dataset.image_ids
    assert len(list(eval_batches(dataset, CONFIG, 4, workers=0, limit=5))) == 2
    parts = [eval_batches(dataset, CONFIG, 4, workers=0, rank=rank, world_size=2) for rank in range(2)]
    assert sorted(i for batches in parts for batch in batches for i in batch.image_ids) == sorted(dataset.image_ids)


def test_evaluation_images_are_resized_and_halved(write_coco):
    dataset = load_dataset(write_coco([{}], images=[{}, {"width": 48, "height": 64}]), "val")
    first, second = eval_batches(dataset, CONFIG, workers=0, half_view=True)
    assert first.original_sizes == [(48, 64)]
    assert (first.images[0].shape, first.half_images[0].shape) == ((3, 72, 96), (3, 36, 48))
    assert second.images[0].shape == (3, 96, 72)
    (batch,) = eval_batches(dataset, CONFIG, workers=0, limit=1)
    assert batch.half_images is None


def test_rotated_photo_is_upright_under_its_boxes(write_coco):
    data = write_coco([{"bbox": [0, 0, 48, 32]}], images=[{"file_name": "1.jpg", "width": 48, "height": 64}])
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    pixels[:, :32] = 255
    tags = Image.Exif()
    tags[0x0112] = 6
    Image.fromarray(pixels).save(data / "train" / "1.jpg", exif=tags)
    config = InputConfig(min_sizes=(48,), flip=0)
    (batch,) = take(1, load_dataset(data, "train"), config, 1, seed=0, workers=0)
    (x1, y1, x2, y2) = batch.targets[0]["boxes"][0].long().tolist()
    assert batch.images[0][:, y1:y2, x1:x2].mean() > 0.9
