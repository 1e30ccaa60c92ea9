import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from afictl.detectors.anchors import FixedStrideAnchors

# Recorded from detectron2 for sizes 32 and 64: nothing is rounded.
P2 = [[-22.627416610717773, -11.313708305358887, 22.627416610717773, 11.313708305358887], [-16, -16, 16, 16]]
P3 = [[-45.25483322143555, -22.627416610717773, 45.25483322143555, 22.627416610717773], [-32, -32, 32, 32]]


def anchors_of(maps: list[torch.Tensor], images: int = 1) -> list[torch.Tensor]:
    generator = FixedStrideAnchors([32, 64], [0.5, 1, 2], [4, 8])
    return generator(ImageList(torch.zeros(images, 3, 8, 12), [(8, 12)] * images), maps)


def test_cell_anchors_equal_detectron2() -> None:
    first_level, second_level = anchors_of([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])[0].split([18, 6])
    torch.testing.assert_close(first_level[:2], torch.tensor(P2))
    torch.testing.assert_close(second_level[:2], torch.tensor(P3))
    torch.testing.assert_close(first_level[2], first_level[0][[1, 0, 3, 2]])


def test_anchors_are_ordered_row_by_row_at_the_stride_of_the_level() -> None:
    anchors = anchors_of([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])[0]
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    fine = [(x, y) for y in (0, 4) for x in (0, 4, 8) for _ in range(3)]
    coarse = [(x, 0) for x in (0, 8) for _ in range(3)]
    torch.testing.assert_close(centres, torch.tensor(fine + coarse, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_image_gets_the_same_float32_anchors(dtype: torch.dtype) -> None:
    anchors = anchors_of([torch.zeros(2, 1, 2, 2, dtype=dtype), torch.zeros(2, 1, 1, 1, dtype=dtype)], images=2)
    assert [tuple(of_image.shape) for of_image in anchors] == [(15, 4), (15, 4)]
    assert anchors[0].dtype == torch.float32


def test_anchors_per_octave_are_ordered_by_size_then_ratio() -> None:
    generator = FixedStrideAnchors([32, 64], [0.5, 1, 2], [8, 16], per_octave=3)
    fine, coarse = generator.levels([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 1)])
    assert (fine.shape, coarse.shape) == ((6 * 9, 4), (9, 4))
    # the first anchors of detectron2's RetinaNet
    torch.testing.assert_close(fine[:2], torch.tensor(P2))
    torch.testing.assert_close(coarse[:2], torch.tensor(P3))
    width, height = (fine[:9, 2:] - fine[:9, :2]).unbind(dim=1)
    torch.testing.assert_close((width * height).sqrt(), 32 * 2 ** torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]).div(3))
    torch.testing.assert_close(height / width, torch.tensor([0.5, 1, 2] * 3))
