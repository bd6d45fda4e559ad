"""The time of putting back what an optimizer remembers does not grow with the square of its parameters."""

import torch
from torch import nn

from torchkeras.state.optimizer_state import load_optimizer_state, optimizer_state


class WithItsOwnLoading(torch.optim.Adam):
    """May do anything with the numbers of its parameters."""

    def load_state_dict(self, state_dict):
        """Load as torch does."""
        super().load_state_dict(state_dict)


def loaded(kind):
    """Return the numbers that torch looked values up in, the state before and the one put back."""
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    optimizer, other = (kind([{"params": net[0].parameters()}, {"params": net[1].parameters()}]) for _ in range(2))
    net[1](net[0](torch.ones(3, 2))).sum().backward()
    optimizer.step()
    seen = []
    other.register_load_state_dict_pre_hook(
        lambda _, state: seen.extend(group["params"] for group in state["param_groups"]))
    load_optimizer_state(other, optimizer_state(optimizer, [net]))
    return seen, optimizer.state_dict(), other.state_dict()


def test_torch_looks_parameters_up_in_a_range_and_loads_the_same():
    seen, before, after = loaded(torch.optim.Adam)
    assert seen == [range(2), range(2, 4)]
    assert after["param_groups"] == before["param_groups"]
    assert all(torch.equal(after["state"][number][name], value)
               for number, state in before["state"].items() for name, value in state.items())


def test_control_an_optimizer_that_loads_in_its_own_way_gets_lists():
    assert loaded(WithItsOwnLoading)[0] == [[0, 1], [2, 3]]
