"""A flow as a program of plain operations: torch.export, and ONNX for other runtimes."""

import logging
import re
import warnings
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from realnvp.anomaly.detector import AnomalyDetector, oddness_around, oddness_of_images
from realnvp.anomaly.normal import NormalModel
from realnvp.anomaly.statistics import statistics
from realnvp.bijections.base import reference_tensor
from realnvp.config.errors import install_line
from realnvp.flows.flow import Flow, in_eval_mode, refuse_fast
from realnvp.io.files import atomic_save

Call = Literal[
    "log_prob", "log_prob_map", "encode", "decode", "mixture_log_prob", "class_log_probs"
]
OF_ALL_CLASSES = ("mixture_log_prob", "class_log_probs")
"""Functions of a flow given classes that take no class."""


class _Function(nn.Module):
    """One function of a flow as a module's forward, which is what torch exports."""

    def __init__(self, flow: Flow, call: Call) -> None:
        super().__init__()
        self.flow, self.call = flow, call

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        condition = () if context is None else (context,)
        return getattr(self.flow, self.call)(x, *condition)


def export_program(
    flow: Flow,
    shape: Sequence[int] | None = None,
    *,
    call: Call = "log_prob",
    dtype: torch.dtype | None = None,
) -> ExportedProgram:
    """A function of a flow as a graph of plain operations, without gradients, in eval mode.

    A conditional flow's takes c, too: given, int64 classes, (B,), or columns, (B, k), of x's type.
    mixture_log_prob and class_log_probs, of flows given classes, do not.

    shape: of one x. None: the training's. The graph takes batches (B, *shape) with any B.
    call: log_prob, log_prob_map and encode take x in data units, of images v + u with your noise;
        decode takes z.
    dtype: of x. None: the weights'. float64: float32 networks stay, the rest is float64.

    ValueError if the shape does not fit.
    """
    refuse_fast(flow, "export")
    if call not in get_args(Call):
        raise ValueError(f"call: must be one of {', '.join(get_args(Call))}, got {call!r}")
    shape = flow.sample_shape(shape)
    mine = reference_tensor(flow)
    # A batch of 2: torch takes 1 for a constant.
    x = torch.zeros(2, *shape, dtype=dtype or mine.dtype, device=mine.device)
    condition = None if call in OF_ALL_CLASSES else flow.condition
    inputs = (x,) if condition is None else (x, condition.example(x))
    # torch.export reads flags of TF32 that `full_precision` makes unreadable.
    with in_eval_mode(flow), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of itself
        getattr(flow, call)(*inputs)  # a shape that does not fit is told in our words
        return _traced(_folded(_traced(_Function(flow, call), inputs)), inputs)


def _traced(module: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    batch = Dim("batch")
    return torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))


def _folded(program: ExportedProgram) -> nn.Module:
    """The program with constants for what depends on weights alone: weight norm, masks, inverses.

    Determinants and inverses of matrices have no ONNX operator.
    """
    module = program.run_decompositions({}).module()
    assert isinstance(module, fx.GraphModule)
    known: dict[fx.Node, Any] = {}
    for node in list(module.graph.nodes):
        if node.op == "get_attr":
            known[node] = attrgetter(node.target)(module)
        elif node.op == "call_function" and all(
            context in known for context in node.all_input_nodes
        ):
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
    """Call the axis of batches "batch"; torch calls it s77, or the like."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = re.sub(rf"\b{symbol}\b", "batch", axis.dim_param)


def export_onnx(
    flow: Flow,
    path: str | Path,
    shape: Sequence[int] | None = None,
    *,
    call: Call = "log_prob",
    dtype: torch.dtype | None = None,
) -> None:
    """Write a function of a flow as an ONNX file, with input x and an output named as the call.

    The first axis of each is called batch.
    A conditional flow's has an input named given, too.

    Parameters as for `export_program`. Needs realnvp[onnx].
    """
    _needs_onnx("export_onnx")
    program = export_program(flow, shape, call=call, dtype=dtype)
    inputs = ["x", "context"][: len(program.graph_signature.user_inputs)]
    _write_onnx(program, Path(path), inputs, [call])


class _Verdict(nn.Module):
    """A detector as a module: x to score, odd, oddness."""

    def __init__(self, detector: AnomalyDetector) -> None:
        super().__init__()
        self.flow, self.threshold = detector.flow, detector.threshold
        places = detector.fitted().places
        self.mean, self.deviation = nn.Buffer(places.mean), nn.Buffer(places.deviation)
        self.whitening = nn.Buffer(places.whitening)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, found = statistics(self.flow, x, x.shape[2:])
        places = (self.mean, self.deviation, self.whitening)
        oddness = NormalModel(*(known.to(found) for known in places)).oddness(found)
        score = -oddness_of_images(oddness)
        return score, score < self.threshold, oddness_around(oddness)


def export_detector(
    detector: AnomalyDetector, path: str | Path, shape: Sequence[int] | None = None
) -> None:
    """Write a fitted detector as an ONNX file, with the threshold of its false alarms inside.

    Its input x is v + u, (batch, C, H, W), with your noise. Its outputs:
        score    (batch,): the lower, the odder
        odd      (batch,): whether it is below the threshold
        oddness  (batch, H / 4, W / 4): around each place, 1 or so where it is normal

    shape: of one x. None: the training's.

    Needs realnvp[onnx].
    ValueError: the flow is conditional; a Detector of `flow.condition_on(c)` can be exported.
    """
    _needs_onnx("export_detector")
    flow = detector.flow
    refuse_fast(flow, "export")
    if flow.condition is not None:
        raise ValueError(
            "detector: its flow is conditional; export a Detector(flow.condition_on(c))"
        )
    mine = reference_tensor(flow)
    x = torch.zeros(2, *flow.sample_shape(shape), dtype=mine.dtype, device=mine.device)
    with in_eval_mode(flow), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of itself
        flow.check_batch(x)
        program = _traced(_folded(_traced(_Verdict(detector).eval(), (x,))), (x,))
    _write_onnx(program, Path(path), ["x"], ["score", "odd", "oddness"])


def _needs_onnx(what: str) -> None:
    """If a package is missing, say so before anything is computed."""
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{what} needs {error.name}: {install_line('onnx')}", name=error.name
        ) from None


def _write_onnx(
    program: ExportedProgram, path: Path, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns of packages that nobody here needs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.onnx.export(
                program, dynamo=True, input_names=inputs, output_names=outputs, verbose=False
            )
    finally:
        log.setLevel(level)
    assert model is not None
    proto = model.model_proto
    _name_batch(proto.graph)
    content = proto.SerializeToString()
    atomic_save(path, lambda file: file.write(content), size=len(content))
