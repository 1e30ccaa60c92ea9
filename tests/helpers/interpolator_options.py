"""Options of the kinds of interpolators that have some, smaller than the defaults."""

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
