"""What the tests of the examples ask of a picture."""

from pathlib import Path


def check_picture(path: Path) -> None:
    """It is large enough to read, and shows something: an empty sheet has one value."""
    import numpy as np
    from matplotlib.image import imread

    picture = imread(path)
    assert min(picture.shape[:2]) >= 300
    assert len(np.unique(picture[..., 0])) > 20
