from __future__ import annotations

import contextlib
import io
import struct
import time
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest
from peak import grows_at_most
from PIL import Image

from dlenv.errors import RequestError, TooLarge, UnsupportedType
from dlenv_models.images import prepare


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims this size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


NOISE = np.random.RandomState(0).randint(0, 256, (28, 28)).astype(np.uint8)
COLOURS = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_pixels_of_the_right_size_are_kept_exactly(kind: str, options: dict[str, Any]) -> None:
    grey = prepare(encoded(Image.fromarray(NOISE), kind, **options), 1, 28, 28)
    assert grey.dtype == np.uint8
    assert grey.flags.writeable
    np.testing.assert_array_equal(grey, NOISE[None])
    rgb = prepare(encoded(Image.fromarray(COLOURS), kind, **options), 3, 32, 32)
    np.testing.assert_array_equal(rgb, COLOURS.transpose(2, 0, 1))


def test_grey_becomes_rgb_and_rgb_becomes_grey() -> None:
    rgb = prepare(encoded(Image.fromarray(NOISE)), 3, 28, 28)
    np.testing.assert_array_equal(rgb, np.stack([NOISE] * 3))
    grey = prepare(encoded(Image.new("RGB", (28, 28), (255, 0, 0))), 1, 28, 28)
    assert (grey == 76).all()  # 0.299 * 255, ITU-R 601


def test_transparent_parts_are_black() -> None:
    image = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    image.putpixel((3, 4), (255, 255, 255, 255))
    pixels = prepare(encoded(image), 1, 28, 28)
    assert pixels[0, 4, 3] == 255
    assert pixels.sum() == 255


