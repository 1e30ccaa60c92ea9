"""Checkpoints with objects of other libraries, whose classes exist only while the file is written."""

import argparse
import datetime
import enum
import functools
import sys
import warnings
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import contextmanager
from pathlib import PurePosixPath
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch


class Colour(enum.Enum):
    RED = 1


def module_level(value):
    return value


def quantized():
    with warnings.catch_warnings(action="ignore"):  # it is deprecated
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.quint8)


def foreign_class(stack, name, base=object, **members):
    """A class of that dotted name; ``stack`` removes its modules."""
    module, _, attribute = name.rpartition(".")
    stack.enter_context(foreign_modules(module))
    cls = type(attribute, (base,), {"__module__": module, **members})
    cls.__qualname__ = attribute
    stack.enter_context(patch.object(sys.modules[module], attribute, cls, create=True))
    return cls


@contextmanager
def foreign_modules(name):
    """Make ``name`` and its parents importable where they are not."""
    parts = name.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    added = [name for name in names if name not in sys.modules]
    sys.modules.update((name, ModuleType(name)) for name in added)
    yield
    for name in added:
        sys.modules.pop(name, None)


def foreign_objects(stack):
    """Objects as training programs store them beside the tensors: name -> object."""

    def of(name, base=object, **attributes):
        value = foreign_class(stack, name, base)()
        if base is dict:
            value.update(attributes)
        else:
            value.__dict__.update(attributes)
        return value

    history = of(
        "mmengine.logging.history_buffer.HistoryBuffer",
        _log_history=np.array([0.5, 0.25]),
        _count_history=np.array([1, 1]),
        _statistics_methods={},
    )
    history._statistics_methods["mean"] = type(history)  # as a global
    return {
        "args": argparse.Namespace(lr=0.02, output=PurePosixPath("run"), nested=argparse.Namespace(a=1)),
        "message_hub": {"log_scalars": OrderedDict(loss=history), "runtime_info": {"epoch": 3}},
        "cfg": of("mmengine.config.config.ConfigDict", dict, model={"type": "FasterRCNN"}),
        "config": of("mmcv.utils.config.Config", _cfg_dict={"a": 1}, _filename="x.py"),
        "omega": of("omegaconf.dictconfig.DictConfig", _content={"lr": of("omegaconf.nodes.AnyNode", _val=1)}),
        "node": of("yacs.config.CfgNode", dict, MODEL=of("fvcore.common.config.CfgNode", dict)),
        "hyper_parameters": of("lightning.fabric.utilities.data.AttributeDict", dict, lr=0.1),
        "callbacks": {"checkpoint": of("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint", best=1.0)},
        "meter": of("__main__.AverageMeter", val=1.0),
        "path": PurePosixPath("a/b"),
        "time": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        "delta": datetime.timedelta(seconds=1),
        "numbers": [np.float64(0.5), np.int64(3), np.bool_(True), np.str_("a"), np.datetime64("2026-01-01")],
        "arrays": [np.arange(3), np.array(["a", "bc"]), np.array([None, {}], dtype=object), np.zeros(2, "f4,f4")],
        "collections": [deque([1, 2], 3), defaultdict(list, a=[1]), Counter("ab"), frozenset({1}), {1, 2}],
        "keys": {(0, "a"): 1, Colour.RED: 2, None: 3},
        "enum": Colour.RED,
        "partial": functools.partial(module_level, 1),
        "function": module_level,
        "class": torch.optim.SGD,
        "slice": [slice(1, 2), range(3), complex(1, 2), bytearray(b"a"), b"", Ellipsis],
        "scheduler": torch.optim.lr_scheduler.LambdaLR(
            torch.optim.SGD([torch.zeros(1)], 0.1), module_level
        ).state_dict(),
        "generator": torch.get_rng_state(),
        "plain": SimpleNamespace(a=1),
        "quantized": quantized(),
        "sparse": torch.eye(2).to_sparse(),
    }
