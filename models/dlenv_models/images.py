"""An image file as the pixels that a model takes.

Used by prediction in process and by the service, on files from strangers: it needs Pillow and numpy only, opens no
format but PNG, JPEG and WebP, and looks at the size in the header before it decodes anything.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from dlenv.errors import RequestError, TooLarge, UnsupportedType

FORMATS = ("PNG", "JPEG", "WEBP")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")

# A progressive JPEG sends the whole picture again with each scan, and a scan that changes nothing takes 40 bytes and
# milliseconds: 16 MiB of them would keep a core busy for an hour. Cameras and editors write ten or so; this is what
# libjpeg-turbo's own fuzzers stop at (fuzz/decompress.cc, 500 scans).
MOST_SCANS = 500
_START_OF_SCAN = b"\xff\xda"  # never inside a scan's data, where 0xFF is followed by 0 (ITU-T T.81, B.1.1.5)

# Pillow reads a PNG's chunks and what comes before a JPEG's first scan one by one, in Python: a million of them take
# seconds. libpng writes a chunk for each 8 KiB, so a file of 80 MB has these.
MOST_PARTS = 10_000

# First bytes of formats that people send by mistake; the names in the W3C and IANA registries of media types.
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"%PDF", "PDF"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML or SVG"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"{", "JSON"),
)


def prepare(
    image_bytes: bytes, channels: int, height: int, width: int, max_pixels: int = 16_000_000
) -> npt.NDArray[np.uint8]:
    """Decode one PNG, JPEG or WebP file to uint8 pixel values (channels, height, width), 0..255.

    The picture is turned upright (EXIF), laid on black where it is transparent, made grey (ITU-R 601 luma) for one
    channel or RGB for three, scaled to fit with its aspect kept (box-filtered Lanczos), and centred on black. Of an
    animation the first frame counts. A file that already has the right size keeps its exact pixel values.

    Raises ``TooLarge`` for more than ``max_pixels`` pixels, ``UnsupportedType`` for any other format, and
    ``RequestError`` for an empty, truncated or damaged file.
    """
    if not image_bytes:
        raise RequestError("the image is empty (0 bytes); send the content of a PNG, JPEG or WebP file")
    picture = _flatten(_decode(image_bytes, max_pixels), "L" if channels == 1 else "RGB")
    if picture.size != (width, height):
        picture = ImageOps.pad(picture, (width, height), Image.Resampling.LANCZOS, color=0)
    pixels = np.array(picture, dtype=np.uint8)  # a copy: PyTorch wants no read-only memory
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def write(pixels: npt.ArrayLike, path: Path) -> None:
    """Write pixel values (channels, height, width), cut off at 0 and 255, as PNG; raises ``OSError``."""
    values = np.rint(np.asarray(pixels, dtype=np.float32)).clip(0, 255).astype(np.uint8)
    Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0))).save(
        path, "PNG"
    )


def _decode(image_bytes: bytes, max_pixels: int) -> Image.Image:
    if _has_many_parts(image_bytes):
        raise TooLarge(f"the image is in more than {MOST_PARTS:,} parts; save it again as an ordinary one")
    try:
        picture: Image.Image = Image.open(io.BytesIO(image_bytes), formats=FORMATS)
    except UnidentifiedImageError:
        raise _unreadable(image_bytes) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TooLarge(
            f"the image has too many pixels; at most {max_pixels:,} are allowed; send a smaller one"
        ) from None
    except Exception as error:  # noqa: BLE001 - decoders of hostile files fail in many ways
        raise _damaged(error) from None
    width, height = picture.size
    if width * height > max_pixels:
        size = f"{width} x {height} = {width * height:,} pixels"
        raise TooLarge(f"the image has {size}; at most {max_pixels:,} are allowed; send a smaller one")
    if picture.format == "JPEG" and image_bytes.count(_START_OF_SCAN) > MOST_SCANS:
        raise TooLarge(f"the JPEG has more than {MOST_SCANS} scans; save it again as an ordinary one")
    try:
        picture.load()
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # noqa: BLE001 - as above
        raise _damaged(error) from None


def _has_many_parts(image_bytes: bytes) -> bool:
    """Whether a PNG has more than ``MOST_PARTS`` chunks, or a JPEG as many segments and bytes of junk in its head."""
    size, parts = len(image_bytes), 0
    if image_bytes.startswith(b"\x89PNG"):
        at = 8
        while at < size and parts <= MOST_PARTS:
            at += 12 + int.from_bytes(image_bytes[at : at + 4], "big")  # length, type, data, checksum (PNG, 5.3)
            parts += 1
    elif image_bytes.startswith(b"\xff\xd8"):
        at = 2
        while at + 1 < size and parts <= MOST_PARTS:
            parts += 1
            marker = image_bytes[at + 1]
            if image_bytes[at] != 0xFF or marker in (0x00, 0xFF):
                at += 1
            elif marker == _START_OF_SCAN[1]:
                break
            elif marker == 0x01 or 0xD0 <= marker <= 0xD9:  # they stand alone (ITU-T T.81, table B.1)
                at += 2
            else:
                at += 2 + int.from_bytes(image_bytes[at + 2 : at + 4], "big")
    return parts > MOST_PARTS


def _flatten(picture: Image.Image, mode: str) -> Image.Image:
    """``picture`` in ``mode`` (L or RGB), with transparent parts on black and 16 bits brought down to 8."""
    if picture.mode.startswith("I"):  # 16-bit grey PNG: Pillow's own conversion clips at 255
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
    return picture.convert(mode)


def _unreadable(image_bytes: bytes) -> RequestError:
    kind = next((name for start, name in _SIGNATURES if image_bytes.lstrip().startswith(start)), None)
    if kind in FORMATS:
        return RequestError(f"the {kind} image is truncated or damaged; send the whole file")
    what = f"looks like {kind}" if kind else f"starts with {image_bytes[:8]!r}"
    return UnsupportedType(f"the file is no PNG, JPEG or WebP image: it {what}; convert it to one of these")


def _damaged(error: Exception) -> RequestError:
    return RequestError(f"the image is truncated or damaged ({error}); send the whole file")
