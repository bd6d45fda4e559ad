"""The net that was drawn: an ordinary ``nn.Module`` whose forward is the code that torch.fx writes for the graph."""

from __future__ import annotations

import linecache
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.functional import plan
from torchkeras.functional.plan import Plan


class FunctionalModel(nn.Module):
    """A net that was drawn; made by :func:`torchkeras.functional.build`.

    Its layers are its attributes, under names such as ``conv2d_1``, and its ``state_dict`` has these names. It takes
    its inputs in their order or by name, or all of them in one tuple, list or dict.

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

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the graph."""
        if kwargs or len(args) != len(self.names) or isinstance(args[0], (dict, tuple, list)):
            args = self._in_order(args, kwargs)
        return self._run(self, *args)

    @property
    def graph(self) -> fx.Graph:
        """The net as torch.fx knows nets."""
        return plan.graph(self.plan)

    def _repr_svg_(self) -> str:
        from torchkeras.functional.picture import to_svg

        return to_svg(self)

    def get_config(self) -> dict[str, Any]:
        """Know what the net is made of: plain data that ``json.dumps`` takes, without the values of weights.

        Returns:
            The nodes, layers and outputs, for :meth:`from_config`.

        Raises:
            TypeError: a layer has an argument that plain data cannot hold.
            ValueError: a layer does not keep its arguments; give it a ``get_config()`` that returns them as a dict.

        Example:
            >>> from torchkeras.functional import Input, build
            >>> x = Input((3,))
            >>> build(x, nn.Linear(3, 1)(x)).get_config()["layers"]["linear_1"]["arguments"]
            {'in_features': 3, 'out_features': 1, 'bias': True}
        """
        from torchkeras.functional.config import get_config

        return get_config(self)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None,
                    max_bytes: int = 1 << 30) -> FunctionalModel:
        """Make a net anew, with fresh weights, from what :meth:`get_config` gave.

        Classes are those of torch.nn and torchkeras.functional, functions those that torch can record on tensors;
        nothing is imported by a name that the data hold, and all is looked over before anything is made, so the data
        may come from somebody else. Classes and functions of your own get what arguments the data have for them.

        Args:
            config: what ``get_config()`` gave, perhaps by way of JSON.
            custom_objects: classes of other layers, by name, and functions, by the name that the data have for them.
            max_bytes: the memory that the weights may take. Default 1 GiB.

        Raises:
            ValueError: a class or function that is none of these, data that are no such net, or more weights than
                ``max_bytes`` allows.

        Example:
            >>> from torchkeras.functional import Input, build
            >>> x = Input((3,))
            >>> net = build(x, nn.Linear(3, 1)(x).sigmoid())
            >>> twin = FunctionalModel.from_config(net.get_config())
            >>> twin.code == net.code
            True
        """
        from torchkeras.functional.config import from_config

        return from_config(config, custom_objects, max_bytes)

    def _in_order(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The inputs one by one."""
        whole = args[0] if len(args) == 1 and not kwargs else None
        if isinstance(whole, (Mapping, tuple, list)):
            args, kwargs = ((), dict(whole)) if isinstance(whole, Mapping) else (tuple(whole), {})
        open_names = self.names[len(args):]
        if set(kwargs) != set(open_names) or len(args) > len(self.names):
            unknown = next((name for name in kwargs if name not in self.names), "")
            raise bad_value("inputs", received=", ".join([f"{len(args)} by place"] + [repr(name) for name in kwargs]),
                            expected=f"{len(self.names)}: {', '.join(self.names)}",
                            fix=did_you_mean(unknown, self.names))
        return (*args, *(kwargs[name] for name in open_names))

    def _compose(self) -> None:
        """Make the function that runs the graph."""
        written = plan.graph(self.plan).python_code("self")
        if hidden := {*self.names} & {*written.globals} - plan.meaningful():
            raise bad_value("inputs", received=f"the name {min(hidden)!r}, which forward has for a function",
                            expected="another name for the input")
        self.code = written.src.strip()
        name = f"<functional model {abs(hash(self.code)):x}>"
        lines = (self.code + "\n").splitlines(keepends=True)
        linecache.cache[name] = (len(self.code), None, lines, name)  # so that a traceback shows the line
        made: dict[str, Any] = dict(written.globals)
        exec(compile(self.code, name, "exec"), made)  # noqa: S102
        self._run = made["forward"]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_run"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compose()
