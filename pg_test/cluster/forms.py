"""How ids and times look, by the contract, and the keys of its objects."""

import re
import uuid
from datetime import UTC, datetime

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

WEBHOOK_KEYS = {
    "id",
    "url",
    "events",
    "active",
    "retry_policy",
    "filters",
    "created_at",
    "updated_at",
    "last_delivery",
    "delivery_stats",
}
LISTED_WEBHOOK_KEYS = {"id", "url", "events", "active", "created_at", "last_delivery", "delivery_stats"}
DELIVERY_COLUMNS = [
    "id",
    "event_id",
    "webhook_id",
    "event_type",
    "state",
    "attempts",
    "next_attempt_at",
    "last_status",
    "last_error",
    "created_at",
    "completed_at",
]
ENVELOPE_KEYS = ["id", "type", "created", "data", "webhook_id", "attempt", "livemode"]


def is_id(kind, text, version=None):
    """Whether it is kind_ and the 32 hex digits of a UUID, of a version if one is given."""
    match = re.fullmatch(rf"{kind}_([0-9a-f]{{32}})", text)
    return bool(match) and (version is None or uuid.UUID(match[1]).version == version)


def time_of(text):
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


def is_now(text, seconds=60):
    return abs((datetime.now(UTC) - time_of(text)).total_seconds()) < seconds
