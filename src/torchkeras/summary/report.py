"""The two calls a user makes: what each layer puts out and holds, and what a forward pass costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from torchkeras.core.errors import bad_type
from torchkeras.core.screen import say
from torchkeras.summary.drawn import as_drawn, drawn_rows, fits_drawing
from torchkeras.summary.inputs import Asked, Inputs, count_bytes, gather, tensors
from torchkeras.summary.table import Flops, Row, Summary, flop_table, table
from torchkeras.summary.watch import Watch, run, runnable

MEBIBYTE = 2**20
# one sample looks like the first dimension of a recurrent state, two like its two directions
MADE_UP_SAMPLES = 3


def summary(net: nn.Module, input_shape: Any = None, input_data: Any = None, input_dtype: Any = None,
            batch_size: int = -1, layer_modules: type | tuple[type, ...] = (), input_data_args: Any = None,
            input_data_kwargs: Mapping[str, Any] | None = None, *,
            write: Callable[[str], object] = say) -> Summary:
    """See what each layer puts out and where the parameters are, before you train a net.

    A row is a call inside which no other module was called. The net runs once, in eval mode on its own device; its
    modes, buffers, hooks and attributes and the random states are put back. A lazy net runs as a copy and stays lazy.
    A net drawn with :mod:`torchkeras.functional` needs no input, and has a row for each step of its graph, with what
    it is connected to.

    Args:
        net: The net. Each parameter counts once, however often it is used.
        input_shape: Shape of one sample, ``(3, 32, 32)``; for several inputs a list of shapes, or a dict of them by
            argument name. Data may stand here too.
        input_data: A tensor; a tuple or list of tensors (passed as arguments) or a dict (passed by name).
        input_dtype: Of made-up inputs: one, or one for each shape. Default: what the net computes in.
        batch_size: Samples in the made-up input. -1: sizes are of one sample, and shapes show -1 for the samples.
        layer_modules: Module types that get one row, whatever they hold.
        input_data_args: Positional arguments as they are: ``(batch,)`` for a net that takes one dict.
        input_data_kwargs: Keyword arguments as they are.
        write: Receives the table.

    Returns:
        The figures of the table. With data, sizes are of all the data.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No input or two; a dimension below 1; a ``batch_size`` that is not that of the data.

    Example:
        >>> found = summary(nn.Linear(10, 5), input_shape=(10,), write=lambda text: None)
        >>> found.rows[0].name, found.rows[0].shapes, found.total_params
        ('Linear-1', ((-1, 5),), 55)
    """
    net, whole = runnable(net), layer_modules if isinstance(layer_modules, tuple) else (layer_modules,)
    if not all(isinstance(one, type) for one in whole):
        raise bad_type("layer_modules", received=layer_modules, expected="module types", fix="Pass (nn.LSTM,).")
    asked = as_drawn(net, Asked(input_shape, input_data, input_dtype, batch_size, input_data_args, input_data_kwargs))
    inputs, watch = gather(net, asked, MADE_UP_SAMPLES), Watch(whole)
    run(net, inputs, watch)
    parameters = list(net.parameters())
    outputs = sum(call.bytes for call in watch.calls)
    found = Summary(
        rows=tuple(drawn_rows(net, inputs) if fits_drawing(net, inputs) else rows(net, watch, inputs)),
        total_params=sum(map(size, parameters)),
        trainable_params=sum(size(one) for one in parameters if one.requires_grad),
        input_mb=inputs.scale * count_bytes(tensors((inputs.args, inputs.kwargs))) / MEBIBYTE,
        forward_backward_mb=2 * inputs.scale * outputs / MEBIBYTE,  # each output and, in training, its gradient
        params_mb=count_bytes(parameters) / MEBIBYTE)
    write(table(found))
    return found


def rows(net: nn.Module, watch: Watch, inputs: Inputs) -> Iterator[Row]:
    """The calls in their order, then the parameters that none of them holds: together they make the total."""
    seen: set[int] = set()

    def fresh(parameters: Iterator[nn.Parameter]) -> list[nn.Parameter]:
        found = [one for one in parameters if id(one) not in seen]
        seen.update(map(id, found))
        return found

    for number, call in enumerate(watch.calls, 1):
        new = fresh(call.module.parameters())
        shapes = tuple(labelled(shape, call.module, place, inputs) for place, shape in enumerate(call.shapes))
        shared = not new and next(call.module.parameters(), None) is not None
        yield Row(f"{type(call.module).__name__}-{number}", shapes, sum(map(size, new)), shared)
    for path, module in net.named_modules():
        own = dict(module.named_parameters(recurse=False))
        new = fresh(iter(own.values()))
        if id(module) in watch.called or isinstance(module, (nn.ParameterList, nn.ParameterDict)):
            yield from (Row(f"{path}.{name}".lstrip("."), (tuple(one.shape),), size(one))
                        for name, one in own.items() if any(one is found for found in new))
        elif new:
            yield Row(f"{path} (not called)", (), sum(map(size, new)))


def labelled(shape: tuple[int, ...], module: nn.Module, place: int, inputs: Inputs) -> tuple[int, ...]:
    """The shape with the number of samples written as the user named it, where this layer has its samples.

    Recurrent states, and the first output of a layer that takes sequences first, have them in dimension 1.
    """
    recurrent, sequence_first = isinstance(module, nn.RNNBase), getattr(module, "batch_first", True) is False
    axis = int(recurrent if place else sequence_first)
    if len(shape) <= axis or shape[axis] != inputs.samples:
        return shape
    return (*shape[:axis], inputs.shown, *shape[axis + 1:])


def size(parameter: Tensor) -> int:
    """How many numbers; none before a lazy layer, which the forward pass never reached, knows its shape."""
    return 0 if is_lazy(parameter) else parameter.numel()


def flop_summary(net: nn.Module, input_shape: Any = None, input_data: Any = None, input_dtype: Any = None,
                 batch_size: int = -1, input_data_args: Any = None,
                 input_data_kwargs: Mapping[str, Any] | None = None, *,
                 write: Callable[[str], object] = say) -> Flops:
    """Know what a forward pass costs, and which module costs most.

    The count is that of ``torch.utils.flop_counter``: two for a multiply-add; matrix products, convolutions and
    attention count, element-wise work and fused recurrent kernels do not.

    Args:
        net: The net; it is left as it was, as in :func:`summary`.
        input_shape: As in :func:`summary`; one made-up sample, or ``batch_size`` of them.
        input_data: As in :func:`summary`; all the data are counted.
        input_dtype: As in :func:`summary`.
        batch_size: As in :func:`summary`.
        input_data_args: As in :func:`summary`.
        input_data_kwargs: As in :func:`summary`.
        write: Receives the table, in which a module has the operations of all that it holds.

    Returns:
        The total: an int, with the count of each module in ``by_module``.

    Raises:
        TypeError: An argument of the wrong kind.
        ValueError: No input or two; a dimension below 1; a ``batch_size`` that is not that of the data.

    Example:
        >>> int(flop_summary(nn.Linear(10, 5), input_shape=(10,), write=lambda text: None))
        100
    """
    net = runnable(net)
    asked = as_drawn(net, Asked(input_shape, input_data, input_dtype, batch_size, input_data_args, input_data_kwargs))
    inputs = gather(net, asked, made_up_samples=1)
    with FlopCounterMode(display=False) as counter:
        run(net, inputs)
    counts, root = counter.get_flop_counts(), type(net).__name__
    names = [f"{root}.{path}".rstrip(".") for path, _ in net.named_modules(remove_duplicate=False)]
    flops = Flops(counter.get_total_flops())
    flops.by_module = {name: sum(counts[name].values()) for name in names if name in counts}
    write(flop_table(flops))
    return flops
