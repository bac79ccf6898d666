"""What a file is that is no image for Pillow, judged by its first bytes, and what to do about it."""

import re

NUM_BYTES = 512  # enough of a file to tell
IS_HEIC = re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL)

# First match wins.
_KINDS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"\Z"), "the file is empty; copy or download it again"),
    (
        re.compile(rb"version https://git-lfs\.github\.com/"),
        "the image itself is missing, this is a pointer to it of Git LFS; fetch it with: git lfs pull",
    ),
    (
        IS_HEIC,
        "a HEIC photograph, which needs a package more: pip install 'headstart[heic]', or convert it to JPEG",
    ),
    (
        re.compile(rb"....ftypavi[fs]", re.DOTALL),
        "an AVIF image, which needs Pillow 11.3 or later; or convert it to PNG",
    ),
    (re.compile(rb"....ftyp", re.DOTALL), "a video, not an image; save frames of it as JPEG or PNG"),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "), "a JPEG XL image, which Pillow does not read; convert it to PNG or JPEG"),
    (
        re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg|<svg)", re.DOTALL | re.IGNORECASE),
        "an SVG drawing, which has no pixels; save it as PNG",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head|<body|<\?xml|<error)", re.IGNORECASE),
        "a web page, not an image: what was asked of a server is not what it sent; download the image again",
    ),
    (
        re.compile(rb"\xff\xd8\xff|\x89PNG|GIF8|RIFF....WEBP", re.DOTALL),
        "it begins like an image, but its header is damaged; copy or download it again",
    ),
    (re.compile(rb"%PDF"), "a PDF document; save its pages as PNG"),
    (re.compile(rb"%!PS"), "a PostScript drawing; save it as PNG"),
    (re.compile(rb".{128}DICM", re.DOTALL), "a DICOM file; save its picture as PNG, with one window for all files"),
    (
        re.compile(rb"PK\x03\x04|\x1f\x8b|Rar!|7z\xbc\xaf|\xfd7zXZ"),
        "an archive or an office document, not an image; unpack it",
    ),
)


def why_no_image(start: bytes) -> str:
    """Say what a file is that Pillow did not take for an image.

    Args:
        start: First `NUM_BYTES` bytes of the file, or all of it.
    """
    for pattern, words in _KINDS:
        if pattern.match(start):
            return words
    return "not an image in a format that Pillow reads"
