"""Batches for training and evaluation, read by worker processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import data

from afictl.data import transforms
from afictl.data.bitmaps import Bitmaps
from afictl.data.dataset import Dataset
from afictl.data.images import read_image
from afictl.data.sampler import batches_of
from afictl.data.shared_memory import Packed, Packer, require_room, send_reasons
from afictl.errors import UserError
from afictl.presets import InputConfig

_AHEAD = 2
"""Batches that a worker is asked for beyond the one that is in use: with it, one more block of memory."""


@dataclass(frozen=True)
class TrainBatch:
    """A rank's share of one training batch."""

    images: list[Tensor]
    """Float32 (3,H,W) RGB 0..1, each of its own size. Workers send bytes; the process that asked makes floats."""
    targets: list[dict[str, Any]]
    """``boxes`` xyxy float32 pixels, ``labels`` int64 1..K, ``image_id``; ``masks`` uint8 (N,H,W) where asked for.

    With half views only their targets have masks: large bitmaps are slow to draw and nothing learns from them.
    """
    half_images: list[Tensor] | None
    """The same views at half size; None unless asked for, like ``half_targets``."""
    half_targets: list[dict[str, Any]] | None
    image_ids: list[int]


@dataclass(frozen=True)
class EvalBatch:
    """Images in the order of the index, without targets."""

    images: list[Tensor]
    """Resized, float32 (3,H,W) RGB 0..1, or in their own pixels, uint8."""
    original_sizes: list[tuple[int, int]]
    """Height and width before resizing."""
    image_ids: list[int]
    half_images: list[Tensor] | None = None


