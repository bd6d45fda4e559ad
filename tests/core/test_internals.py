"""Each private name that is used of torch, accelerate and torchmetrics is there, and means what it did."""

import warnings

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, TensorDataset

from torchkeras.core import internals


def test_a_tensor_counts_writes_and_a_storage_has_one_address():
    one = torch.zeros(4)
    before = internals.version(one)
    one.add_(1)
    assert internals.version(one) == before + 1
    view, other = one[2:], torch.zeros(4)
    address = internals.storage_address(one.untyped_storage())
    assert internals.storage_address(view.untyped_storage()) == address
    assert internals.storage_address(other.untyped_storage()) != address
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says once that these are deprecated
        typed = one.storage()
    assert internals.storage_address(internals.untyped(typed)) == address


def test_a_subclass_of_tensor_is_made_without_memory():
    class Own(torch.Tensor):
        @classmethod
        def __torch_dispatch__(cls, *_):
            raise AssertionError

    made = internals.make_subclass(Own, torch.empty(2, 3, dtype=torch.float64))
    assert type(made) is Own
    assert (made.shape, made.dtype) == ((2, 3), torch.float64)
    assert made.data_ptr() == 0


def test_a_modules_own_parts_are_its_dicts():
    module = nn.BatchNorm1d(2)
    module.register_buffer("passing", torch.zeros(1), persistent=False)
    module.register_buffer("absent", None)
    module.add_module("inner", nn.Identity())
    assert set(internals.parameters(module)) == {"weight", "bias"}
    assert internals.buffers(module)["absent"] is None
    internals.buffers(module)["passing"] = changed = torch.ones(1)
    assert module.passing is changed
    assert list(internals.children(module)) == ["inner"]
    assert internals.non_persistent(module) == {"passing"}


def test_hooks_of_saving_and_loading_are_seen():
    plain, hooked = nn.Linear(1, 1), nn.Linear(1, 1)
    assert not internals.is_hooked_on_loading(plain)
    assert not internals.is_hooked_on_saving(plain)
    hooked.register_load_state_dict_pre_hook(lambda *_: None)
    hooked.register_state_dict_post_hook(lambda *_: None)
    assert internals.is_hooked_on_loading(hooked)
    assert internals.is_hooked_on_saving(hooked)
    later, first = nn.Linear(1, 1), nn.Linear(1, 1)
    later.register_load_state_dict_post_hook(lambda *_: None)
    first.register_state_dict_pre_hook(lambda *_: None)
    assert internals.is_hooked_on_loading(later)
    assert internals.is_hooked_on_saving(first)


def test_versions_of_modules_travel_with_a_state():
    state = nn.BatchNorm1d(2).state_dict()
    assert internals.module_versions(state)[""]["version"] == 2
    assert internals.module_versions({}) is None
    internals.set_module_versions(state, {"": {"version": 1}})
    assert internals.module_versions(state) == {"": {"version": 1}}


def test_names_of_methods_and_states():
    class Stateful(nn.Module):
        def get_extra_state(self):
            return 1

        def set_extra_state(self, state):
            pass

    assert list(Stateful().state_dict()) == [internals.EXTRA_STATE]
    assert callable(getattr(nn.Module, internals.LOAD_OWN))
    assert callable(getattr(nn.Module, internals.SAVE_OWN))
    assert all(callable(getattr(nn.Module, name)) for name in internals.MODULE_FRAMES)


def test_frames_of_modules_have_these_names():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError

    with pytest.raises(RuntimeError) as caught:
        Fails()(1)
    assert {entry.name for entry in caught.traceback} >= set(internals.MODULE_FRAMES)


def test_schedules_of_several_show_what_they_hold():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    parts = [torch.optim.lr_scheduler.ConstantLR(optimizer) for _ in range(2)]
    several = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [3])
    assert list(internals.inner_schedulers(several)) == parts
    assert list(internals.milestones(several)) == [3]
    assert internals.SCHEDULERS in several.state_dict()
    assert not internals.inner_schedulers(parts[0])
    assert not internals.milestones(parts[0])


def test_an_optimizer_that_is_marked_gives_no_warning():
    def schedule(marked):
        optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        if marked:
            internals.mark_stepped(optimizer)
        scheduler.step()

    schedule(True)  # warnings are errors in these tests
    with pytest.warns(UserWarning, match="lr_scheduler.step"):
        schedule(False)


def test_workers_of_a_loader_end():
    loader = DataLoader(TensorDataset(torch.arange(4)), num_workers=1, persistent_workers=True)
    list(loader)
    processes = vars(loader)[internals.LOADER_ITERATOR]._workers
    assert processes[0].is_alive()
    internals.end_workers(loader)
    processes[0].join(10)
    assert not processes[0].is_alive()


def test_a_compiled_net_is_known():
    net = nn.Linear(1, 1)
    compiled = torch.compile(net, backend="eager")
    assert internals.compiler_is_loaded()
    assert internals.is_compiled(compiled)
    assert not internals.is_compiled(net)
    assert getattr(compiled, internals.COMPILED_NET) is net


def test_a_function_that_torch_func_transforms_is_known():
    seen = []
    torch.func.grad(lambda x: seen.append(internals.is_transformed()) or x.sum())(torch.ones(1))
    assert seen == [True]
    assert not internals.is_transformed()


def test_fake_tensors_have_shapes_without_numbers():
    with internals.fake_tensor_mode():
        found = torch.empty(1 << 20, 1 << 20) @ torch.empty(1 << 20, 2)
    assert found.shape == (1 << 20, 2)


