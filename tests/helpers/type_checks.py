"""Runtime checks of array annotations, installed by `conftest.py`."""

from typing import Self

from beartype import BeartypeConf, beartype

_CONFIG = BeartypeConf(is_pep484_tower=True)  # an int is a float, as for type checkers


def checked(function):
    """Wraps a function so that its arguments and result are checked on every call.

    Constructors are not checked: Flax and JAX rebuild a dataclass with anything instead of its
    arrays (shapes, shardings, gradients of type float0, None). Nor are functions that return
    `Self`, which beartype supports only when it decorates the class.
    """
    if function.__name__ == "__init__" or Self in function.__annotations__.values():
        return function
    return beartype(function, conf=_CONFIG)
