"""Which objects are mirrored, which results are awaited; everything else is data."""

import inspect


def is_awaited(value: object) -> bool:
    """Whether a call is finished only when this, its result, has been awaited; a store is awaitable without that."""
    return inspect.isawaitable(value) and not is_api(value)


def is_api(value: object) -> bool:
    """Whether `value` is one of our asynchronous objects, or a context manager one of their methods gave."""
    kind = type(value)
    if kind.__module__ == "contextlib":
        return hasattr(kind, "__aenter__")
    if not kind.__module__.startswith("polymem."):  # data, which may well have asynchronous methods of its own
        return False
    members = (member for owner in kind.__mro__ for name, member in vars(owner).items() if not name.startswith("_"))
    return any(inspect.iscoroutinefunction(m) or inspect.isasyncgenfunction(m) for m in members)
