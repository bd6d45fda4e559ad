"""Images in folders, one folder a class."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from torchkeras import KerasModel
from torchkeras.data import ImageFolder, cache


@pytest.fixture
def folder(tmp_path):
    """Ten images a class: a bright bar on the left, or on top."""
    rng = np.random.default_rng(0)
    for name in ("top", "left"):
        (tmp_path / name / "more").mkdir(parents=True)
        for number in range(10):
            pixels = rng.integers(0, 60, (12, 16, 3), dtype=np.uint8)
            if name == "top":
                pixels[:3] = 250
            else:
                pixels[:, :3] = 250
            Image.fromarray(pixels).save(tmp_path / name / ("more" if number == 9 else "") / f"{number}.png")
    (tmp_path / "left" / "notes.txt").write_text("no image")
    (tmp_path / "left" / "._0.png").write_bytes(b"what some systems leave")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "readme.png").write_bytes(b"in no class")
    return tmp_path


def pixels_of(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) / 255


def test_folders_are_classes_and_images_are_samples(folder):
    data = ImageFolder(folder)
    assert data.classes == ["left", "top"]
    assert data.class_to_idx == {"left": 0, "top": 1}
    assert len(data) == 20
    assert [number for _, number in data.samples] == [0] * 10 + [1] * 10
    image, label = data[12]
    assert label == 1
    assert image.dtype == torch.float32
    assert torch.equal(image, pixels_of(data.samples[12][0]))
    assert not torch.equal(image, data[13][0])  # control


def test_images_are_resized_to_height_and_width(folder):
    assert ImageFolder(folder, size=(6, 10))[0][0].shape == (3, 6, 10)
    assert ImageFolder(folder, size=8)[0][0].shape == (3, 8, 8)
    assert ImageFolder(folder, size=8, mode="L")[0][0].shape == (1, 8, 8)
    left, top = (ImageFolder(folder, size=(4, 4), mode="L")[number][0][0] for number in (0, 10))
    assert left[1:, 0].min() > 0.4 > left[:, 2:].max()
    assert top[0].min() > 0.4 > top[2:].max()


def test_half_of_the_images_are_mirrored(folder):
    torch.manual_seed(0)
    data = ImageFolder(folder, flip=True)
    plain = pixels_of(data.samples[0][0])
    found = [data[0][0] for _ in range(100)]
    mirrored = sum(torch.equal(image, plain.flip(2)) for image in found)
    assert 30 < mirrored < 70
    assert mirrored + sum(torch.equal(image, plain) for image in found) == 100


def test_images_are_turned_by_an_angle_within_the_limit(folder):
    torch.manual_seed(0)
    data = ImageFolder(folder, rotation=20, mode="L")
    straight = ImageFolder(folder, mode="L")[0][0]
    found = [data[0][0] for _ in range(20)]
    assert all(image.shape == straight.shape for image in found)
    assert len({tuple(image.flatten().tolist()) for image in found}) == 20
    turned = Image.open(data.samples[0][0]).convert("L").rotate(45, resample=Image.Resampling.BILINEAR)
    far = (torch.from_numpy(np.array(turned)) / 255 - straight).abs().mean()
    assert all((image - straight).abs().mean() < far for image in found)


@pytest.mark.parametrize("workers", [0, 2])
def test_random_changes_follow_torchs_seed_and_differ_between_epochs(folder, workers):
    def epochs(seed):
        torch.manual_seed(seed)
        loader = DataLoader(ImageFolder(folder, flip=True, rotation=30), batch_size=5, num_workers=workers)
        return [torch.cat([image for image, _ in loader]) for _ in range(2)]

    first, again, other = epochs(1), epochs(1), epochs(2)
    assert torch.equal(torch.stack(first), torch.stack(again))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_a_transform_sees_the_image_and_gives_what_the_net_sees(folder):
    data = ImageFolder(folder, size=8, transform=lambda image: torch.tensor(image.size),
                       target_transform=lambda number: torch.tensor([float(number)]))
    assert data[10][0].tolist() == [8, 8]
    assert data[10][1].tolist() == [1.0]
    rotated = ImageFolder(folder, transform=lambda image: image.transpose(Image.Transpose.ROTATE_180))
    assert torch.equal(rotated[0][0], ImageFolder(folder)[0][0].flip(1, 2))  # an image becomes a tensor


def test_a_photo_stands_as_its_camera_says(tmp_path):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "1.jpg", exif=exif)
    assert ImageFolder(tmp_path)[0][0].shape == (3, 30, 20)
    Image.new("RGB", (30, 20)).save(tmp_path / "a" / "1.jpg")
    assert ImageFolder(tmp_path)[0][0].shape == (3, 20, 30)  # control


def test_a_model_learns_from_a_folder(folder):
    torch.manual_seed(0)
    data = ImageFolder(folder, size=8, flip=False, rotation=5)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    model = KerasModel(net, "cross_entropy", ["accuracy"], torch.optim.Adam(net.parameters(), lr=0.01))
    history = model.fit(data, epochs=15, batch_size=5, ckpt_path=None, quiet=True)
    assert history["train_accuracy"].iloc[-1] == 1.0
    kept = cache(ImageFolder(folder, size=8))
    assert kept[3][0].shape == (3, 8, 8)


def test_folders_without_images_or_classes_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="folder: received .*nowhere'; expected a folder that exists"):
        ImageFolder(folder / "nowhere")
    with pytest.raises(ValueError, match="with no folders in it; expected a folder for each class"):
        ImageFolder(folder / "top" / "more")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="the class folder .*empty' without images"):
        ImageFolder(folder)


def test_a_file_that_is_no_image_is_named(folder):
    (folder / "left" / "a.png").write_bytes(b"not an image")
    whole = (folder / "left" / "0.png").read_bytes()
    (folder / "left" / "b.png").write_bytes(whole[:len(whole) // 2])
    data = ImageFolder(folder)
    names = [path.name for path, _ in data.samples]
    for name in ("a.png", "b.png"):
        with pytest.raises(ValueError, match=f"{name}', which cannot be read"):
            data[names.index(name)]
    assert data[names.index("0.png")][1] == 0  # control


@pytest.mark.parametrize(("options", "kind", "text"), [
    ({"size": 0}, ValueError, "size: received 0"), ({"size": "8"}, TypeError, "size: received '8'"),
    ({"size": (1, 2, 3)}, TypeError, "size"), ({"rotation": 200}, ValueError, "rotation: received 200"),
    ({"rotation": None}, TypeError, "rotation: received None"), ({"mode": "rgb"}, ValueError, "mode: received 'rgb'"),
    ({"transform": nn.Identity}, TypeError, "transform: received <class")])
def test_bad_input_is_refused_with_its_name(folder, options, kind, text):
    with pytest.raises(kind, match=text):
        ImageFolder(folder, **options)
