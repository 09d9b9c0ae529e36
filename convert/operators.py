"""Writing an ONNX graph operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.tape import Tape

Operand = ir.Value | npt.NDArray[Any] | Sequence[int] | int
"""A value of the graph, or a constant: integers become int64."""


class Operators:
    """Collects the operators and initialisers of a graph."""

    def __init__(self, weights: Mapping[str, ir.TensorProtocol]) -> None:
        self._tape = Tape()
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self.weights = {name: self._tape.initializer(tensor) for name, tensor in weights.items()}

    def op(self, kind: str, *operands: Operand, **attributes: Any) -> ir.Value:
        """Append an operator with one output."""
        return self._tape.op(kind, [self._value(each) for each in operands], attributes)

    def split(self, x: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
        return self.several(len(sizes), "Split", x, sizes, axis=axis)

    def several(self, outputs: int, kind: str, *operands: Operand, **attributes: Any) -> Sequence[ir.Value]:
        """Append an operator with several outputs."""
        inputs = [self._value(each) for each in operands]
        return self._tape.op_multi_out(kind, inputs, attributes, num_outputs=outputs)

    def _value(self, operand: Operand) -> ir.Value:
        """Return the operand as a value; equal constants share an initialiser."""
        if isinstance(operand, ir.Value):
            return operand
        array = operand if isinstance(operand, np.ndarray) else np.array(operand, np.int64)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array, name=f"constant.{len(self._constants)}")
            self._constants[key] = self._tape.initializer(tensor)
        return self._constants[key]

    def graph(self, name: str, opset: int, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
        """Return the graph of all operators."""
        return ir.Graph(
            inputs,
            outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": opset},
            name=name,
        )
