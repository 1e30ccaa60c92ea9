"""The real package, where it is installed."""

import pytest

from tests.helpers.substitution_checks import CHECKS, Case
from tests.helpers.upsampling_models import maps

pytestmark = pytest.mark.mmdetection
necks = pytest.importorskip("mmdet.models.necks")

WIDTHS = (8, 16, 32)
INPUT = (maps(WIDTHS, 64, 96),)
CONCATENATED = [("upsample", 16), ("upsample", 8)]
CASES = {
    "FPN": Case(lambda: necks.FPN(list(WIDTHS), 8, num_outs=5), INPUT, [("", 8)] * 2),
    "PAFPN": Case(lambda: necks.PAFPN(list(WIDTHS), 8, num_outs=5), INPUT, [("", 8)] * 2),
    "YOLOXPAFPN": Case(lambda: necks.YOLOXPAFPN(list(WIDTHS), 16, num_csp_blocks=1), INPUT, CONCATENATED),
    "CSPNeXtPAFPN": Case(lambda: necks.CSPNeXtPAFPN(list(WIDTHS), 16, num_csp_blocks=1), INPUT, CONCATENATED),
    "YOLOV3Neck": Case(lambda: necks.YOLOV3Neck(3, [32, 16, 8], [16, 8, 4]), INPUT, [("", 8), ("", 4)]),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", CASES)
def test_neck_with_interpolators(case, check):
    CHECKS[check](CASES[case])
