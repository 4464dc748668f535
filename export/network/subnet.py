"""One width of a slimmable network, cut out as an ordinary module.

The cut is made of what the network computes, not of how it is written: PyTorch traces ``forward`` at the width, and
the trace is rewritten. Whatever follows from weights alone, such as the leading slice of a kernel, becomes a tensor
of its own, and a batch norm is folded into the convolution before it (weights scaled, a bias added), in float64 so
that folding costs no accuracy of its own. So one cut serves every network, whichever layers it has.

The pixel normalisation stays two explicit operations. Folding it into the first convolution as well would be wrong
at the border: it pads the *normalised* image with zeros, and a folded one would pad the raw pixels with zeros, which
stand for ``-mean / std``. Two element-wise operations on the image are cheap; an inexact border is not.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from export.errors import NetworkError, one_line
from export.network.protocol import AtWidth, SlimmableNetwork
from export.width import Width, render_ratio

_aten = torch.ops.aten
_FOLDED_INTO = frozenset({_aten.conv1d.default, _aten.conv2d.default, _aten.conv3d.default, _aten.linear.default})
"""Operators whose arguments begin with input, weight [out, …] and bias."""


def cut_subnet(network: SlimmableNetwork, width: Width, shape: tuple[int, int, int]) -> fx.GraphModule:
    """Return ``network`` at ``width`` as a plain module on the CPU, in evaluation mode, sharing no memory with it.

    It takes float32 [n, c, h, w] of the given shape (c, h, w) and returns logits float32 [n, classes], for any n. The
    network is on the CPU and in evaluation mode. Raises NetworkError for one that PyTorch can't trace.
    """
    example = (torch.zeros(2, *shape),)  # a batch of 1 would be taken for a constant
    batch = torch.export.Dim("batch", min=1)
    try:
        program = torch.export.export(AtWidth(network, width).eval(), example, dynamic_shapes=({0: batch},))
    except Exception as exc:  # whatever the network's own code or the tracer raises
        raise NetworkError(
            f"width {render_ratio(width)} can't be traced by torch.export ({one_line(exc)}); "
            "let forward be free of branches on values and of sizes that hold for one batch alone"
        ) from exc
    with torch.no_grad():
        return _Cut(program.module()).module(type(network).__name__)


def flops_per_image(subnet: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the floating-point operations of one image of ``shape`` (c, h, w).

    A multiply-add counts as two, and only convolutions and matrix products count, as PyTorch's own counter does it:
    biases, ReLU, pooling and sums are left out.
    """
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        subnet(torch.zeros(1, *shape))
    return int(counter.get_total_flops())


def _is_mutating(node: fx.Node) -> bool:
    """Whether a node changes what it is given, as ``x += y`` does."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


class _Cut:
    """A traced network while it is rewritten."""

    def __init__(self, traced: fx.GraphModule) -> None:
        self.graph = traced.graph
        self.known: dict[Any, torch.Tensor] = {}  # the value of each node that no input changes
        self.learnt: set[fx.Node] = set()  # those of them that come from parameters
        for node in self.graph.nodes:
            self._evaluate(node, traced)
        for node in list(self.graph.nodes):
            while node.target in _FOLDED_INTO and self._fold_into(node):
                pass

    def _evaluate(self, node: fx.Node, traced: fx.GraphModule) -> None:
        """Note the value of a node that depends on nothing but tensors of the network."""
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(traced)
        elif node.op == "call_function" and self._is_constant(node):
            args, kwargs = fx.map_arg((node.args, node.kwargs), self.known.__getitem__)
            value = node.target(*args, **kwargs)  # type: ignore[operator]
        else:
            return
        if isinstance(value, torch.Tensor):
            self.known[node] = value
            if isinstance(value, nn.Parameter) or not self.learnt.isdisjoint(node.all_input_nodes):
                self.learnt.add(node)

    def _is_constant(self, node: fx.Node) -> bool:
        inputs = set(node.all_input_nodes)
        return bool(inputs) and self.known.keys() >= inputs and not _is_mutating(node)

    def _fold_into(self, node: fx.Node) -> bool:
        """Fold the scale and shift that follow a convolution into it; tell whether there were any."""
        arguments: tuple[Any, ...] = node.args
        x, weight, bias, *rest = (*arguments, None)[: max(3, len(arguments))]
        if len(node.users) != 1 or weight not in self.known or not (bias is None or bias in self.known):
            return False
        if node.meta["val"].ndim != self.known[weight].ndim:  # channels are not behind the batch, as in a sequence
            return False
        user = next(iter(node.users))
        affine = self._affine(user, node, self.known[weight])
        if affine is None:
            return False
        scale, shift = affine
        old = self.known[weight].double()
        if bias is not None:
            shift = self.known[bias].double() * scale + shift
        with self.graph.inserting_before(node):
            folded = [self.graph.create_node("get_attr", "folded") for _ in (old, shift)]  # named when they are copied
        self.known |= dict(zip(folded, (old * scale.view(-1, *[1] * (old.ndim - 1)), shift), strict=True))
        self.learnt.update(folded)
        node.args = (x, *folded, *rest)
        user.replace_all_uses_with(node)
        self.graph.erase_node(user)
        return True

    def _affine(self, user: fx.Node, node: fx.Node, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return scale and shift, float64 [channels], which ``user`` applies to ``node``; None for anything else."""
        if user.target is _aten.batch_norm.default:
            arguments: tuple[Any, ...] = user.args
            _, *tensors, training, _, eps = arguments[:8]
            if training or not all(tensor in self.known for tensor in tensors if tensor is not None):
                return None
            gamma, beta, mean, variance = (None if t is None else self.known[t].double() for t in tensors)
            assert mean is not None and variance is not None
            scale = 1 / torch.sqrt(variance + eps) if gamma is None else gamma / torch.sqrt(variance + eps)
            return scale, -mean * scale if beta is None else beta - mean * scale
        if user.target in (_aten.mul.Tensor, _aten.add.Tensor) and not user.kwargs:
            values = next((self.known[a] for a in user.args if a in self.known), None)
            channels = (len(weight), *[1] * (weight.ndim - 2))  # behind the batch, in the output
            if values is not None and tuple(values.shape) in (channels, (1, *channels)):
                values = values.double().flatten()
                is_scale = user.target is _aten.mul.Tensor
                return (values, torch.zeros_like(values)) if is_scale else (torch.ones_like(values), values)
        return None

    def module(self, name: str) -> fx.GraphModule:
        """Return what is left as a module of its own, whose class has the given name."""
        root, graph = nn.Module(), fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        for node in self.graph.nodes:
            if node.op == "output":
                graph.output(copies[node.all_input_nodes[0]])
            elif node in self.known:
                if not self.known.keys() >= set(node.users):  # else it is part of another constant
                    copies[node] = graph.get_attr(self._keep(node, root))
            elif node.users or node.op == "placeholder" or _is_mutating(node):  # the rest guards the example's shape
                copies[node] = graph.node_copy(node, copies.__getitem__)
        return fx.GraphModule(root, graph, name).eval().requires_grad_(False)

    def _keep(self, node: fx.Node, root: nn.Module) -> str:
        """Register the value of a node, as a contiguous copy, and return its name."""
        value = self.known[node]
        if value.is_floating_point():
            value = value.to(torch.float32)
        value = value.clone(memory_format=torch.contiguous_format)
        name = f"tensor_{sum(1 for _ in root.named_parameters()) + sum(1 for _ in root.named_buffers()):03d}"
        if node in self.learnt:
            root.register_parameter(name, nn.Parameter(value, requires_grad=False))
        else:
            root.register_buffer(name, value)
        return name
