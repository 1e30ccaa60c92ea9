"""Kinds of interpolators that are trained in every run of the tests, and options smaller than the defaults."""

from afictl.interpolators import learned_kinds
from tests.helpers.slow_cases import others_slow

OPTIONS = {
    "afi": {"blocks": 1, "growth": 4},
    "carafe": {"up_kernel": 3, "compressed_channels": 4},
    "dysample": {"groups": 2},
    "dysample-plus": {"groups": 2},
    "sapa": {"up_kernel": 3, "embedding_channels": 4},
    "fade": {"up_kernel": 3, "compressed_channels": 4},
    "dlu": {"up_kernel": 3, "compressed_channels": 4},
    "dysample-s": {"groups": 2},
    "dysample-s-plus": {"groups": 2},
    "lda-aqu": {"reduction": 1, "offset_range": 2.5},  # a layer norm needs more than two channels
    "freqfusion": {"low_pass_kernel": 3, "compressed_channels": 4, "groups": 2},
}

FEW_KINDS = others_slow(learned_kinds(), ("afi", "dysample", "fade"))
"""All learned kinds for long tests: three are in every run of the tests, the others in the slow one."""
