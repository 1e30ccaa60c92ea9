"""Ranges of the numbers among the options of timm's networks; timm checks few of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from afictl.errors import UserError
from afictl.presets.numbers import ConvWidth, Integer, Real
from afictl.presets.validation import format_validation_error

_Rate: TypeAlias = Annotated[Real, Field(ge=0, lt=1)]
_Count: TypeAlias = Annotated[Integer, Field(ge=1, le=1024)]


class NetworkOptions(BaseModel):
    """Options of a network; those without a number here are given to timm as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    drop_path_rate: _Rate = 0.0


class _BlockOptions(BaseModel):
    """Options of the blocks of a ResNeSt."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    radix: _Count = 2


class ResNetOptions(NetworkOptions):
    """Numbers of timm's ``ResNet``, which ResNeSts are too."""

    layers: tuple[_Count, _Count, _Count, _Count] = (2, 2, 2, 2)
    channels: tuple[ConvWidth, ConvWidth, ConvWidth, ConvWidth] = (64, 128, 256, 512)
    cardinality: _Count = 1
    base_width: _Count = 64
    stem_width: _Count = 64
    block_reduce_first: _Count = 1
    down_kernel_size: Literal[1, 3] = 1
    drop_block_rate: _Rate = 0.0
    block_args: _BlockOptions | None = None


class SwinOptions(NetworkOptions):
    """Numbers of timm's ``SwinTransformer``."""

    embed_dim: ConvWidth = 96
    depths: tuple[_Count, _Count, _Count, _Count] = (2, 2, 6, 2)
    num_heads: tuple[_Count, _Count, _Count, _Count] = (3, 6, 12, 24)
    head_dim: _Count | None = None
    patch_size: _Count = 4
    window_size: _Count | tuple[_Count, _Count] = 7
    mlp_ratio: Annotated[Real, Field(gt=0, le=100)] = 4.0
    proj_drop_rate: _Rate = 0.0
    attn_drop_rate: _Rate = 0.0


def check_ranges(schema: type[NetworkOptions], options: Mapping[str, object]) -> None:
    """Check the numbers in ``backbone.options``.

    Raises:
        UserError: one is out of range, or no number; the message names its key.
    """
    try:
        schema.model_validate(options)
    except ValidationError as error:
        raise UserError(format_validation_error(error, "backbone.options.")) from None
