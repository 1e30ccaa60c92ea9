"""Reading processes that find no room for what they send."""

import errno

import pytest
import torch

from afictl import UserError
from afictl.data import load_coco
from afictl.data.loader import eval_batches, read_files


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device", "/tmp/pymp-1")


def no_memory(*args):
    raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")


@pytest.mark.timeout(60)  # who waits for the images would wait for ever
@pytest.mark.parametrize(
    ("place", "fault", "told"),
    [
        ("multiprocessing.util.get_temp_dir", full, r"/tmp/pymp-1.*loader\.workers=0"),
        ("torch.UntypedStorage._share_fd_cpu_", no_memory, r"shared memory.*loader\.workers=0"),
        ("multiprocessing.synchronize.SemLock.__init__", full, "/dev/shm: No space left"),
    ],
)
def test_no_room_for_images_is_told(shapes_dir, monkeypatch, place, fault, told):
    index = load_coco(shapes_dir, "val")
    monkeypatch.setattr(place, fault)
    with pytest.raises(UserError, match=told):
        list(eval_batches(index, None, workers=2))
    assert len(list(eval_batches(index, None, workers=0))) == len(index)


@pytest.mark.timeout(60)
def test_no_room_for_the_image_of_a_file_is_told_in_its_place(shapes_dir, monkeypatch):
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", full)
    files = sorted((shapes_dir / "val2017").iterdir())[:3]
    answers = list(read_files(files, torch.Tensor.clone, workers=1))
    assert len(answers) == 3
    assert all("cannot send" in str(answer) for answer in answers)
