"""What a step costs in messages between processes: the gradients' own, and nothing else."""

from benchmarks import collectives


def test_no_message_is_sent_for_a_step_but_the_gradients_own(tmp_path):
    found = collectives.run(tmp_path / "counts.json", repeats=0)
    ours, by_hand = found["torchkeras"], found["DDP by hand"]
    assert ours["train"] == 1.0  # the only bucket of a small net
    assert ours["val"] == 0.0
    assert by_hand["train"] > 1.0  # control: the count sees what DDP sends for buffers
