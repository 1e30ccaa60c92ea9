"""An exported detector without afictl: detections of ONNX Runtime on images, beside those of ``afictl predict``.

afictl export --weights RUN --output detector.onnx
afictl predict --weights RUN FOLDER --threshold 0.3 --output predictions
python examples/exported_detector.py detector.onnx predictions
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


class ExportedDetector:
    """An ONNX file of ``afictl export``.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.session = onnxruntime.InferenceSession(path)
        properties = self.session.get_modelmeta().custom_metadata_map
        self.about = {key: json.loads(text) for key, text in properties.items()}

    def detect(self, path: Path) -> dict[str, np.ndarray]:
        """Detections on an image file: ``boxes`` (n, 4) xyxy in its pixels, ``labels`` (n,) 1..K, ``scores`` (n,)."""
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        resized = self.resize(picture)
        image = np.asarray(resized, dtype=np.float32).transpose(2, 0, 1) / 255
        boxes, labels, scores = self.session.run(["boxes", "labels", "scores"], {"image": image})
        return {"boxes": boxes * np.tile(np.divide(picture.size, resized.size), 2), "labels": labels, "scores": scores}

    def resize(self, picture: Image.Image) -> Image.Image:
        """The picture with a short side of ``test_size``, or less where the long side would exceed ``max_size``.

        With ``square`` both sides are the short side.
        """
        if self.about.get("square"):
            side = min(self.about["test_size"], self.about["max_size"])
            return picture.resize((side, side), Image.Resampling.BILINEAR)
        scale = min(self.about["test_size"] / min(picture.size), self.about["max_size"] / max(picture.size))
        width, height = (max(1, int(side * scale + 0.5)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BILINEAR)


def differences(detector: ExportedDetector, path: Path, predictions: list[dict]) -> np.ndarray:
    """Differences (n, 2), of boxes in pixels and of scores, between n COCO results and the file's nearest detections.

    They are infinite where the file has no detection of the category.
    """
    actual = detector.detect(path)
    categories = np.array(detector.about["category_ids"])[actual["labels"] - 1]
    rows = np.full((len(predictions), 2), np.inf)
    for row, prediction in zip(rows, predictions, strict=True):
        x, y, width, height = prediction["bbox"]
        same = categories == prediction["category_id"]
        if same.any():
            distances = np.abs(actual["boxes"][same] - [x, y, x + width, y + height]).max(axis=1)
            nearest = distances.argmin()
            row[:] = distances[nearest], abs(actual["scores"][same][nearest] - prediction["score"])
    return rows


def read_predictions(folder: Path) -> dict[Path, list[dict]]:
    """COCO results of ``afictl predict`` for each image file."""
    images = json.loads((folder / "image_info.json").read_text())["images"]
    of_image: dict[int, list[dict]] = {image["id"]: [] for image in images}
    for prediction in json.loads((folder / "predictions.json").read_text()):
        of_image[prediction["image_id"]].append(prediction)
    return {Path(image["file_name"]): of_image[image["id"]] for image in images}


def main() -> None:
    """Print the differences to the detections of ``afictl predict``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path, help="file of afictl export")
    parser.add_argument("predictions", type=Path, help="folder of afictl predict, in the format coco")
    arguments = parser.parse_args()
    detector, images = ExportedDetector(arguments.detector), read_predictions(arguments.predictions)
    rows = np.concatenate([differences(detector, path, predictions) for path, predictions in images.items()])
    close = (rows[:, 0] < 1).sum()
    print(f"{len(rows)} detections on {len(images)} images, {close} with boxes less than a pixel apart")
    if len(rows):
        for name, values in zip(("boxes in pixels", "scores"), rows.T, strict=True):
            print(f"difference of {name}: median {np.median(values):.2g}, largest {values.max():.2g}")


if __name__ == "__main__":
    main()
