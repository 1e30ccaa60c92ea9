"""Batches for training and evaluation, read by worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from afictl.data import transforms
from afictl.data.augmentation import AnnotatedImage, augment
from afictl.data.bitmaps import Bitmaps
from afictl.data.dataset import Dataset
from afictl.data.images import read_image
from afictl.data.reading_processes import read_batches
from afictl.data.sampler import batches_of
from afictl.data.shared_memory import BatchPacker, SharedBatch, has_room_for_workers
from afictl.errors import UserError
from afictl.presets import InputConfig

_Prepared = TypeVar("_Prepared")
_Sample: TypeAlias = dict[str, Any]
"""Arguments of ``EvalBatch``, or images, targets and id of a training sample, by name."""

_ADVICE = "check the storage of the images, or read without further processes: --set loader.workers=0"
_PREFETCH_BATCHES = 2
"""Per worker, beyond the one in use; each needs a block of shared memory."""


@dataclass(frozen=True)
class TrainBatch:
    """The images of one training batch that a rank trains on."""

    images: list[Tensor]
    """Float32 (3,H,W) RGB 0..1, of various sizes. Workers send uint8, which the main process converts."""
    targets: list[dict[str, Any]]
    """``boxes`` xyxy float32 pixels, ``labels`` int64 1..K, ``image_id``; ``masks`` uint8 (N,H,W) if requested.

    With half views only their targets have masks: large bitmaps are slow to draw, and no loss uses them.
    """
    half_images: list[Tensor] | None
    """The same views at half size; None unless requested, like ``half_targets``."""
    half_targets: list[dict[str, Any]] | None
    image_ids: list[int]


@dataclass(frozen=True)
class EvalBatch:
    """Images in the order of the dataset, without targets."""

    images: list[Tensor]
    """Resized, float32 (3,H,W) RGB 0..1, or in their own pixels, uint8."""
    original_sizes: list[tuple[int, int]]
    """Height and width before resizing."""
    image_ids: list[int]
    half_images: list[Tensor] | None = None


def train_batches(
    dataset: Dataset,
    config: InputConfig,
    batch_size: int,
    *,
    seed: int,
    augmentation_seed: int | None = None,
    start_step: int = 0,
    half_view: bool = False,
    masks: bool = False,
    workers: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[TrainBatch]:
    """Endless training batches; batch s is the same for every ``start_step``, ``workers`` and ``world_size``.

    Crowd objects and those without area inside their image are left out, with ``masks`` or copy-paste also those
    without a mask, and images that then hold none.

    Args:
        batch_size: images over all ranks.
        seed: of the order of the images.
        augmentation_seed: of the augmentation; None: ``seed``.
        start_step: the number of the first batch.
        half_view: add every image, with the same augmentation, at half size.
        device: where images and masks are copied to as uint8 before conversion to floats and dense masks.

    Raises:
        UserError: nothing to train on, a batch size that the ranks do not divide, a negative seed, or an image that
            cannot be read.
    """
    if seed < 0:
        raise UserError(f"--seed {seed}: choose a number from 0 on")
    require_even_share(batch_size, world_size)
    if _needs_masks(config, masks) and not dataset.has_masks:
        advice = "train a detector without a mask head" if masks else "train without input.copy_paste"
        raise UserError(f"{dataset.annotation_file}: no object has a mask; {advice}")
    images = dataset.training_images(_needs_masks(config, masks))
    if not images:
        raise UserError(f"{dataset.annotation_file}: no image has an object to train on; see 'afictl data check'")
    sizes = dataset.sizes_hw[images]
    groups = (sizes[:, 1] > sizes[:, 0]).tolist()
    batch_size_per_rank = batch_size // world_size
    slots = slice(rank * batch_size_per_rank, (rank + 1) * batch_size_per_rank)
    batches = batches_of(images, groups, batch_size, seed, start_step, augmentation_seed)
    requests = (batch[slots] for batch in batches)
    paste_images = np.array(images if config.copy_paste else ())
    samples = _Samples(partial(_train_sample, dataset, paste_images, config, half_view, masks))
    lists = _sample_lists(samples, requests, workers, lambda request: dataset.image_path(request[0]))
    return (_train_batch(batch, half_view, device) for batch in lists)


def require_even_share(batch_size: int, world_size: int) -> None:
    """Check that the number of processes divides a batch size.

    Raises:
        UserError: it does not.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UserError(f"a batch of {batch_size} images cannot be shared by {world_size} devices evenly")


