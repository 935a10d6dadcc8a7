"""Whether numba is there, which compiles the kernels of stream learners."""

from nestling.core.errors import MissingExtra


def check_numba() -> None:
    """Raise MissingExtra unless numba can be imported; before a module that holds kernels is."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "a stream learner needs numba: pip install 'nestling[streams]'"
        ) from error
