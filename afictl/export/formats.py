"""Exported files: ONNX and torch.export, each with its description, and their results for one input.

The batch is one image and height and width vary. Both files come from one graph of ``torch.export``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from afictl.errors import UserError, one_line
from afictl.extras import import_optional

OPSET = 20
DESCRIPTION = "afictl.json"
"""Name of the description inside a file of ``torch.export``."""

_ASSERTIONS = (
    torch.ops.aten._assert_scalar.default,
    torch.ops.aten.sym_constrain_range.default,
    torch.ops.aten.sym_constrain_range_for_size.default,
)

Outputs: TypeAlias = tuple[Tensor, ...]
Program: TypeAlias = Callable[..., Outputs]


def require_format(form: str) -> None:
    """Check that the packages of a format are installed.

    Raises:
        UserError: one is missing; the error names the extra.
    """
    if form == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_optional(package, "--format onnx")


def trace(form: str, module: nn.Module, example: Sequence[Tensor], dynamic_shapes: Sequence[object]) -> ExportedProgram:
    """The graph of a module in eval mode for inputs like ``example``, whose ``dynamic_shapes`` are torch.export's.

    torch.export assumes that no size is 0 or 1, and may assume other things that hold for the example only. In the
    graph for its own format these assumptions are assertions of the graph, which ``write`` leaves out: operators
    compute their shapes anew for each input, and need none of them.

    Raises:
        UserError: a part of the module depends on values in a way that no graph can hold.
    """
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(
                module,
                tuple(example),
                dynamic_shapes=tuple(dynamic_shapes),
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=form == "torch-export",
            )
    except Exception as error:  # torch.export fails with errors of many types
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"cannot be exported: {one_line(lines[0]):.200}") from error


def write(
    form: str,
    path: Path,
    program: ExportedProgram,
    names: tuple[Sequence[str], Sequence[str]],
    description: Mapping[str, object],
) -> Program:
    """Write a file, read it again, and return the function that it computes.

    Args:
        form: ``onnx`` or ``torch-export``.
        path: file to write; not atomic.
        program: from ``trace``.
        names: of the inputs and of the outputs, for ONNX.
        description: JSON-ready; a string of JSON for each key in the file.
    """
    texts = {key: json.dumps(value) for key, value in description.items()}
    if form == "onnx":
        _write_onnx(path, program, names, texts)
        return _onnx_program(path)
    _drop_assertions(program)
    with open(path, "wb") as file:  # torch warns of a path without its suffix, as of a draft
        torch.export.save(program, file, extra_files={DESCRIPTION: json.dumps(dict(description))})
    with open(path, "rb") as file:
        return torch.export.load(file).module()


def _drop_assertions(program: ExportedProgram) -> None:
    """Remove the assertions about sizes from the graph, and the computations for them alone."""
    for node in list(program.graph.nodes):
        if node.target in _ASSERTIONS:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()


def _write_onnx(
    path: Path,
    program: ExportedProgram,
    names: tuple[Sequence[str], Sequence[str]],
    description: Mapping[str, str],
) -> None:
    inputs, outputs = names
    with torch.no_grad(), _quiet():
        exported: Any = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    exported.model.metadata_props.update(description)
    exported.save(path)


def _onnx_program(path: Path) -> Program:
    """The function that ONNX Runtime computes on a CPU; an input without effect is left out of the file."""
    onnxruntime = import_optional("onnxruntime", "--format onnx")
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: Tensor) -> Outputs:
        values = {name: value.numpy() for name, value in zip(names, inputs, strict=False)}
        return tuple(map(torch.from_numpy, session.run(None, values)))

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of torch and onnxscript about their own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
