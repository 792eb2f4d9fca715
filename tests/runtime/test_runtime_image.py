import numpy as np
import pytest
from PIL import Image

from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.preprocess.image import ImagePreprocess, convert_channels, load_image, resize_bilinear

RNG = np.random.default_rng(5)
CONFIG = {
    "kind": "image",
    "height": 8,
    "width": 6,
    "channels": 3,
    "scale": 1 / 255,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "resize": "bilinear",
}


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


SIZES = [(8, 8, 8, 8), (28, 28, 14, 14), (28, 28, 8, 8), (100, 37, 31, 64), (7, 5, 64, 48), (480, 640, 224, 224),
         (1, 1, 9, 9), (9, 9, 1, 1), (2, 300, 3, 299), (33, 33, 32, 34), (1080, 50, 7, 7)]  # fmt: skip


@pytest.mark.parametrize(("height", "width", "to_height", "to_width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_is_within_one_step_of_pillow(height, width, to_height, to_width, channels):
    image = noise(height, width, channels)
    pillow = Image.fromarray(image[..., 0] if channels == 1 else image)
    wanted = np.asarray(pillow.resize((to_width, to_height), Image.Resampling.BILINEAR), np.float32)
    ours = resize_bilinear(image, height=to_height, width=to_width)
    assert ours.dtype == np.float32
    # Pillow rounds to 8 bits between the two passes and after them: half a step each.
    assert np.abs(ours - wanted.reshape(ours.shape)).max() <= 1.0 + 1e-3


@pytest.mark.parametrize(("height", "width", "to_height", "to_width"), SIZES)
def test_float_resize_equals_pillow_float_resize(height, width, to_height, to_width):
    image = RNG.normal(size=(height, width)).astype(np.float32)
    wanted = np.asarray(Image.fromarray(image).resize((to_width, to_height), Image.Resampling.BILINEAR))
    ours = resize_bilinear(image[..., None], height=to_height, width=to_width)[..., 0]
    np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_resize_without_antialias_would_be_seen():
    """Negative control: picking the two nearest pixels alone misses Pillow by far."""
    image = noise(480, 640, 1)
    wanted = np.asarray(Image.fromarray(image[..., 0]).resize((64, 48), Image.Resampling.BILINEAR), np.float32)
    assert np.abs(image[5::10, 5::10, 0].astype(np.float32) - wanted).max() > 50


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
@pytest.mark.parametrize("have", [1, 3, 4])
def test_channels_are_converted_as_pillow_does(mode, channels, have):
    image = noise(16, 17, have)
    pillow = Image.fromarray(image[..., 0] if have == 1 else image)
    wanted = np.asarray(pillow.convert(mode)).reshape(16, 17, channels)
    np.testing.assert_array_equal(convert_channels(image, channels), wanted)


def test_float_colour_becomes_grey_by_the_same_weights():
    image = noise(9, 9, 3)
    grey = convert_channels(image, 1).astype(np.float32)
    np.testing.assert_allclose(convert_channels(image.astype(np.float32), 1), grey, atol=0.51)


def test_tensor_is_the_formula():
    image = noise(8, 6, 3)
    tensor = ImagePreprocess.from_json(CONFIG)(image)["image"]
    wanted = (image / 255 - np.array(CONFIG["mean"])) / np.array(CONFIG["std"])
    assert (tensor.dtype, tensor.shape) == (np.float32, (1, 8, 6, 3))
    np.testing.assert_allclose(tensor[0], wanted, atol=1e-5)


def test_dtype_does_not_change_the_tensor():
    image, preprocess = noise(8, 6, 3), ImagePreprocess.from_json(CONFIG)
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(preprocess(image.astype(dtype))["image"], preprocess(image)["image"])


def test_grey_array_feeds_a_colour_model_and_back():
    colour = ImagePreprocess.from_json(CONFIG)
    grey = ImagePreprocess.from_json(CONFIG | {"channels": 1, "mean": [0.0], "std": [1.0]})
    plane = noise(8, 6)
    np.testing.assert_array_equal(colour(plane)["image"], colour(np.repeat(plane[..., None], 3, axis=2))["image"])
    assert grey(plane)["image"].shape == grey(noise(20, 20, 3))["image"].shape == (1, 8, 6, 1)


def test_input_array_is_left_alone():
    image = RNG.random((8, 6, 3), np.float32)
    before = image.copy()
    ImagePreprocess.from_json(CONFIG)(image)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (noise(8, 6, 3).astype(np.int64), "E0913"),
        (noise(8, 6, 3) > 4, "E0913"),
        ([[1, 2]], "E0913"),
        (None, "E0913"),
        (noise(8), "E0914"),
        (noise(1, 8, 6, 3), "E0914"),
        (noise(0, 6, 3), "E0914"),
        (noise(8, 6, 2), "E0915"),
        (np.full((9, 9, 3), np.nan, np.float32), "E0906"),
    ],
)
def test_wrong_image_is_a_usage_error(image, code):
    with pytest.raises(UsageError) as caught:
        ImagePreprocess.from_json(CONFIG)(image)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "edit",
    [
        {"height": 0},
        {"width": "x"},
        {"channels": 2},
        {"std": [0.0]},
        {"std": [1.0, 1.0]},
        {"mean": None},
        {"scale": 1e300, "std": [1e-300]},
        {"resize": "nearest"},
        {"kind": "sound"},
    ],
)
def test_wrong_config_is_a_bundle_error(edit):
    with pytest.raises(BundleError) as caught:
        ImagePreprocess.from_json(CONFIG | edit)
    assert caught.value.code == "E0515"


def test_files_are_decoded(tmp_path):
    colour, grey = noise(10, 12, 3), noise(10, 12)
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(grey).save(tmp_path / "g.png")
    Image.fromarray(colour).convert("P").save(tmp_path / "p.png")
    np.save(tmp_path / "c.npy", colour)
    np.testing.assert_array_equal(load_image(tmp_path / "c.png"), colour)
    np.testing.assert_array_equal(load_image(tmp_path / "g.png"), grey)
    np.testing.assert_array_equal(load_image(tmp_path / "c.npy"), colour)
    assert load_image(tmp_path / "p.png").shape == (10, 12, 3)


def test_photo_is_turned_upright(tmp_path):
    photo = Image.fromarray(noise(10, 12, 3))
    exif = photo.getexif()
    exif[0x0112] = 6  # the camera was held on its side
    photo.save(tmp_path / "photo.png", exif=exif)
    assert load_image(tmp_path / "photo.png").shape == (12, 10, 3)


def test_missing_and_broken_files_are_errors(tmp_path, monkeypatch):
    with pytest.raises(MissingError):
        load_image(tmp_path / "absent.png")
    (tmp_path / "x.png").write_bytes(b"no image")
    (tmp_path / "x.npy").write_bytes(b"no array")
    for name in ("x.png", "x.npy"):
        with pytest.raises(UsageError):
            load_image(tmp_path / name)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingError) as caught:
        load_image(tmp_path / "x.png")
    assert caught.value.code == "E0657"


def test_a_picture_that_would_fill_the_memory_is_an_error_of_ours(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow refuses twice as many
    with pytest.raises(UsageError, match=r"cannot decode the image bomb\.png") as caught:
        load_image(tmp_path / "bomb.png")
    assert caught.value.code == "E0916"
