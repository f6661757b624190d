"""Arrays in .npz files: the same bytes every time on the way out, no surprises on the way in."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST_TENSOR_BYTES = 2 << 30
NPY_HEADER_BYTES = 256

READ_ARRAY: Callable[..., NDArray[Any]] = np.lib.format.read_array  # untyped in numpy 1


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return `arrays` as an .npz file whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    ordered: dict[str, Any] = {name: arrays[name] for name in sorted(arrays)}
    np.savez(buffer, **ordered)
    return buffer.getvalue()


def read_tensors(
    content: bytes, expected: Mapping[str, tuple[tuple[int, ...], str]]
) -> dict[str, NDArray[Any]]:
    """
    Return the arrays of an .npz file that must hold exactly `expected` (name: shape, type).

    Sizes are checked before anything is unpacked; no pickles. Raises `ValueError` with the reason.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if sorted(members) != sorted(expected) or len(members) != len(archive.infolist()):
                raise ValueError("it does not hold the tensors that the manifest lists")
            for name, (shape, dtype) in expected.items():
                size = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
                if size > LARGEST_TENSOR_BYTES or members[name].file_size > size + NPY_HEADER_BYTES:
                    raise ValueError(
                        f"tensor '{name}' is larger than the manifest says, or than is allowed"
                    )
                with archive.open(members[name]) as stream:
                    array = READ_ARRAY(stream, allow_pickle=False)
                if array.shape != shape or array.dtype != np.dtype(dtype):
                    raise ValueError(
                        f"tensor '{name}' is {array.dtype} {array.shape}, not {dtype} {shape}"
                    )
                arrays[name] = array
    except ValueError:
        raise
    except Exception as error:  # damaged archives fail in zlib, tokenize, struct and elsewhere
        raise ValueError(str(error)) from error
    return arrays
