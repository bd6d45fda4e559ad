"""What the tests of the examples share: the digits at hand, read once, and what is asked of a picture."""

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@functools.cache
def digits_at_hand():
    """The digits that ``load_digits()`` gives; reading them takes a second or two."""
    from digits import load_digits

    return load_digits()


def few_digits(train=600, test=300):
    """The first of them."""
    full = digits_at_hand()
    return full._replace(train_images=full.train_images[:train], train_labels=full.train_labels[:train],
                         test_images=full.test_images[:test], test_labels=full.test_labels[:test])


def check_picture(path):
    """It is large enough to read, and shows something: an empty sheet has one value."""
    import numpy as np
    from matplotlib.image import imread

    picture = imread(path)
    assert min(picture.shape[:2]) >= 300
    assert len(np.unique(picture[..., 0])) > 20
