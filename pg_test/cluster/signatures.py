"""Signatures worked out independently of the product: from the contract and the Standard Webhooks specification alone."""

import base64
import binascii
import hashlib
import hmac
import json
import time

STANDARD_PREFIX = "whsec_"
# The worker's clock and ours are the same; what lies between is the way of a request.
TIMESTAMP_TOLERANCE_SECONDS = 5


def body_signature(secret, body):
    """X-Lanonasis-Signature: the key is the secret as it is written."""
    return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def standard_key(secret):
    """What follows whsec_, decoded; a secret of any other form is its own key."""
    if secret.startswith(STANDARD_PREFIX):
        try:
            return base64.b64decode(secret[len(STANDARD_PREFIX) :], validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def standard_signature(secret, message_id, timestamp, body):
    message = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(standard_key(secret), message, hashlib.sha256).digest()).decode()


def verify(request, secret):
    """Asserts both signatures of a request, and that its timestamp is of now."""
    assert request.header("X-Lanonasis-Signature") == body_signature(secret, request.body)
    timestamp = request.header("webhook-timestamp")
    assert abs(request.wall - int(timestamp)) <= TIMESTAMP_TOLERANCE_SECONDS, (request.wall, timestamp, time.time())
    expected = standard_signature(secret, request.header("webhook-id"), timestamp, request.body)
    assert request.header("webhook-signature").split(" ") == [expected]


def _base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _hs256(message, secret):
    return _base64url(hmac.new(secret.encode(), message.encode(), hashlib.sha256).digest())


def jwt(claims, secret, header=None):
    """A JSON Web Token (RFC 7519), signed as HS256 is whatever its header says."""
    header = {"alg": "HS256", "typ": "JWT"} if header is None else header
    message = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{message}.{_hs256(message, secret)}"


def signed_again(token, secret):
    """A token, with the signature that it should have."""
    message = token.rpartition(".")[0]
    return f"{message}.{_hs256(message, secret)}"


def claims_of(token):
    """What a token says, unverified."""
    payload = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