def test_the_store_of_a_job_is_found(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        internals.default_store().set("a", "1")
        assert internals.default_store().get("a") == b"1"
    finally:
        torch.distributed.destroy_process_group()


def test_accelerators_made_later_have_a_state_of_their_own():
    from accelerate.state import GradientState

    first = GradientState()
    first.sync_gradients_before = vars(first)
    internals.renew_states(GradientState)
    second = GradientState()
    assert vars(first) is not vars(second)


@pytest.mark.parametrize("sync", [True, False])
def test_a_microbatch_is_the_last_of_its_update_or_not(sync):
    from torchkeras.distributed.accelerator import start_accelerator

    accelerator = start_accelerator(mixed_precision="no", cpu=True, accumulation=2)
    internals.set_sync_gradients(accelerator, sync)
    assert accelerator.sync_gradients is sync


def test_the_state_of_a_torchmetric_is_read_and_set():
    torchmetrics = pytest.importorskip("torchmetrics")
    metric = torchmetrics.MeanMetric()
    assert internals.is_torchmetric(metric)
    assert not internals.is_torchmetric(nn.Linear(1, 1))
    metric.update(torch.tensor(3.0))
    assert metric.compute() == 3
    assert internals.num_updates(metric) == 1
    assert internals.reductions(metric)["mean_value"] is not None
    assert set(internals.defaults(metric)) == {"mean_value", "weight"}
    metric.mean_value = torch.tensor(5.0)
    internals.set_num_updates(metric, 2)
    assert metric.compute() == 5
    assert internals.num_updates(metric) == 2
    internals.keep_local(metric)
    assert metric.sync_on_compute is False
    assert metric._to_sync is False


def test_hooks_of_modules_weights_and_optimizers_are_found():
    net = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    counts = lambda: (sum(map(len, internals.module_hooks([net]))),  # noqa: E731 (asked four times)
                      sum(map(len, internals.optimizer_hooks(optimizer))), internals.has_gradient_hooks(net.weight))
    assert counts() == (0, 0, False)
    handles = [net.register_forward_hook(lambda *_: None), net.register_full_backward_hook(lambda *_: None),
               torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
               optimizer.register_step_pre_hook(lambda *_: None),
               register_optimizer_step_post_hook(lambda *_: None),
               net.weight.register_hook(lambda grad: grad)]
    assert counts() == (3, 2, True)
    for handle in handles:
        handle.remove()
    assert counts() == (0, 0, False)
    handle = net.weight.register_post_accumulate_grad_hook(lambda weight: None)
    assert counts() == (0, 0, True)
    handle.remove()


def test_a_module_is_called_by_its_own_code_or_by_a_compiled_function():
    net, x = nn.Linear(1, 1), torch.ones(1, 1)
    internals.set_compiled_call(net, lambda x: "compiled")
    assert internals.has_compiled_call(net)
    assert net(x) == "compiled"
    assert torch.equal(internals.call(net, x), net.forward(x))
    internals.set_compiled_call(net, None)
    assert not internals.has_compiled_call(net)
    assert torch.equal(net(x), net.forward(x))
    assert "_compiled_call_impl" not in vars(net)


def test_memory_that_another_tensor_shares_is_counted():
    one = torch.zeros(4)
    alone = internals.num_uses(one.untyped_storage())
    view = one[1:]
    assert internals.num_uses(view.untyped_storage()) == alone + 1


def test_an_optimizer_gives_what_has_a_gradient():
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net.weight.grad = torch.ones(1, 2)
    weights, gradients, state = internals.collect_group(optimizer, optimizer.param_groups[0], 1)
    assert weights[0] is net.weight
    assert gradients[0] is net.weight.grad
    assert len(weights) == len(gradients) == len(state) == 1


def test_nothing_is_compiled_anew_where_that_is_an_error():
    def scaled(x):
        return x * 2

    compiled = torch.compile(scaled, backend="eager", dynamic=False)
    compiled(torch.ones(2))
    with internals.no_recompilation(KeyError):
        compiled(torch.ones(2))
        with pytest.raises(KeyError), internals.no_recompilation(KeyError):
            compiled(torch.ones(3))
    assert compiled(torch.ones(3)).shape == (3,)


def test_the_compiler_takes_operations_apart_as_it_is_told_and_later_as_before():
    from torch._inductor.decomposition import decompositions, select_decomp_table

    mm, before = torch.ops.aten.mm.default, dict(decompositions)
    with internals.decomposed({mm: lambda *_: "ours"}), internals.inductor_settings(fallback_random=True):
        assert select_decomp_table()[mm](torch.ones(2, 2), torch.ones(2, 2)) == "ours"
    with internals.decomposed({mm: lambda *_: NotImplemented}):  # one row by one column is a sum for the compiler itself
        assert decompositions[mm](torch.ones(1, 3), torch.ones(3, 1)).item() == 3
    assert decompositions == before


def test_settings_of_the_compiler_hold_for_a_while_and_unknown_ones_are_left_out():
    from torch._inductor import config

    before = config.cpp.vec_isa_ok
    with internals.inductor_settings(cpp__vec_isa_ok=True, cpp__of_no_release=1):
        assert config.cpp.vec_isa_ok is True
    assert config.cpp.vec_isa_ok == before
    assert callable(internals.inductor())
    assert internals.default_compile_folder()
