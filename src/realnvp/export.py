"""A flow as a program of plain operations: torch.export, and ONNX for other runtimes."""

import logging
import re
import warnings
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from realnvp.bijections.base import reference_tensor
from realnvp.flows.context import Classes, Columns
from realnvp.flows.flow import Flow, in_eval_mode, refuse_fast
from realnvp.io.files import atomic_write

Call = Literal[
    "log_prob", "pixel_log_prob", "encode", "decode", "mixture_log_prob", "class_log_probs"
]


class _Method(nn.Module):
    """One method of a flow as a module's forward, which torch exports."""

    def __init__(self, flow: Flow, call: Call) -> None:
        super().__init__()
        self.flow, self.call = flow, call

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return getattr(self.flow, self.call)(*[x] if context is None else [x, context])


def export_program(
    flow: Flow,
    shape: Sequence[int] | None = None,
    *,
    call: Call = "log_prob",
    dtype: torch.dtype | None = None,
) -> ExportedProgram:
    """A method of a flow as a graph of plain operations, without gradients, in eval mode.

    The graph takes batches (B, *shape) with any B: x in data units (of images v + u, with your
    noise), or z for decode. A conditional flow's graph takes c, too: int64 classes, (B,), or
    columns, (B, k), of x's type; those of mixture_log_prob and class_log_probs do not.

    shape: of one x; None: the training data's.
    dtype: of x; None: the weights'. float64: float32 networks stay, the rest is float64.
    """
    refuse_fast(flow, "export")
    mine = reference_tensor(flow)
    shape = flow.event_shape(shape)
    # A batch of 2: torch takes 1 for a constant.
    x = torch.zeros(2, *shape, dtype=dtype or mine.dtype, device=mine.device)
    inputs: tuple[Tensor, ...] = (x,)
    if call not in ("mixture_log_prob", "class_log_probs"):
        if isinstance(flow.condition, Classes):
            inputs = (x, torch.zeros(2, dtype=torch.int64, device=x.device))
        elif isinstance(flow.condition, Columns):
            inputs = (x, x.new_zeros(2, flow.condition.columns))
    # torch.export reads flags of TF32 that `full_precision` makes unreadable.
    with in_eval_mode(flow), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of itself
        return _traced(_folded(_traced(_Method(flow, call), inputs)), inputs)


def export_onnx(
    flow: Flow,
    path: str | Path,
    shape: Sequence[int] | None = None,
    *,
    call: Call = "log_prob",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a method of a flow as an ONNX file, with input x and an output named as the method.

    The first axis of each is called batch. A conditional flow has a second input, context.
    Parameters as for `export_program`. Needs realnvp[onnx].
    """
    program = export_program(flow, shape, call=call, dtype=dtype)
    inputs = ["x", "context"][: len(program.graph_signature.user_inputs)]
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of packages that are not needed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=[call], verbose=False
            )
    finally:
        log.setLevel(level)
    assert model is not None
    proto = model.model_proto
    _name_batch(proto.graph)
    with atomic_write(Path(path)) as file:
        file.write(proto.SerializeToString())


def _traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    batch = Dim("batch")
    return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


def _folded(program: ExportedProgram) -> nn.Module:
    """The program with constants for terms of weights alone: weight norm, masks, inverses.

    Determinants and inverses of matrices have no ONNX operator.
    """
    module = program.run_decompositions({}).module()
    assert isinstance(module, fx.GraphModule)
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = attrgetter(node.target)(module)
        elif node.op == "call_function" and all(each in known for each in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(known.items()):
        if node.op != "get_attr" and not node.users.keys() <= known.keys():
            module.register_buffer(f"constant_{number}", value)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.get_attr(f"constant_{number}"))
    for node in reversed(known):
        if not node.users:
            module.graph.erase_node(node)
    module.recompile()
    return module


def _name_batch(graph: Any) -> None:
    """Rename the axis of batches to "batch"; torch calls it s77, or the like."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{symbol}\b", "batch", axis.dim_param)
