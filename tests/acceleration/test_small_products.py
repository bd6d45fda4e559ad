"""Products of small matrices are written out as sums in a compiled step; others are left to the library."""

import pytest
import torch
from tests.acceleration.test_fast import needs_compiler
from torch._dynamo.utils import counters

from torchkeras.acceleration.candidates import quiet_compilation
from torchkeras.acceleration.recorded_graph import recorded
from torchkeras.acceleration.small_products import SMALL, addmm, mm


def test_a_small_product_is_that_of_the_library():
    torch.manual_seed(0)
    left, right, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
    torch.testing.assert_close(mm(left, right), left @ right)
    torch.testing.assert_close(addmm(bias, left, right), bias + left @ right)


@pytest.mark.parametrize("arguments", [
    (torch.ones(SMALL, 1), torch.ones(1, 2)), (torch.ones(2, 2).double(), torch.ones(2, 2).double()),
    (torch.ones(2, 2).bfloat16(), torch.ones(2, 2).bfloat16()),
    (torch.ones(2, 2, device="meta"), torch.ones(2, 2, device="meta"))])
def test_any_other_is_left_to_the_library(arguments):
    assert mm(*arguments) is NotImplemented
    assert addmm(torch.ones(1), *arguments) is NotImplemented


def test_a_product_with_factors_is_left_to_the_library():
    assert addmm(torch.ones(2), torch.ones(2, 2), torch.ones(2, 2), beta=2) is NotImplemented
    assert mm(torch.ones(2, 2), torch.ones(2, 2), out_dtype=torch.float64) is NotImplemented


@needs_compiler
@pytest.mark.parametrize(("rows", "calls"), [(10, 0), (SMALL, 1)])
def test_a_compiled_graph_calls_the_library_for_large_products_only(rows, calls):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, 3), torch.randn(4, 3), torch.randn(4)
    graph, _ = recorded(lambda *given: torch.nn.functional.linear(*given))
    counters.clear()
    with torch.no_grad(), quiet_compilation():
        found = graph(x, weight, bias)
    torch.testing.assert_close(found, torch.nn.functional.linear(x, weight, bias))
    assert counters["inductor"]["extern_calls"] == calls
