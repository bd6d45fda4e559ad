"""The public functions: ``summary`` of layers and parameters, ``flop_summary`` of the cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from torchkeras.core.errors import bad_type
from torchkeras.core.screen import print_safely
from torchkeras.core.types import Data
from torchkeras.summary.drawn import drawn_rows, matches_graph, with_own_inputs
from torchkeras.summary.inputs import (
    Dtypes,
    Inputs,
    InputSpec,
    Shapes,
    count_bytes,
    make_inputs,
    tensors,
)
from torchkeras.summary.table import Flops, Row, Summary, flop_table, format_table
from torchkeras.summary.watch import CallRecorder, run_forward, unwrapped

MEBIBYTE = 2**20
# 1 equals the first dimension of a recurrent state, 2 that of a bidirectional one
MADE_UP_SAMPLES = 3


def summary(net: nn.Module, input_shape: Shapes = None, input_data: Data = None,
            input_dtype: Dtypes = None, batch_size: int = -1,
            layer_modules: type | tuple[type, ...] = (), input_data_args: Data = None,
            input_data_kwargs: Mapping[str, Any] | None = None, *,
            write: Callable[[str], object] = print_safely) -> Summary:
    """Print a table of a net: the output shape and the parameters of each layer.

    A row is a call inside which no other module was called. The net runs once, in eval mode on its
    own device; its modes, buffers, hooks and attributes and the random states are restored. A lazy
    net runs as a copy and stays lazy. A net made with :mod:`torchkeras.functional` needs no input,
    and has a row for each node of its graph, with its connections.

    Args:
        net: The net. Each parameter counts once, however often it is used.
        input_shape: Shape of one sample, ``(3, 32, 32)``; for several inputs a list of shapes, or a
            dict of them by argument name. Data may be given here, too.
        input_data: A tensor; a tuple or list of tensors (passed as arguments) or a dict (passed by
            name).
        input_dtype: Dtype of generated inputs: one, or one for each shape. Default: that of the
            net's parameters.
        batch_size: Samples in the input. -1: sizes are those of one sample, and shapes show -1.
        layer_modules: Module types that get one row, whatever they contain.
        input_data_args: Positional arguments as they are: ``(batch,)`` for a net that takes one
            dict.
        input_data_kwargs: Keyword arguments as they are.
        write: Receives the table.

    Returns:
        The figures of the table. Sizes are those of one sample, or of ``batch_size`` samples; of
        data whose tensors differ in length, those of all.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No input or two; a dimension below 1; a ``batch_size`` that is not that of the
            data.

    Example:
        >>> found = summary(nn.Linear(10, 5), input_shape=(10,), write=lambda text: None)
        >>> found.rows[0].name, found.rows[0].shapes, found.total_params
        ('Linear-1', ((-1, 5),), 55)
    """
    net = unwrapped(net)
    whole = layer_modules if isinstance(layer_modules, tuple) else (layer_modules,)
    if not all(isinstance(one, type) for one in whole):
        raise bad_type("layer_modules", received=layer_modules, expected="module types",
                       fix="Pass (nn.LSTM,).")
    spec = InputSpec(input_shape, input_data, input_dtype, batch_size, input_data_args,
                     input_data_kwargs)
    spec = with_own_inputs(net, spec)
    inputs, watch = make_inputs(net, spec, MADE_UP_SAMPLES), CallRecorder(whole)
    run_forward(net, inputs, watch)
    parameters = list(net.parameters())
    outputs = sum(call.bytes for call in watch.calls)
    found = Summary(
        rows=tuple(
            drawn_rows(net, inputs) if matches_graph(net, inputs) else rows(net, watch, inputs)),
        total_params=sum(map(num_parameters, parameters)),
        trainable_params=sum(num_parameters(one) for one in parameters if one.requires_grad),
        input_mb=inputs.scale * count_bytes(tensors((inputs.args, inputs.kwargs))) / MEBIBYTE,
        # each output and, in training, its gradient
        forward_backward_mb=2 * inputs.scale * outputs / MEBIBYTE,
        params_mb=count_bytes(parameters) / MEBIBYTE)
    write(format_table(found))
    return found


def rows(net: nn.Module, watch: CallRecorder, inputs: Inputs) -> Iterator[Row]:
    """Yield a row for each call in order, then for parameters outside called layers."""
    seen: set[int] = set()

    def fresh(parameters: Iterator[nn.Parameter]) -> list[nn.Parameter]:
        found = [one for one in parameters if id(one) not in seen]
        seen.update(map(id, found))
        return found

    for number, call in enumerate(watch.calls, 1):
        new = fresh(call.module.parameters())
        shapes = tuple(
            display_shape(shape, call.module, place, inputs)
            for place, shape in enumerate(call.shapes))
        shared = not new and next(call.module.parameters(), None) is not None
        yield Row(f"{type(call.module).__name__}-{number}", shapes, sum(map(num_parameters, new)),
                  shared)
    for path, module in net.named_modules():
        own = dict(module.named_parameters(recurse=False))
        new = fresh(iter(own.values()))
        if id(module) in watch.called or isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            yield from (Row(f"{path}.{name}".lstrip("."), (tuple(one.shape),), num_parameters(one))
                        for name, one in own.items() if any(one is found for found in new))
        elif new:
            yield Row(f"{path} (not called)", (), sum(map(num_parameters, new)))


def display_shape(shape: tuple[int, ...], module: nn.Module, place: int,
                  inputs: Inputs) -> tuple[int, ...]:
    """Return a shape with the batch size as the user named it, in this layer's batch dimension.

    Recurrent states, and the first output of a layer that takes sequences first, have them in
    dimension 1.
    """
    recurrent = isinstance(module, nn.RNNBase)
    sequence_first = getattr(module, "batch_first", True) is False
    axis = int(recurrent if place else sequence_first)
    if len(shape) <= axis or shape[axis] != inputs.samples:
        return shape
    return (*shape[:axis], inputs.shown, *shape[axis + 1:])


def num_parameters(parameter: Tensor) -> int:
    """Return the number of elements; 0 for a lazy parameter without a shape."""
    return 0 if is_lazy(parameter) else parameter.numel()


def flop_summary(net: nn.Module, input_shape: Shapes = None, input_data: Data = None,
                 input_dtype: Dtypes = None, batch_size: int = -1, input_data_args: Data = None,
                 input_data_kwargs: Mapping[str, Any] | None = None, *,
                 write: Callable[[str], object] = print_safely) -> Flops:
    """Print and return the floating point operations of a forward pass, by module.

    The count is that of ``torch.utils.flop_counter``: two for a multiply-add; matrix products,
    convolutions and attention count, element-wise work and fused recurrent kernels do not.

    Args:
        net: The net; it is restored, as in :func:`summary`.
        input_shape: As in :func:`summary`; one generated sample, or ``batch_size`` of them.
        input_data: As in :func:`summary`; all the data are counted.
        input_dtype: As in :func:`summary`.
        batch_size: As in :func:`summary`.
        input_data_args: As in :func:`summary`.
        input_data_kwargs: As in :func:`summary`.
        write: Receives the table, in which a module has the operations of all that it contains.

    Returns:
        The total: an int, with the count of each module in ``by_module``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No input or two; a dimension below 1; a ``batch_size`` that is not that of the
            data.

    Example:
        >>> int(flop_summary(nn.Linear(10, 5), input_shape=(10,), write=lambda text: None))
        100
    """
    net = unwrapped(net)
    spec = InputSpec(input_shape, input_data, input_dtype, batch_size, input_data_args,
                     input_data_kwargs)
    spec = with_own_inputs(net, spec)
    inputs = make_inputs(net, spec, made_up_samples=1)
    with FlopCounterMode(display=False) as counter:
        run_forward(net, inputs)
    counts, root = counter.get_flop_counts(), type(net).__name__
    names = [f"{root}.{path}".rstrip(".") for path, _ in net.named_modules(remove_duplicate=False)]
    flops = Flops(counter.get_total_flops())
    flops.by_module = {name: sum(counts[name].values()) for name in names if name in counts}
    write(flop_table(flops))
    return flops
