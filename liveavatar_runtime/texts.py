"""Numbers and lists in the words of users."""


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def clips_text(clips: range) -> str:
    """Clips for people, who count them from 1."""
    return f"clip {clips.start + 1}" if len(clips) == 1 else f"clips {clips.start + 1} to {clips.stop}"
