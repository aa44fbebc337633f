"""Ids as the extension makes them."""

import uuid


def uuid_at(unix_seconds):
    """The largest UUID of version 7 of that millisecond."""
    return uuid.UUID(f"{int(unix_seconds * 1000):012x}7fff8fffffffffffffff")