def eval_batches(
    dataset: Dataset,
    config: InputConfig | None,
    batch_size: int = 1,
    *,
    workers: int = 2,
    limit: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    half_view: bool = False,
    device: torch.device | str = "cpu",
) -> Iterator[EvalBatch]:
    """The images of a dataset, or the first ``limit``, in order; a rank gets every ``world_size``-th batch.

    Args:
        config: test size; None leaves images in their own size, uint8, on the CPU.
        device: where resized images are copied to as uint8 before conversion to floats.

    Raises:
        UserError: an image that cannot be read.
    """
    indices = list(range(len(dataset)))[:limit]
    batches = [indices[k : k + batch_size] for k in range(0, len(indices), batch_size)]
    samples = _Samples(partial(_eval_sample, dataset, config, half_view))
    requests, reuse_memory = batches[rank::world_size], config is not None
    for batch_samples in _sample_lists(samples, requests, workers, dataset.image_path, reuse_memory):
        batch = {name: [sample[name] for sample in batch_samples] for name in batch_samples[0]}
        for name in batch.keys() & {"images", "half_images"} if config else ():
            batch[name] = [_to_float_on(device, image) for image in batch[name]]
        yield EvalBatch(**batch)


def read_files(
    files: Iterable[Path], prepare: Callable[[Tensor], _Prepared], workers: int = 2
) -> Iterator[_Prepared | UserError]:
    """``prepare`` of each image (uint8 (3,H,W) RGB), computed by the workers, in the order of ``files``.

    For a file that cannot be read its ``UserError`` is yielded, not raised.
    """
    requests = ([file] for file in files)
    samples = _Samples(partial(_read_and_prepare, prepare))
    for (item,) in _batches(samples, requests, workers, lambda file: file, reuse_memory=False):
        yield item


def _read_and_prepare(prepare: Callable[[Tensor], _Prepared], file: Path) -> _Prepared:
    return prepare(read_image(file))


def _train_sample(
    dataset: Dataset,
    paste_images: np.ndarray,
    config: InputConfig,
    half_view: bool,
    masks: bool,
    request: tuple[int, int],
) -> _Sample:
    i, augmentation_seed = request
    generator = torch.Generator().manual_seed(augmentation_seed)
    augmentation = transforms.draw_augmentation(config, generator)
    needs_masks = _needs_masks(config, masks)
    source = _read_annotated(dataset, needs_masks, i)
    source, scale = augment(
        source, config, generator, needs_masks, paste_images, lambda k: _read_annotated(dataset, needs_masks, k)
    )
    from_hw, image, objects = source.size_hw, source.image, source.objects
    full = transforms.scaled_size(transforms.resized_size(config, from_hw, augmentation.min_size), scale)
    sizes = {"": full, "half_": transforms.half_size(full)} if half_view else {"": full}
    sample: _Sample = {"image_id": dataset.image_id(i)}
    for name, size in sizes.items():
        sample[f"{name}image"] = transforms.view(image, size, augmentation.flip)
        draws_masks = masks and name == ("half_" if half_view else "")
        target = transforms.view_target(objects, from_hw, size, augmentation.flip, draws_masks)
        sample[f"{name}target"] = _pack(target)
    return sample


def _needs_masks(config: InputConfig, masks: bool) -> bool:
    """Whether training uses only objects with masks: those of copy-paste are cut out by them."""
    return masks or config.copy_paste > 0


def _read_annotated(dataset: Dataset, masks: bool, i: int) -> AnnotatedImage:
    return AnnotatedImage(read_image(dataset.image_path(i), dataset.size_hw(i)), dataset.training_objects(i, masks))


