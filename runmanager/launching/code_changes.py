"""What has changed in the code that a sweep rests on."""

from collections.abc import Mapping


def code_changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, file by file: `networks/fashion_cnn.py has changed`."""
    return [
        f"{name} is new" if name not in before else f"{name} is gone" if name not in now else f"{name} has changed"
        for name in sorted({**before, **now})
        if before.get(name) != now.get(name)
    ]