def test_photographs_are_turned_upright() -> None:
    image = Image.fromarray(np.tile(np.arange(28, dtype=np.uint8) * 9, (28, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = prepare(encoded(image, "JPEG", exif=exif, quality=100), 1, 28, 28)
    np.testing.assert_allclose(turned[0], np.rot90(np.asarray(image), -1), atol=6)


def test_the_aspect_is_kept_and_the_rest_is_black() -> None:
    pixels = prepare(encoded(Image.new("L", (100, 50), 255)), 1, 28, 28)
    assert (pixels[0, 7:21] == 255).all()
    assert (pixels[0, :7] == 0).all()
    assert (pixels[0, 21:] == 0).all()


def test_sixteen_bits_become_eight() -> None:
    values = NOISE.astype(np.uint16) * 257
    np.testing.assert_array_equal(prepare(encoded(Image.fromarray(values)), 1, 28, 28)[0], NOISE)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png_is_taken(mode: str) -> None:
    content = encoded(Image.new(mode, (40, 30)))
    assert prepare(content, 1, 28, 28).shape == (1, 28, 28)
    assert prepare(content, 3, 16, 8).shape == (3, 16, 8)


def test_an_image_of_one_pixel() -> None:
    assert (prepare(encoded(Image.new("L", (1, 1), 200)), 1, 28, 28) == 200).all()


def test_the_first_frame_of_an_animation_counts() -> None:
    frames = [Image.new("L", (28, 28), value) for value in (10, 200)]
    content = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert (prepare(content, 1, 28, 28) == 10).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("kept", [0.05, 0.5, 0.9])
def test_truncated_files_are_refused(kind: str, kept: float) -> None:
    content = encoded(Image.fromarray(COLOURS), kind)
    with pytest.raises(RequestError, match="truncated or damaged"):
        prepare(content[: int(len(content) * kept)], 1, 28, 28)


@pytest.mark.parametrize(
    ("content", "error", "reason"),
    [
        (b"", RequestError, r"empty \(0 bytes\)"),
        (b"\x89PNG\r\n\x1a\nnonsense", RequestError, "truncated or damaged"),
        (png_header(28, 28), RequestError, "truncated or damaged"),
        (png_header(0, 28), RequestError, "damaged"),
        (png_header(60_000, 60_000), TooLarge, "pixels; at most 16,000,000"),
        (png_header(2**31 - 1, 2**31 - 1), TooLarge, "pixels; at most 16,000,000"),
        (png_header(4001, 4000), TooLarge, r"4001 x 4000 = 16,004,000 pixels; at most 16,000,000"),
        (encoded(Image.fromarray(NOISE), "GIF"), UnsupportedType, "looks like GIF"),
        (encoded(Image.fromarray(NOISE), "BMP"), UnsupportedType, "looks like BMP"),
        (encoded(Image.fromarray(NOISE), "TIFF"), UnsupportedType, "looks like TIFF"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', UnsupportedType, "looks like SVG"),
        (b"%PDF-1.7", UnsupportedType, "looks like PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", UnsupportedType, "starts with b'%!PS-Ado'"),
        (b'{"inputs": []}', UnsupportedType, "looks like JSON"),
        (b"hello", UnsupportedType, "starts with b'hello'"),
        (b"   ", UnsupportedType, "starts with"),
    ],
)
def test_bad_files_are_refused(content: bytes, error: type[RequestError], reason: str) -> None:
    with pytest.raises(error, match=reason) as caught:
        prepare(content, 1, 28, 28)
    assert type(caught.value) is error


def test_the_limit_is_the_callers() -> None:
    content = encoded(Image.new("L", (11, 10)))
    assert prepare(content, 1, 28, 28, max_pixels=110).shape == (1, 28, 28)
    with pytest.raises(TooLarge, match="11 x 10 = 110 pixels; at most 109"):
        prepare(content, 1, 28, 28, max_pixels=109)


def repeated_scans(width: int, height: int, count: int) -> bytes:
    """A progressive JPEG of one grey, with ``count`` scans that say of each block that nothing changes."""
    segments = []

    def segment(marker: int, data: bytes) -> None:
        segments.append(struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data)

    segment(0xDB, b"\0" + b"\1" * 64)  # DQT
    segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\1\x11\0")  # SOF2
    segment(0xC4, b"\0" + bytes([1]) + bytes(15) + b"\0")  # DHT, DC: one code, "no difference"
    segment(0xC4, b"\x10" + bytes([1]) + bytes(15) + b"\xe0")  # DHT, AC: one code, "the next 2^14 and more blocks end"
    blocks = -(-width // 8) * -(-height // 8)
    segment(0xDA, b"\1\1\0\0\0\0")
    segments.append(bytes(-(-blocks // 8)))  # one bit each
    runs = -(-blocks // (2**15 - 1))
    bits = ("0" + "1" * 14) * runs
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    scan = struct.pack(">BBH", 0xFF, 0xDA, 8) + b"\1\1\0\1\x3f\0" + data
    return b"\xff\xd8" + b"".join(segments) + scan * count + b"\xff\xd9"


def test_a_file_of_endless_parts_is_refused_before_it_is_opened() -> None:
    def saved(form: str) -> bytes:
        file = io.BytesIO()
        Image.new("L", (8, 8), 200).save(file, form)
        return file.getvalue()

    png, jpeg = saved("PNG"), saved("JPEG")
    chunk = struct.pack(">I4sI", 0, b"teXt", zlib.crc32(b"teXt"))
    for bomb in (
        png[:33] + chunk * 300_000 + png[33:],
        png[:-12] + chunk * 300_000 + png[-12:],
        jpeg[:2] + b"\xff\xe5\x00\x02" * 300_000 + jpeg[2:],
        jpeg[:2] + b"\xff\xd0" * 300_000 + jpeg[2:],
        jpeg[:2] + b"\xff" * 300_000 + jpeg[2:],
    ):
        with pytest.raises(TooLarge, match="more than 10,000 parts"):
            prepare(bomb, 1, 8, 8)
    comments = b"\xff\xfe\x00\x04hi" * 1000
    assert prepare(jpeg[:2] + comments + jpeg[2:], 1, 8, 8).mean() == pytest.approx(200, abs=2)
    assert prepare(png[:33] + chunk * 1000 + png[33:], 1, 8, 8).min() == 200


def test_a_jpeg_of_endless_scans_is_refused_before_it_is_decoded() -> None:
    assert prepare(repeated_scans(64, 64, 3), 1, 28, 28).shape == (1, 28, 28)
    bomb = repeated_scans(4000, 4000, 300_000)
    assert len(bomb) < 16 * 2**20
    began = time.monotonic()
    with pytest.raises(TooLarge, match="more than 500 scans"):
        prepare(bomb, 1, 28, 28)
    assert time.monotonic() - began < 2


def text_bomb(kind: bytes) -> bytes:
    """A PNG with 100 MB of text or colour profile in 100 kB."""
    packed = zlib.compress(bytes(100_000_000), 9)
    body = kind + b"name\0\0" + packed
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    good = encoded(Image.fromarray(NOISE))
    return good[:33] + chunk + good[33:]


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP", b"iTXt"])
def test_what_a_png_holds_beside_its_pixels_is_not_unpacked_without_end(kind: bytes) -> None:
    content = text_bomb(kind)
    with grows_at_most(40), contextlib.suppress(RequestError):  # refused, or passed over
        np.testing.assert_array_equal(prepare(content, 1, 28, 28), NOISE[None])


def test_a_file_that_is_two_things_is_read_as_the_image_that_it_is() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data.pkl", b"cos\nsystem\n(S'false'\ntR.")
    for more in (buffer.getvalue(), b"<script>alert(1)</script>", encoded(Image.fromarray(COLOURS), "GIF")):
        np.testing.assert_array_equal(prepare(encoded(Image.fromarray(NOISE)) + more, 1, 28, 28), NOISE[None])
        with pytest.raises(UnsupportedType):
            prepare(more + encoded(Image.fromarray(NOISE)), 1, 28, 28)
