"""How many samples there are, and how many of them are in a batch."""


from tests.distributed.cases.registry import case
from tests.distributed.parts import (
    classes,
    face,
    features,
    fitted,
    mlp,
)


@case(*[(count, size) for count in range(1, 6) for size in (1, 3, 4, 8) if size < count + 3],
      *[(count, size) for count in range(6, 18) for size in ((1, 4) if count % 2 else (3, 8))])
def samples_and_batch_size(count, size, seed):
    x, y = features(count, seed), classes(count, seed)
    model = face(mlp(seed), "cross_entropy", ["accuracy"])
    return fitted(model, (x, y), (x[:count // 2 + 1], y[:count // 2 + 1]), batch_size=size)


@case()
def fast_mode_with_a_last_batch_of_one_sample(seed):
    """A process without a sample of the last batch repeats one for the others: it must count nowhere."""
    x, y = features(9, seed), classes(9, seed)
    model = face(mlp(seed), "cross_entropy", ["accuracy"])
    return fitted(model, (x, y), (x, y), batch_size=4, shuffle=False, speed="fast")
