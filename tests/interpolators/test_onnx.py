"""Export to ONNX, and the same values in ONNX Runtime at other sizes than those of the export."""

import pytest
import torch

from afictl import build_interpolator, interpolator_kinds
from tests.helpers.slow_cases import others_slow

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

KINDS = others_slow(interpolator_kinds(), ("nearest", "bicubic", "pixel-shuffle", "afi-lite"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_exported_with_sizes_that_vary(kind, tmp_path):
    torch.manual_seed(0)
    interpolator = build_interpolator(kind, 8).eval()
    for parameter in interpolator.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # so that every branch contributes
    height, width = torch.export.Dim("height", min=3), torch.export.Dim("width", min=3)
    torch.onnx.export(
        interpolator,
        (torch.randn(2, 8, 5, 6), torch.randn(2, 8, 10, 12)),
        tmp_path / "interpolator.onnx",
        dynamo=True,
        dynamic_shapes=({2: height, 3: width}, {2: 2 * height, 3: 2 * width}),
        opset_version=20,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "interpolator.onnx")
    maps = torch.randn(2, 8, 7, 9), torch.randn(2, 8, 14, 18)
    names = [value.name for value in session.get_inputs()]  # without an unused fine map
    (actual,) = session.run(None, {name: value.numpy() for name, value in zip(names, maps, strict=False)})
    with torch.no_grad():
        expected = interpolator(*maps)
    torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-3, atol=1e-4 * max(1, float(expected.std())))
