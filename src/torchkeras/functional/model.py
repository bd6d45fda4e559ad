"""The net that was drawn: an ``nn.Module`` whose forward torch.fx generates from the graph."""

from __future__ import annotations

import linecache
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx, nn

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.core.types import Tree
from torchkeras.functional import plan
from torchkeras.functional.plan import Plan


class Conversions:
    """Conversions of a net; config.py and picture.py, which import this module, set them."""

    get_config: Callable[[FunctionalModel], dict[str, Any]]
    from_config: Callable[[Mapping[str, Any], Mapping[str, Any] | None, int], FunctionalModel]
    to_svg: Callable[[FunctionalModel], str]


conversions = Conversions()


class FunctionalModel(nn.Module):
    """A net that was drawn; made by :func:`torchkeras.functional.build`.

    Its layers are attributes, with names such as ``conv2d_1`` that are also those in its
    ``state_dict``. It takes its inputs in their order or by name, or all of them in one tuple, list
    or dict.

    Attributes:
        plan: the nodes, inputs first, and the outputs, as plain records.
        code: the source of its forward.
        graph: the same as a graph of ``torch.fx``, a new one each time.

    Example:
        >>> from torchkeras.functional import Input, build
        >>> x = Input((3,))
        >>> layer = nn.Linear(3, 3)
        >>> net = build(x, layer(layer(x)) + x)
        >>> print(net.code)
        def forward(self, input_1):
            linear_1 = self.linear_1(input_1)
            linear_1_call_1 = self.linear_1(linear_1);  linear_1 = None
            add_1 = linear_1_call_1 + input_1;  linear_1_call_1 = input_1 = None
            return add_1
    """

    def __init__(self, drawn: Plan, parts: Mapping[str, nn.Module | Tensor]) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.plan = drawn
        self.names = [node.name for node in drawn.inputs]
        self._compose()

    def forward(self, *args: Tree, **kwargs: Tree) -> Tree:
        """Run the graph."""
        if kwargs or len(args) != len(self.names) or isinstance(args[0], (dict, tuple, list)):
            args = self._in_order(args, kwargs)
        return self._run(self, *args)

    @property
    def graph(self) -> fx.Graph:
        """Return the net as a graph of torch.fx."""
        return plan.to_fx_graph(self.plan)

    def _repr_svg_(self) -> str:
        return conversions.to_svg(self)

    def get_config(self) -> dict[str, Any]:
        """Return the net's structure as data for ``json.dumps``, without the values of weights.

        Returns:
            The nodes, layers and outputs, for :meth:`from_config`.

        Raises:
            TypeError: a layer has an argument that plain data cannot hold.
            ValueError: a layer does not keep its arguments; give it a ``get_config()`` that returns
                them as a dict.

        Example:
            >>> from torchkeras.functional import Input, build
            >>> x = Input((3,))
            >>> build(x, nn.Linear(3, 1)(x)).get_config()["layers"]["linear_1"]["arguments"]
            {'in_features': 3, 'out_features': 1, 'bias': True}
        """
        return conversions.get_config(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None,
                    max_bytes: int = 1 << 30) -> FunctionalModel:
        """Make a net with new weights from what :meth:`get_config` returned.

        Classes are those of torch.nn and torchkeras.functional, functions those that torch can
        record on tensors. No name in the data is imported, and everything is checked before
        anything is made, so the data may come from an untrusted source. But ``custom_objects`` are
        called with any arguments that the data have for them.

        Args:
            config: what ``get_config()`` returned, perhaps by way of JSON.
            custom_objects: other layer classes and functions, by their names in the data.
            max_bytes: the memory that the weights may take. Default 1 GiB.

        Raises:
            ValueError: another class or function, data that do not describe a net, or more weights
                than ``max_bytes`` allows.

        Example:
            >>> from torchkeras.functional import Input, build
            >>> x = Input((3,))
            >>> net = build(x, nn.Linear(3, 1)(x).sigmoid())
            >>> twin = FunctionalModel.from_config(net.get_config())
            >>> twin.code == net.code
            True
        """
        return conversions.from_config(config, custom_objects, max_bytes)

    def _in_order(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Return the inputs as positional arguments."""
        whole = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(whole, (Mapping, tuple, list)):
            args, kwargs = ((), dict(whole)) if isinstance(whole, Mapping) else (tuple(whole), {})
        open_names = self.names[len(args):]
        if set(kwargs) != set(open_names) or len(args) > len(self.names):
            unknown = next((name for name in kwargs if name not in self.names), "")
            raise bad_value(
                "inputs",
                received=", ".join([f"{len(args)} by place"] + [repr(name) for name in kwargs]),
                expected=f"{len(self.names)}: {', '.join(self.names)}",
                fix=did_you_mean(unknown, self.names))
        return (*args, *(kwargs[name] for name in open_names))

    def _compose(self) -> None:
        """Compile the function that runs the graph."""
        written = plan.to_fx_graph(self.plan).python_code("self")
        if hidden := {*self.names} & {*written.globals} - plan.source_globals():
            raise bad_value(
                "inputs",
                received=f"the name {min(hidden)!r}, which the code of forward uses itself",
                expected="another name for the input")
        self.code = written.src.strip()
        name = f"<functional model {abs(hash(self.code)):x}>"
        lines = (self.code + "\n").splitlines(keepends=True)
        # so that a traceback shows the line
        linecache.cache[name] = (len(self.code), None, lines, name)
        made: dict[str, Any] = dict(written.globals)
        exec(compile(self.code, name, "exec"), made)  # noqa: S102
        self._run = made["forward"]

    def __getstate__(self) -> dict[str, Any]:
        state: Callable[[], dict[str, Any]] = super().__getstate__
        return {name: value for name, value in state().items() if name != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        restore: Callable[[dict[str, Any]], None] = super().__setstate__
        restore(state)
        self._compose()
