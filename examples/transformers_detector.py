"""An RT-DETR of transformers as a detector of afictl, with a learned interpolator: one training step, then detection.

python examples/transformers_detector.py

Needs transformers: pip install 'afictl[transformers]'. The commands take the folder in the same way:
afictl finetune --preset transformers:FOLDER --weights FOLDER --data DATA --interpolator dysample
"""

import tempfile
from pathlib import Path

import torch
from transformers import RTDetrConfig, RTDetrForObjectDetection, RTDetrImageProcessor, RTDetrResNetConfig

import afictl


def save_model(folder: Path) -> None:
    """A narrow model with random weights; ``huggingface_hub.snapshot_download`` gets the folder of a trained one."""
    stages, widths = ["stage2", "stage3", "stage4"], [16, 24, 32]
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, *widths], depths=[1, 1, 1, 1], layer_type="basic", out_features=stages
    )
    maps = {"encoder_in_channels": widths, "decoder_in_channels": [32] * 3}
    narrow = {"encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "d_model": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_layers": 2, "num_queries": 10}
    config = RTDetrConfig(backbone_config=backbone, num_labels=3, **maps, **narrow, **heads)
    RTDetrForObjectDetection(config).save_pretrained(folder)
    RTDetrImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)


def main() -> None:
    """Build the detector with DySample, load the other weights, train one step, detect."""
    with tempfile.TemporaryDirectory() as name:
        save_model(Path(name))
        preset = afictl.load_preset(f"transformers:{name}")
        detector = afictl.build_detector(preset, num_classes=3, interpolator="dysample")
        report = afictl.load_weights(detector, name)
    print(f"{len(report.matched)} tensors loaded, new: {', '.join(report.missing)}")

    images = [torch.rand(3, 128, 128) for _ in range(2)]
    targets = [{"boxes": torch.tensor([[20.0, 30.0, 90.0, 100.0]]), "labels": torch.tensor([1])}] * 2
    optimizer = torch.optim.AdamW(detector.parameters(), lr=preset.train.lr)
    losses = detector.train()(images, targets)
    sum(losses.values()).backward()
    optimizer.step()
    print("losses:", ", ".join(sorted(losses)))

    (prediction,) = afictl.predict(detector.eval(), [torch.rand(3, 90, 120)])  # resized to a square and back
    print("boxes:", tuple(prediction["boxes"].shape))


if __name__ == "__main__":
    main()
