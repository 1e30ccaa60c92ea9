import numpy as np

from afictl.data import load_dataset
from afictl.data.resized_boxes import resized_boxes
from afictl.data.transforms import move_boxes, shortest_edge
from afictl.presets import InputConfig


def test_boxes_equal_those_of_training_views(shapes_dir):
    dataset = load_dataset(shapes_dir, "train")
    expected = []
    for side in (50, 80):
        for i in range(len(dataset)):
            size_hw = dataset.size_hw(i)
            expected.append(move_boxes(dataset.training_objects(i).boxes, size_hw, shortest_edge(size_hw, side, 70)))
    np.testing.assert_allclose(
        resized_boxes(dataset, InputConfig(max_size=70), [50, 80]), np.concatenate(expected), rtol=1e-6
    )