def _train_batch(samples: list[_Sample], half_view: bool, device: torch.device | str) -> TrainBatch:
    def images(name: str) -> list[Tensor]:
        return [_to_float_on(device, sample[name]) for sample in samples]

    def targets(name: str) -> list[dict[str, Any]]:
        return [{**_unpack(sample[name], device), "image_id": sample["image_id"]} for sample in samples]

    return TrainBatch(
        images=images("image"),
        targets=targets("target"),
        half_images=images("half_image") if half_view else None,
        half_targets=targets("half_target") if half_view else None,
        image_ids=[sample["image_id"] for sample in samples],
    )


def _to_float_on(device: torch.device | str, image: Tensor) -> Tensor:
    # From memory that is not pinned, an Apple GPU may still read while the worker writes the next batch there.
    return transforms.to_float(image.to(device, non_blocking=image.is_pinned()))


def _eval_sample(dataset: Dataset, config: InputConfig | None, half_view: bool, i: int) -> _Sample:
    size_hw = dataset.size_hw(i)
    image = read_image(dataset.image_path(i), size_hw)
    sample: _Sample = {"images": image, "original_sizes": size_hw, "image_ids": dataset.image_id(i)}
    if config is None:
        return sample
    full = transforms.resized_size(config, size_hw, config.test_size)
    sample["images"] = transforms.view(image, full, flip=False)
    if half_view:
        sample["half_images"] = transforms.view(image, transforms.half_size(full), flip=False)
    return sample


def _pack(target: dict[str, Any]) -> dict[str, Any]:
    """Small tensors as arrays: a tensor from a worker keeps a file descriptor open until it is freed."""
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in target.items()}


def _unpack(target: dict[str, Any], device: torch.device | str) -> dict[str, Tensor]:
    return {
        name: value.dense(device) if isinstance(value, Bitmaps) else torch.as_tensor(value)
        for name, value in target.items()
    }


class _Samples(data.Dataset[Any]):
    """``make`` applied to requests; a ``UserError`` is returned, as workers wrap exceptions."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.make(request)
        except UserError as error:
            return error


def _sample_lists(
    samples: _Samples,
    requests: Iterable[list[Any]],
    workers: int,
    path_of: Callable[[Any], Path],
    reuse_memory: bool = True,
) -> Iterator[list[_Sample]]:
    """The samples of each list of requests; the ``UserError`` of a sample is raised. Arguments as in ``_batches``."""
    for batch in _batches(samples, requests, workers, path_of, reuse_memory):
        batch_samples = batch.unpack() if isinstance(batch, SharedBatch) else batch
        for sample in batch_samples:
            if isinstance(sample, UserError):
                raise sample
        yield batch_samples


def _batches(
    samples: _Samples,
    requests: Iterable[list[Any]],
    workers: int,
    path_of: Callable[[Any], Path],
    reuse_memory: bool,
) -> Iterator[Any]:
    """The batch of each list of requests, see ``_loader``; ``path_of`` gives the image file of a request."""
    make_loader = partial(_loader, samples, workers, reuse_memory)
    return read_batches(make_loader, requests, lambda batch: str(path_of(batch[0])), _ADVICE)


def _loader(
    samples: _Samples,
    workers: int,
    reuse_memory: bool,
    requests: Iterable[list[Any]],
    init_worker: Callable[[int], None],
) -> data.DataLoader[Any]:
    """A loader of the samples of each list of requests.

    With ``reuse_memory`` and workers it yields ``SharedBatch``, whose images are valid until the next batch.
    """
    if workers and not has_room_for_workers(workers):
        workers = 0
    return data.DataLoader(
        samples,
        batch_sampler=requests,
        num_workers=workers,
        collate_fn=BatchPacker(_PREFETCH_BATCHES + 1) if reuse_memory and workers else list,
        prefetch_factor=_PREFETCH_BATCHES if workers else None,
        worker_init_fn=init_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # a number drawn from the global one would change later ones
    )
