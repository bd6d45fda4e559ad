"""Where cases are registered."""

import os
from functools import partial

RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
CASES, OWN, REFUSED, WORLDS = {}, {}, {}, {}


def case(*rows, among=CASES, worlds=None):
    """Register a function as a case, or as one for each row of its first arguments.

    The first row of each is run in two processes and in three, the others in two, unless it is said otherwise.
    """
    def register(function):
        for number, row in enumerate(rows or [()]):
            row = row if isinstance(row, tuple) else (row,)
            name = function.__name__.replace("_", " ")
            name = f"{name}: {', '.join(map(str, row))}" if row else name
            among[name] = partial(function, *row)
            WORLDS[name] = worlds or ((2,) if number and among is CASES else (2, 3))
        return function

    return register
