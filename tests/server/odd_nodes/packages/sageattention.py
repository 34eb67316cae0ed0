"""A package of this name is installed, so that only the machine is in the way of its kernel; it must not be called."""


def sageattn(*_args, **_kwargs):
    raise AssertionError("called where it cannot run")