def train_batches(
    index: Dataset,
    config: InputConfig,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    half_view: bool = False,
    masks: bool = False,
    workers: int = 2,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[TrainBatch]:
    """Endless training batches; batch s is the same for every ``start_step``, ``workers`` and ``world_size``.

    Crowd objects and those without area inside their image are left out, with ``masks`` also those without
    a mask, and images that then hold none.

    Args:
        batch_size: images over all ranks; a rank gets its share.
        start_step: the number of the first batch.
        half_view: add every image, with the same draw, at half size.
        device: where images and masks go, as bytes, before they become floats and dense.

    Raises:
        UserError: nothing to train on, a batch that the ranks cannot share, a negative seed, or an image that
            cannot be read.
    """
    if seed < 0:
        raise UserError(f"--seed {seed}: choose a number from 0 on")
    require_even_share(batch_size, world_size)
    if masks and not index.has_masks:
        raise UserError(f"{index.annotation_file}: no object has a mask; train a detector without a mask head")
    images = index.training_images(masks)
    if not images:
        raise UserError(f"{index.annotation_file}: no image has an object to train on; see 'afictl data check'")
    sizes = index.sizes_hw[images]
    groups = (sizes[:, 1] > sizes[:, 0]).tolist()
    share = batch_size // world_size
    mine = slice(rank * share, (rank + 1) * share)
    order = (batch[mine] for batch in batches_of(images, groups, batch_size, seed, start_step))
    samples = _Samples(partial(_train_sample, index, config, half_view, masks))
    return (_train_batch(batch, half_view, device) for batch in _Batches(samples, order, workers))


def require_even_share(batch_size: int, world_size: int) -> None:
    """Check a batch size against the number of processes that share a batch.

    Raises:
        UserError: it cannot be shared evenly.
    """
    if batch_size < 1 or batch_size % world_size:
        raise UserError(f"a batch of {batch_size} images cannot be shared by {world_size} devices evenly")


def eval_batches(
    index: Dataset,
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
    """The images of an index, or the first ``limit``, in order; a rank sees every ``world_size``-th batch.

    Args:
        config: how they are resized; None leaves them as they are, uint8, on the CPU.
        device: where resized images go, as bytes, before they become floats.

    Raises:
        UserError: an image that cannot be read.
    """
    indices = list(range(len(index)))[:limit]
    batches = [indices[k : k + batch_size] for k in range(0, len(indices), batch_size)]
    samples = _Samples(partial(_eval_sample, index, config, half_view))
    for read in _Batches(samples, batches[rank::world_size], workers, keep=config is None):
        batch = {name: [sample[name] for sample in read] for name in read[0]}
        for name in batch.keys() & {"images", "half_images"} if config else ():
            batch[name] = [_to_float_on(device, image) for image in batch[name]]
        yield EvalBatch(**batch)


def read_files(files: Iterable[Path], prepare: Callable[[Tensor], Any], workers: int = 2) -> Iterator[Any]:
    """``prepare`` of each image (uint8 (3,H,W) RGB), done by the reading processes, in the order of ``files``.

    For a file that cannot be read its ``UserError`` is given, not raised.
    """
    order = ([file] for file in files)
    for (answer,) in _loader(_Samples(partial(_prepared, prepare)), order, workers, _same):
        yield answer


def _prepared(prepare: Callable[[Tensor], Any], file: Path) -> Any:
    return prepare(read_image(file))


def _train_sample(
    index: Dataset, config: InputConfig, half_view: bool, masks: bool, request: tuple[int, int]
) -> dict[str, Any]:
    i, draw_seed = request
    choice = transforms.draw(config, torch.Generator().manual_seed(draw_seed))
    from_hw = index.size_hw(i)
    image = read_image(index.image_path(i), from_hw)
    objects = index.training_objects(i, masks)
    full = transforms.shortest_edge(from_hw, choice.min_size, config.max_size)
    sizes = {"": full, "half_": transforms.half_size(full)} if half_view else {"": full}
    sample: dict[str, Any] = {"image_id": index.image_id(i)}
    for name, size in sizes.items():
        sample[f"{name}image"] = transforms.view(image, size, choice.flip)
        draws_masks = masks and name == ("half_" if half_view else "")
        target = transforms.view_target(objects, from_hw, size, choice.flip, draws_masks)
        sample[f"{name}target"] = _pack(target)
    return sample


def _train_batch(samples: list[dict[str, Any]], half_view: bool, device: torch.device | str) -> TrainBatch:
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
    # From memory that is not pinned, an Apple GPU would still read when its worker writes the next batch there.
    return transforms.to_float(image.to(device, non_blocking=image.is_pinned()))


def _eval_sample(index: Dataset, config: InputConfig | None, half_view: bool, i: int) -> dict[str, Any]:
    size_hw = index.size_hw(i)
    image = read_image(index.image_path(i), size_hw)
    if config is None:
        return {"images": image, "original_sizes": size_hw, "image_ids": index.image_id(i)}
    full = transforms.shortest_edge(size_hw, config.test_size, config.max_size)
    sample = {
        "images": transforms.view(image, full, flip=False),
        "original_sizes": size_hw,
        "image_ids": index.image_id(i),
    }
    if half_view:
        sample["half_images"] = transforms.view(image, transforms.half_size(full), flip=False)
    return sample


def _pack(target: dict[str, Any]) -> dict[str, Any]:
    """Small tensors as arrays: a tensor from a worker holds a file descriptor for as long as it lives."""
    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in target.items()}


def _unpack(target: dict[str, Any], device: torch.device | str) -> dict[str, Tensor]:
    return {
        name: value.dense(device) if isinstance(value, Bitmaps) else torch.as_tensor(value)
        for name, value in target.items()
    }


class _Samples(data.Dataset[Any]):
    """``make`` applied to requests; a user's mistake is returned, as workers wrap what is raised."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.make(request)
        except UserError as error:
            return error


class _Batches:
    """Lists of samples in the order of ``order``, an iterable of lists of requests.

    With ``keep`` they may be kept; without, their images are good until the next ones are asked for.
    """

    def __init__(self, samples: _Samples, order: Any, workers: int, keep: bool = False) -> None:
        self._loader = _loader(samples, order, workers, _same if keep or not workers else Packer(_AHEAD + 1))

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._loader:
            samples = batch.unpack() if isinstance(batch, Packed) else batch
            for sample in samples:
                if isinstance(sample, UserError):
                    raise sample
            yield samples


def _loader(samples: _Samples, order: Any, workers: int, collate: Callable[[list[Any]], Any]) -> data.DataLoader[Any]:
    """Gives ``collate`` of a list of samples for each list of requests in ``order``."""
    if workers:
        require_room()
    return data.DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=_AHEAD if workers else None,
        worker_init_fn=_outlive_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # a draw from the global one would change what follows it
    )


def _outlive_signals(worker: int) -> None:
    """Leave signals to the main process; Ctrl-C, schedulers and ``kill`` of a group send them to workers too.

    The main process may need further batches before it ends. Its own SIGTERM still ends a worker, and a worker ends
    by itself soon after it.
    """
    send_reasons()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_by_parent, args=(os.getppid(),), daemon=True).start()


def _end_by_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def _same(samples: Sequence[Any]) -> list[Any]:
    return list(samples)
