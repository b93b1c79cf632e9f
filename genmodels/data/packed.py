"""How much a packed file may unpack to: a small file is not to fill the memory."""

from genmodels.errors import InputError

FREELY = 64 * 2**20  # bytes, whatever the packed size
TIMES = 256  # the packed size; deflate can reach 1032, pictures and labels stay far below this


def require_bounded(where: str, n_packed: int, n_unpacked: int) -> None:
    """Raise InputError where so many bytes are not to be expected of a file of that size."""
    if n_unpacked > FREELY + TIMES * n_packed:
        raise InputError(
            f"{where}: {n_packed} bytes that would unpack to {n_unpacked}; if that is right, keep it unpacked"
        )
