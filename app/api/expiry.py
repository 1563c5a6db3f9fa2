"""`expires_after` of files and `output_expires_after` of batches."""

from app.api.errors import bad_request, invalid_type, invalid_value, missing_parameter

SHORTEST_SECONDS = 3600
LONGEST_SECONDS = 2_592_000


def checked_seconds(anchor: object, seconds: object, names: tuple[str, str]) -> int:
    """Seconds after its creation that a file expires; None stands for an absent member. Raises ApiError.

    `names` are those of anchor and seconds in this request.
    """
    for name, value in zip(names, (anchor, seconds), strict=True):
        if value is None:
            raise missing_parameter(name)
    if anchor != "created_at":
        raise invalid_value(names[0], anchor, ("created_at",))
    if isinstance(seconds, float) and seconds.is_integer():
        seconds = int(seconds)  # JSON has one kind of number
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise invalid_type(names[1], "an integer", seconds)
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        message = f"Invalid '{names[1]}': {seconds}. Expected from {SHORTEST_SECONDS} to {LONGEST_SECONDS} seconds."
        raise bad_request(message, names[1], "invalid_value")
    return seconds
