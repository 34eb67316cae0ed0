"""How long ago a spool was used, in words."""

DAY = 86400.0
"""Seconds."""


def when(used: float, now: float) -> str:
    """Both in seconds since 1970; 0: unknown."""
    if not used:
        return "at an unknown time"
    if used > now + DAY:
        return "before the clock was set back"
    seconds = max(0.0, now - used)
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds:.0f} seconds ago"
