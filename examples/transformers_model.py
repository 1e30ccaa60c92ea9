"""An RT-DETR of transformers with a learned interpolator in its encoder: one training step, then detection.

python examples/transformers_model.py

Needs transformers: pip install 'afictl[transformers]'. The same lines serve RTDetrV2, DFine, Mask2Former, MaskFormer,
UperNet and DetrForSegmentation.
"""

import torch
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrResNetConfig

import afictl


def make_model() -> RTDetrForObjectDetection:
    """A narrow model with random weights; ``RTDetrForObjectDetection.from_pretrained(NAME)`` gives a trained one."""
    stages = ["stage2", "stage3", "stage4"]
    widths = [16, 24, 32]
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, *widths], depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )
    maps = {"encoder_in_channels": widths, "decoder_in_channels": [32] * 3}
    narrow = {"encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "d_model": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 2, "num_queries": 10}
    config = RTDetrConfig(backbone_config=backbone, num_labels=3, **maps, **narrow, **heads)
    return RTDetrForObjectDetection(config)


def main() -> None:
    """Substitute the interpolation, train one step, detect."""
    model = make_model()
    result = afictl.substitute_interpolator(model, "dysample")
    print(result.summary())

    images = torch.rand(2, 3, 128, 128)
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.3]])}] * 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)  # after the substitution
    loss = model.train()(pixel_values=images, labels=labels).loss
    loss.backward()
    optimizer.step()
    print(f"loss: {loss.item():.2f}")

    with torch.no_grad():
        outputs = model.eval()(pixel_values=images)
    print("boxes:", tuple(outputs.pred_boxes.shape))


if __name__ == "__main__":
    main()
