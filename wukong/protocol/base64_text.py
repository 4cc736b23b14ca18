"""Base64 as the Go server reads it: standard alphabet, padding wanted, line breaks allowed anywhere.

Some encoders wrap their lines, so a text with line breaks is not an error.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64


def decode_base64(text: bytes) -> bytes:
    """The bytes a text stands for. Raises ValueError for anything else than base64."""
    try:
        return a2b_base64(text, strict_mode=True)
    except Base64Error:
        return a2b_base64(text.translate(None, b"\r\n"), strict_mode=True)
