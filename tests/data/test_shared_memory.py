import errno
from multiprocessing.synchronize import SemLock

import pytest
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.pin_memory import pin_memory

from afictl import load_preset
from afictl.data import load_dataset, shared_memory
from afictl.data.loader import eval_batches, read_files
from afictl.data.shared_memory import BatchPacker, SharedBatch
from afictl.errors import UserError


def images(*sizes):
    generator = torch.Generator().manual_seed(len(sizes))
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=generator) for size in sizes]


def test_unpacked_samples_equal_the_packed_ones():
    full, half, other = images((8, 6), (4, 3), (5, 9))
    mistake = UserError("no image")
    samples = [{"image": full, "half_image": half, "target": {"boxes": [1]}}, mistake, {"image": other}]
    packed = BatchPacker(2)(samples)
    assert packed.pixels.is_shared()
    first, second, third = packed.unpack()
    assert first["image"].equal(full)
    assert first["half_image"].equal(half)
    assert first["target"] == {"boxes": [1]}
    assert second is mistake
    assert third["image"].equal(other)


def test_batch_is_valid_until_its_block_is_reused():
    packer = BatchPacker(3)
    batches = [images((4 + k, 5), (3, 3 * k + 1)) for k in range(8)]  # larger and larger
    packed = []
    for batch in batches:
        packed.append(packer([{"image": image} for image in batch]))
        for shared_batch, expected in list(zip(packed, batches, strict=False))[-3:]:
            assert all(a["image"].equal(b) for a, b in zip(shared_batch.unpack(), expected, strict=True))
    small = [packer([{"image": image} for image in images((2, 2))]).pixels.data_ptr() for _ in range(6)]
    assert len(set(small[:3])) == 3
    assert small[:3] == small[3:]


@pytest.mark.parametrize("samples", [[], [UserError("no image")]])
def test_batch_without_images(samples):
    assert BatchPacker(2)(samples).unpack() == samples


def test_pinned_batch_unpacks(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, device=None: self.clone())
    packer = BatchPacker(1)
    (image, other) = images((8, 6), (8, 6))
    pinned = pin_memory(packer([{"image": image}]))
    packer([{"image": other}])
    assert isinstance(pinned, SharedBatch)
    assert pinned.unpack()[0]["image"].equal(image)


def disk_full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device", "/tmp/pymp-1")


def no_memory(*args):
    raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


@pytest.mark.timeout(60)  # without an error the main process would block
def test_a_full_temporary_folder_is_an_error(shapes_dir, monkeypatch):
    dataset = load_dataset(shapes_dir, "val")
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", disk_full)
    with pytest.raises(UserError, match=r"/tmp/pymp-1.*loader\.workers=0"):
        list(eval_batches(dataset, None, workers=2))
    assert len(list(eval_batches(dataset, None, workers=0))) == len(dataset)


@pytest.mark.parametrize("workers", [1, 2])
def test_without_room_for_the_locks_of_all_workers_the_main_process_reads(shapes_dir, monkeypatch, capfd, workers):
    """The last lock does not fit, so that a loader would fail half-built."""
    locks, make_lock = [], SemLock.__init__
    needed = shared_memory.LOCKS_PER_WORKER * workers + shared_memory.COMMON_LOCKS

    def make_lock_with_room(lock, *arguments, **options):
        if len(locks) == needed - 1:
            disk_full()
        locks.append(lock)
        make_lock(lock, *arguments, **options)

    shared_memory._note_without_workers.cache_clear()
    dataset = load_dataset(shapes_dir, "val")
    monkeypatch.setattr(SemLock, "__init__", make_lock_with_room)
    for _ in range(2):
        locks.clear()
        assert len(list(eval_batches(dataset, None, workers=workers))) == len(dataset)
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.startswith("note: /dev/shm: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_loader_makes_as_many_locks_as_are_checked(monkeypatch, workers):
    locks, make_lock = [], SemLock.__init__

    def count_lock(lock, *arguments, **options):
        locks.append(lock)
        make_lock(lock, *arguments, **options)

    monkeypatch.setattr(SemLock, "__init__", count_lock)
    assert len(list(DataLoader([0, 1], num_workers=workers))) == 2
    assert len(locks) == shared_memory.LOCKS_PER_WORKER * workers + shared_memory.COMMON_LOCKS


@pytest.mark.timeout(60)
def test_full_shared_memory_gives_an_error_per_file(shapes_dir, monkeypatch):
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", disk_full)
    files = sorted((shapes_dir / "val2017").iterdir())[:3]
    items = list(read_files(files, torch.Tensor.clone, workers=1))
    assert len(items) == 3
    assert all(isinstance(item, UserError) for item in items)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("resized", [True, False])
def test_images_are_copied_with_a_note_where_shared_memory_is_full(shapes_dir, monkeypatch, capsys, resized):
    dataset, config = (
        load_dataset(shapes_dir, "val"),
        load_preset("faster-rcnn-r18-fpn-tiny").input if resized else None,
    )
    expected = list(eval_batches(dataset, config, 2, workers=0))
    shared_memory._note_copies.cache_clear()
    monkeypatch.setattr("torch.UntypedStorage._share_fd_cpu_", no_memory)
    batches = [[image.clone() for image in batch.images] for batch in eval_batches(dataset, config, 2, workers=2)]
    for batch, images in zip(expected, batches, strict=True):
        for image, copied in zip(batch.images, images, strict=True):
            assert image.equal(copied)
            assert image.stride() == copied.stride()
    assert capsys.readouterr().err.count("--shm-size") == 1
