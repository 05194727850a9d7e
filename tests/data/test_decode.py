"""Encoded images to RGB squares: the processors' pixels, every kind of file, and honest refusals."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from image_samples import encoded, photo_like
from PIL import Image
from transformers import BlipImageProcessorPil, CLIPImageProcessorPil

import sightloop.image_files
from sightloop.data.decode import BrokenImageError, Decoding, decode

SHAPES = [(64, 64), (97, 61), (61, 97), (20, 300), (31, 33), (640, 427)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [32, 45])
def test_squash_gives_the_pixels_of_blips_processor(shape: tuple[int, int], size: int) -> None:
    image = photo_like(*shape)
    processor = BlipImageProcessorPil(
        size={"height": size, "width": size}, do_rescale=False, do_normalize=False
    )
    expected = np.asarray(processor(image)["pixel_values"][0])
    got = decode(encoded(image), Decoding(size=size, fit="squash"))
    assert np.array_equal(got.transpose(2, 0, 1), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [32, 45])
def test_crop_gives_the_pixels_of_clips_processor(shape: tuple[int, int], size: int) -> None:
    image = photo_like(*shape)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=False,
        do_normalize=False,
    )
    expected = np.asarray(processor(image)["pixel_values"][0])
    assert np.array_equal(decode(encoded(image), Decoding(size=size)).transpose(2, 0, 1), expected)


def test_a_jpeg_is_decoded_at_full_size_before_it_is_resized() -> None:
    data = encoded(photo_like(400, 300), "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(data)).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(data, Decoding(size=32, fit="squash")), expected)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(form: str) -> None:
    # Orientation 6: to be turned a quarter clockwise, so what is stored on the left appears on top.
    stored = np.full((40, 40, 3), 20, np.uint8)
    stored[:, :20] = 220
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = decode(encoded(Image.fromarray(stored), form, exif=exif), Decoding(size=40))
    assert pixels[5].mean() > 200 and pixels[35].mean() < 40


def test_cmyk_becomes_rgb() -> None:
    # No ink but cyan: red is gone, green and blue stay.
    data = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=95)
    red, green, blue = decode(data, Decoding(size=8)).mean((0, 1))
    assert red < 10 and green > 245 and blue > 245


def test_grey_becomes_three_equal_channels() -> None:
    pixels = decode(encoded(Image.new("L", (9, 9), 93)), Decoding(size=4))
    assert (pixels == 93).all() and pixels.shape == (4, 4, 3)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(form: str) -> None:
    # 65535 / 257 = 255, 25700 / 257 = 100; clipping would give 255 for both.
    grey = np.array([[0, 25700], [257, 65535]], np.uint16)
    pixels = decode(encoded(Image.fromarray(grey), form), Decoding(size=2))
    assert pixels[..., 0].tolist() == [[0, 100], [1, 255]]


def test_sixteen_bit_colors_are_scaled() -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    # One pixel of 16 bits a channel, which Pillow cannot write: 0x6400 / 257 = 99.6.
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 0x6400, 0, 0xFFFF)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert decode(data, Decoding(size=1)).tolist() == [[[100, 0, 255]]]


def test_float_grey_between_zero_and_one_is_scaled_and_other_ranges_are_refused() -> None:
    level = np.array([[0.0, 0.2], [0.4, 1.0]], np.float32)
    pixels = decode(encoded(Image.fromarray(level), "TIFF"), Decoding(size=2))
    assert pixels[..., 0].tolist() == [[0, 51], [102, 255]]
    with pytest.raises(BrokenImageError, match=r"from 0\.0 to 1000\.0, of which the white is unknown"):
        decode(encoded(Image.fromarray(level * 1000), "TIFF"), Decoding(size=2))


def test_transparency_lies_over_white() -> None:
    rgba = np.array([[[255, 0, 0, 255], [0, 0, 0, 0]], [[0, 0, 0, 128], [0, 255, 0, 255]]], np.uint8)
    pixels = decode(encoded(Image.fromarray(rgba)), Decoding(size=2))
    # Half-transparent black over white: 255 * (1 - 128 / 255) = 127.
    assert pixels.tolist() == [[[255, 0, 0], [255, 255, 255]], [[127, 127, 127], [0, 255, 0]]]


def test_a_palette_with_transparency_lies_over_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert (
        decode(encoded(image.resize((2, 2)), transparency=b"\x00\xff"), Decoding(size=2)).tolist()
        == [[[255, 255, 255], [200, 100, 50]]] * 2
    )


@pytest.mark.parametrize(
    ("image", "transparent"), [(Image.new("L", (3, 3), 7), 7), (Image.new("I;16", (3, 3), 700), 700)]
)
def test_a_transparent_grey_level_is_white(image: Image.Image, transparent: int) -> None:
    assert (decode(encoded(image, transparency=transparent), Decoding(size=3)) == 255).all()


def test_an_animation_gives_its_first_frame() -> None:
    red, blue = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    data = encoded(red, "GIF", save_all=True, append_images=[blue])
    assert decode(data, Decoding(size=4))[0, 0].tolist() == [250, 0, 0]


def test_a_truncated_jpeg_is_broken() -> None:
    data = encoded(photo_like(200, 200), "JPEG")
    with pytest.raises(BrokenImageError, match="truncated"):
        decode(data[: len(data) // 2], Decoding(size=32))


@pytest.mark.parametrize("data", [b"not an image", b"<html>404</html>", b"%PDF-1.7 and so on"])
def test_what_is_no_image_says_so(data: bytes) -> None:
    with pytest.raises(BrokenImageError, match="not an image of a known format"):
        decode(data, Decoding(size=8))


def test_an_empty_file_says_so() -> None:
    with pytest.raises(BrokenImageError, match="it is empty"):
        decode(b"", Decoding(size=8))


def test_postscript_is_never_interpreted() -> None:
    data = encoded(photo_like(9, 9), "EPS")
    with pytest.raises(BrokenImageError, match="not an image of a known format"):
        decode(data, Decoding(size=8))


def test_max_pixels_is_the_only_limit_of_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow would warn from 101 pixels on and refuse from 201 on.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    data = encoded(Image.new("L", (30, 20), 50))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            BrokenImageError, match="30 x 20 pixels, more than the 599 that are accepted; scale it down"
        ):
            decode(data, Decoding(size=8, max_pixels=599))
        assert decode(data, Decoding(size=8, max_pixels=600))[0, 0, 0] == 50
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa"])
def test_transparency_is_laid_over_white_strip_by_strip(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (23, 17, 4), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    whole = sightloop.image_files.over_white(picture)
    monkeypatch.setattr(sightloop.image_files, "_STRIP_PIXELS", 40)
    assert np.array_equal(np.asarray(whole), np.asarray(sightloop.image_files.over_white(picture)))
    ground = Image.new("RGBA", picture.size, "white")
    assert whole == Image.alpha_composite(ground, picture.convert("RGBA")).convert("RGB")


def test_a_thread_too_thin_to_crop_is_refused_before_it_fills_the_memory() -> None:
    # 364 pixels wide would be 364 * 10000 pixels high: 1.3 gigapixels.
    data = encoded(Image.new("L", (1, 10_000), 50))
    with pytest.raises(BrokenImageError, match="too elongated"):
        decode(data, Decoding(size=364))
    assert decode(data, Decoding(size=364, fit="squash")).shape == (364, 364, 3)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"size": 0}, "size is 0"), ({"size": 8, "max_pixels": 0}, "max_pixels is 0")]
)
def test_a_wrong_setting_is_named(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Decoding(**wrong)  # pyright: ignore[reportArgumentType]
