"""Proof that a request is ours: HMAC-SHA256 under `wukong.webhookSecret`. docs/webhooks.md says how to check it."""

import hashlib
import hmac

TIMESTAMP = "X-Wukong-Timestamp"
ID = "X-Wukong-Id"
SIGNATURE = "X-Wukong-Signature"


def headers(secret: str, timestamp_s: int, request_id: str, body: bytes) -> dict[str, str]:
    """The headers of one attempt. Without a secret the signature is left out: nobody could tell it from any other."""
    named = {TIMESTAMP: str(timestamp_s), ID: request_id}
    if secret:
        named[SIGNATURE] = sign(secret, timestamp_s, request_id, body)
    return named


def sign(secret: str, timestamp_s: int, request_id: str, body: bytes) -> str:
    """`v1=` and the hexadecimal HMAC-SHA256 over TIMESTAMP "." ID "." BODY."""
    digest = hmac.new(secret.encode(), f"{timestamp_s}.{request_id}.".encode(), hashlib.sha256)
    digest.update(body)
    return f"v1={digest.hexdigest()}"
