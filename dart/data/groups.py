"""Groups of a data set's frames, for numbers that must not be pooled over the whole set."""


def group_of(key: str, *, otherwise: str) -> str:
    """Return the first part of a frame's key, or ``otherwise`` where keys have no parts.

    >>> group_of("kitchen/0001", otherwise="all")
    'kitchen'
    """
    return key.split("/", 1)[0] if "/" in key else otherwise
