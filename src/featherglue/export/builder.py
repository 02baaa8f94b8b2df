"""A builder of ONNX graphs. It needs the `onnx` package, not PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
FLOAT, UINT8, INT64 = int(TensorProto.FLOAT), int(TensorProto.UINT8), int(TensorProto.INT64)


class Graph:
    """An ONNX graph under construction. Nodes run in the order in which they are added.

    Values are identified by name.

    Args:
        name: name of the graph.
        round_constants: store all large float32 constants as float16, rounded.
    """

    def __init__(self, name: str, round_constants: bool = False) -> None:
        self.name, self.round_constants = name, round_constants
        self._scope = ""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Add a graph input and return its name. A string in `shape` is a dynamic size."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, value: str, name: str, shape: Sequence[int | str], dtype: int = FLOAT) -> None:
        """Make `value` the graph output `name`."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of the nodes in the `with` block; constants are shared by all scopes."""
        outer, self._scope = self._scope, f"{self._scope}{name}/"
        yield
        self._scope = outer

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Add a node with one output and return the name of the output."""
        return self.split(kind, *inputs, outputs=1, name=name, **attributes)[0]

    def split(
        self, kind: str, *inputs: str, outputs: int, name: str = "", **attributes: Any
    ) -> list[str]:
        """Add a node with several outputs and return their names."""
        name = self._scope + (name or f"{kind}_{len(self._nodes)}")
        results = [name] if outputs == 1 else [f"{name}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), results, name=name, **attributes))
        return results

    def constant(
        self, name: str, array: NDArray[Any] | Sequence[int] | float, halve: bool = True
    ) -> str:
        """Add a constant, unless there is one of this name, and return its name.

        Args:
            array: Python integers become int64, floats float32.
            halve: store large float32 arrays as float16 with a cast if that is exact. Runtimes
                fold the cast when they load the graph.
        """
        values = np.asarray(array)
        if values.dtype == np.float64:
            values = values.astype(np.float32)
        if name in self._constants:
            return name
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        exact = self.round_constants or bool((half == values).all())
        if halve and values.dtype == np.float32 and values.size > 64 and exact:
            self._constants[name] = numpy_helper.from_array(half, f"{name}.half")
            cast = helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
            self._nodes.append(cast)
        else:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def integers(self, *values: int) -> str:
        """Add a list of int64 as a constant and return its name."""
        return self.constant("integers_" + "_".join(map(str, values)), list(values))

    def integer(self, value: int) -> str:
        """Add an int64 scalar as a constant and return its name."""
        return self._scalar(f"integer_{value}", np.array(value, np.int64))

    def number(self, value: float) -> str:
        """Add a float32 scalar as a constant and return its name."""
        return self._scalar(f"number_{float(value)!r}", np.array(value, np.float32))

    def _scalar(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def build(self, metadata: Mapping[str, str]) -> bytes:
        """The serialized ONNX model.

        Args:
            metadata: the model's metadata properties.

        Raises:
            onnx.checker.ValidationError: the graph is invalid.
        """
        graph = helper.make_graph(
            self._nodes, self.name, self._inputs, self._outputs, list(self._constants.values())
        )
        opset = helper.make_opsetid("", OPSET)
        model = helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="featherglue"
        )
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        serialized = model.SerializeToString(deterministic=True)
        assert isinstance(serialized, bytes)
        return serialized
