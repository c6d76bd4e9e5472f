"""Arrays as plain JSON and back. What comes back from a sandbox is hostile: nothing is unpickled, sizes are checked."""

import base64
import math
from typing import Any

import numpy as np

KINDS = "biufcU"  # bool, int, unsigned, float, complex, text: nothing that holds objects


def pack(value: Any) -> Any:
    """Return a value that JSON can carry: an array as a dict, a dict or list entry by entry, the rest as it is."""
    if isinstance(value, dict):
        return {"dict": [[name, pack(entry)] for name, entry in value.items()]}
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode("ascii")
        return {"array": data, "dtype": value.dtype.str, "shape": list(value.shape)}
    return value


def unpack(value: Any) -> Any:
    """Return what was packed; raise ``ValueError`` for anything ``pack`` would not have made."""
    if isinstance(value, str | int | float):  # bool is an int
        return value
    if not isinstance(value, dict):
        raise ValueError(f"packed value: expected text, a number or a dict, got {type(value).__name__}")
    if value.keys() == {"dict"} and isinstance(value["dict"], list):
        pairs = value["dict"]
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
            raise ValueError("packed dict: expected pairs of a name and a value")
        return {name: unpack(entry) for name, entry in pairs}
    if value.keys() == {"array", "dtype", "shape"}:
        return _array(value["array"], value["dtype"], value["shape"])
    raise ValueError(f"packed value: expected a dict or an array, got the keys {sorted(map(str, value))[:5]}")


def _array(data: Any, dtype: Any, shape: Any) -> np.ndarray:
    if not isinstance(data, str) or not isinstance(dtype, str) or not isinstance(shape, list) or len(dtype) > 20:
        raise ValueError("packed array: expected text, a short dtype and a shape")
    try:
        kind = np.dtype(dtype)
        content = base64.b64decode(data, validate=True)
    except (TypeError, ValueError) as error:
        raise ValueError(f"packed array: {error}") from None
    if kind.kind not in KINDS or not kind.itemsize:
        raise ValueError(f"packed array: expected numbers or text, got dtype {dtype[:20]!r}")
    if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 32:
        raise ValueError("packed array: expected a shape of at most 32 whole numbers")
    if math.prod(shape) * kind.itemsize != len(content):
        raise ValueError(f"packed array: {len(content)} bytes do not make {dtype[:20]} of shape {shape}")
    return np.frombuffer(content, kind).reshape(shape).copy()
