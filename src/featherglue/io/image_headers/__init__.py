"""Headers of image files: size, number of pages and memory of decoding, without decoding.

Each parser reads the fields at the places where the decoders of OpenCV read them. A parser raises
`ValueError` for a header that is damaged, and `struct.error` or `IndexError` beyond its end.
"""

from featherglue.io.image_headers.formats import parse_header
from featherglue.io.image_headers.header import ImageHeader
from featherglue.io.image_headers.jpeg import scan_start

__all__ = ["ImageHeader", "parse_header", "scan_start"]
