"""Models of transformers that enlarge maps, built from small configurations with random weights; needs transformers."""

import transformers as T

_WIDTHS = [8, 16, 24, 32]
_STAGES = ["stage1", "stage2", "stage3", "stage4"]
_BACKBONE = {"hidden_sizes": _WIDTHS, "depths": [1, 1, 1, 1]}
_SMALL_TRANSFORMER = {"encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "decoder_attention_heads": 2}


def hybrid(config, model, backbone, **options):
    """A detector with the hybrid encoder of RT-DETR."""
    settings = {
        **_SMALL_TRANSFORMER,
        "backbone_config": backbone,
        "encoder_in_channels": _WIDTHS[1:],
        "decoder_in_channels": [32, 32, 32],
        "d_model": 32,
        "encoder_hidden_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_layers": 2,
        "num_queries": 10,
        "num_labels": 3,
        "num_denoising": 4,
    }
    return model(config(**settings, **options))


def rt_detr_resnet():
    return T.RTDetrResNetConfig(embedding_size=8, layer_type="basic", out_features=_STAGES[1:], **_BACKBONE)


def hgnet():
    sizes = {"stem_channels": [3, 8, 8], "embedding_size": 8, "stage_downsample": [False, True, True, True]}
    stages = {"stage_in_channels": [8, *_WIDTHS[:3]], "stage_out_channels": _WIDTHS, "stage_mid_channels": [8] * 4}
    blocks = {"stage_num_blocks": [1] * 4, "stage_numb_of_layers": [1] * 4, "stage_kernel_size": [3] * 4}
    return T.HGNetV2Config(
        **sizes, **stages, **blocks, **_BACKBONE, stage_light_block=[False] * 4, out_features=_STAGES[1:]
    )


def swin():
    return T.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4, out_features=_STAGES)


def rt_detr():
    return hybrid(T.RTDetrConfig, T.RTDetrForObjectDetection, rt_detr_resnet())


def rt_detr_v2():
    return hybrid(T.RTDetrV2Config, T.RTDetrV2ForObjectDetection, rt_detr_resnet())


def d_fine():
    return hybrid(T.DFineConfig, T.DFineForObjectDetection, hgnet(), decoder_n_points=[2, 2, 2])


def mask2former():
    config = T.Mask2FormerConfig(
        backbone_config=swin(),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        dim_feedforward=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=5,
        num_labels=3,
    )
    return T.Mask2FormerForUniversalSegmentation(config)


def maskformer():
    decoder = T.DetrConfig(
        **_SMALL_TRANSFORMER, encoder_attention_heads=2, d_model=32, encoder_layers=1, decoder_layers=1, num_queries=5
    )
    config = T.MaskFormerConfig(
        backbone_config=swin(), decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, num_labels=3
    )
    return T.MaskFormerForInstanceSegmentation(config)


def upernet():
    backbone = T.ConvNextConfig(out_features=_STAGES, **_BACKBONE)
    auxiliary = {"auxiliary_channels": 8, "auxiliary_in_channels": 24}
    config = T.UperNetConfig(backbone_config=backbone, hidden_size=16, num_labels=3, **auxiliary)
    return T.UperNetForSemanticSegmentation(config)


def detr_segmentation():
    backbone = T.ResNetConfig(embedding_size=8, layer_type="basic", out_features=_STAGES, **_BACKBONE)
    config = T.DetrConfig(
        **_SMALL_TRANSFORMER | {"decoder_attention_heads": 8},
        use_timm_backbone=False,
        backbone=None,
        backbone_config=backbone,
        num_queries=5,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=8,
        num_labels=3,
    )
    return T.DetrForSegmentation(config)
