"""Runs in several processes go on bit for bit; what is kept of them is whole."""

import pytest
from tests.distributed.cases import CASES, OWN, WORLDS
from tests.distributed.launches import launch

pytestmark = pytest.mark.timeout(300)
STOPPED = [(name, world) for name in CASES | OWN for world in WORLDS[name]
           if name.startswith(("divided and stopped", "buffers of net and loss"))]


@pytest.mark.parametrize(("name", "world"), STOPPED)
def test_a_run_that_is_stopped_here_and_there_ends_as_the_one_without_a_break(name, world):
    for found in launch(world).of(name):
        assert "error" not in found, found
        assert found["unlike"] == []
        assert found["unlike_numbers"] == []
        assert found["unlike_control"]
