"""What `conftest.py` checks the annotations of arrays with."""

from typing import Self

from beartype import BeartypeConf, beartype

_CONFIG = BeartypeConf(is_pep484_tower=True)  # an int is a float, as type checkers have it


def checked(function):
    """The function with its arguments and result checked on every call.

    Constructors are let through: Flax and JAX rebuild a dataclass with anything in place of its
    arrays (shapes, shardings, gradients of type float0, None). So are those that return `Self`,
    which beartype understands only where it decorates the class.
    """
    if function.__name__ == "__init__" or Self in function.__annotations__.values():
        return function
    return beartype(function, conf=_CONFIG)
