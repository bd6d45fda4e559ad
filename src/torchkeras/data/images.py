"""Images in folders, one folder a class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchkeras.core.errors import bad_type, bad_value, one_of, whole_number
from torchkeras.core.types import Value

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # those of the suffixes
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MODES = ("RGB", "L", "RGBA")


class ImageFolder(Dataset[Any]):
    """Train on images that lie in one folder per class, with a few random transforms built in.

    ``folder/cat/1.jpg, folder/cat/2.jpg, folder/dog/1.jpg`` has the classes ``["cat", "dog"]``, in
    alphabetical order. Random transforms draw from torch's global random state, from which
    DataLoader workers are seeded.

    Args:
        folder: the folder of the class folders; images lie in them at any depth.
        size: (height, width) to which images are resized; an int for squares; None leaves them as
            they are, which works in batches only if all have one size.
        flip: mirror left and right, with a probability of 0.5.
        rotation: rotate by an angle drawn between minus and plus this many degrees; corners become
            black.
        transform: takes the image (of PIL, after the changes above) and returns the input of the
            net, such as the transforms of torchvision. None: a float tensor
            ``(channels, height, width)`` from 0 to 1.
        target_transform: takes the class number and returns the label. None: the number as it is.
        mode: "RGB", "L" (grey, one channel) or "RGBA".

    Attributes:
        classes: the names of the classes.
        class_to_idx: the number of each.
        samples: path and class number of each image.

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: there is no such folder, it has no class folders, a class has no images, or an
            argument is out of range; on reading, a file is no image, or has more pixels than
            ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million).

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("cat", "dog"):
        ...         (Path(folder) / name).mkdir()
        ...         Image.new("RGB", (30, 20)).save(Path(folder) / name / "1.png")
        ...     train = ImageFolder(folder, size=(16, 24), flip=True, rotation=10)
        ...     image, label = train[1]
        >>> train.classes, image.shape, label
        (['cat', 'dog'], torch.Size([3, 16, 24]), 1)
    """

    def __init__(self, folder: str | os.PathLike[str], *,
                 size: int | tuple[int, int] | None = None, flip: bool = False,
                 rotation: float = 0.0, transform: Callable[[Image], Any] | None = None,
                 target_transform: Callable[[int], Any] | None = None, mode: str = "RGB") -> None:
        one_of("mode", mode, MODES)
        for argument, function in (("transform", transform),
                                   ("target_transform", target_transform)):
            if isinstance(function, type) or not (function is None or callable(function)):
                raise bad_type(argument, received=repr(function), expected="a function or None")
        self.folder, self.mode = Path(folder).expanduser(), mode
        self.size, self.flip = checked_size(size), bool(flip)
        self.rotation = checked_angle(rotation)
        self.transform, self.target_transform = transform, target_transform
        self.classes = class_folders(self.folder)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.samples = [(path, number) for name, number in self.class_to_idx.items()
                        for path in images_in(self.folder / name)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, number = self.samples[index]
        image: Any = self.changed(read_image(path, self.mode))
        image = image if self.transform is None else self.transform(image)
        label = number if self.target_transform is None else self.target_transform(number)
        return as_tensor(image), label

    def changed(self, image: Image) -> Image:
        """Return the image resized, mirrored and rotated, as the arguments say."""
        from PIL import Image as images

        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], resample=images.Resampling.BILINEAR)
        if self.flip and torch.rand(()) < 0.5:
            image = image.transpose(images.Transpose.FLIP_LEFT_RIGHT)
        if self.rotation:
            angle = (2 * torch.rand(()).item() - 1) * self.rotation
            image = image.rotate(angle, resample=images.Resampling.BILINEAR)
        return image


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, without hidden ones."""
    if not folder.is_dir():
        raise bad_value("folder", received=repr(str(folder)), expected="a folder that exists",
                        fix="Check the path and the working directory.")
    names = sorted(one.name for one in folder.iterdir()
                   if one.is_dir() and not one.name.startswith("."))
    if not names:
        raise bad_value("folder", received=f"{str(folder)!r}, with no folders in it",
                        expected="a folder for each class")
    return names


def images_in(folder: Path) -> Iterable[Path]:
    """Return the paths of a class's images, in order."""
    found = sorted(path for path in folder.rglob("*")
                   if path.suffix.lower() in SUFFIXES and path.is_file()
                   and not path.name.startswith("."))
    if not found:
        raise bad_value("folder", received=f"the class folder {str(folder)!r} without images",
                        expected="files that end in " + ", ".join(sorted(SUFFIXES)),
                        fix="Remove it or fill it.")
    return found


def read_image(path: Path, mode: str) -> Image:
    """Return an image, upright as its EXIF tag says; the first of several in a file.

    Only the formats of the known suffixes are read, whatever a file begins with: for others Pillow
    may start other programs.
    """
    from PIL import Image

    cause = None
    try:
        with Image.open(path, formats=FORMATS) as file:
            wrong = size_error(file.size)  # from the header, before memory is allocated
            if not wrong:
                file.load()
                wrong = size_error(file.size)  # frames of a GIF may be larger than its header says
            if not wrong:
                return upright(file).convert(mode)
    except Exception as error:  # Pillow's readers fail on foreign files in many ways
        wrong, cause = f"cannot be read ({error_text(error)})", error
    raise bad_value("folder", received=f"{str(path)!r}, which {wrong}", expected="an image",
                    fix="Remove the file or fetch it again; for larger images that you trust, "
                        "raise PIL.Image.MAX_IMAGE_PIXELS.") from cause


def size_error(size: tuple[int, int]) -> str:
    """Return why an image of this size is not read; nothing if it is.

    A file of 400 kB may hold gigabytes of one colour. Pillow itself warns above its limit, and
    refuses above twice as much.
    """
    from PIL import Image

    most = Image.MAX_IMAGE_PIXELS
    if min(size) < 1:
        return "has no pixels"
    if most is not None and size[0] * size[1] > most:
        return f"has {size[0]} x {size[1]} pixels, and {most:,} are allowed"
    return ""


def upright(image: Image) -> Image:
    """Return an image rotated as its EXIF tag says; as it is if that cannot be read."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # what cameras and editors write there breaks Pillow's reader in many ways
        return image


def error_text(error: Exception) -> str:
    """Return an error in one line, without the file's name, which Pillow repeats."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if text.startswith("cannot identify image file"):
        return "it is none of " + ", ".join(FORMATS)
    return f"{type(error).__name__}: {' '.join(text.split())[:160]}"


def as_tensor(image: Value) -> Any:
    """Return an image of PIL as floats from 0 to 1, channels first; anything else as it is."""
    if not hasattr(image, "getbands"):
        return image
    values = torch.from_numpy(np.array(image, dtype=np.uint8))
    pixels: Tensor = values[:, :, None] if values.dim() == 2 else values
    return pixels.permute(2, 0, 1).contiguous().to(torch.get_default_dtype()) / 255


def checked_size(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width; raise if they are no positive ints."""
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else size
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise bad_type("size", received=repr(size), expected="(height, width), an int or None")
    for length in pair:
        whole_number("size", length, least=1)
    return int(pair[0]), int(pair[1])


def checked_angle(rotation: float) -> float:
    """Return the degrees as a float; raise unless they are from 0 to 180."""
    if isinstance(rotation, bool) or not isinstance(rotation, (int, float)):
        raise bad_type("rotation", received=f"{rotation!r} ({type(rotation).__name__})",
                       expected="degrees, 0 to 180")
    if not 0 <= rotation <= 180:
        raise bad_value("rotation", received=rotation, expected="degrees, 0 to 180")
    return float(rotation)
