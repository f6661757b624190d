"""The neuron over a sequence: its recursion, its gradients, and that the compiled form is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neurocompile.errors import OptionError
from neurocompile.training import neurons
from neurocompile.training.neurons import LIF, lif_sequence, lif_sequence_and_state
from neurocompile.training.surrogates import (
    Arctan,
    Dspike,
    Exponential,
    FastSigmoid,
    Masked,
    Rectangle,
    Sigmoid,
    Surrogate,
    Triangle,
)

SURROGATES: tuple[Callable[[], Surrogate], ...] = (
    lambda: Triangle(0.7),
    lambda: Rectangle(1.2),
    Exponential,
    Sigmoid,
    Arctan,
    FastSigmoid,
    Dspike,
    lambda: Masked(Triangle(), 0.5, seed=3),
)
NAMES = tuple(str(make()) for make in SURROGATES)


class _Spike(torch.autograd.Function):
    """A step with a surrogate's slope, for autograd to go through a loop that is written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.slope(x), None


def plain_loop(
    current: Tensor,
    membrane: Tensor | None = None,
    *,
    tau: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    detach_reset: bool,
) -> tuple[Tensor, Tensor]:
    """Equations 1 to 3, one operation after the other."""
    v = torch.zeros_like(current[:, 0]) if membrane is None else membrane
    spikes = []
    for arriving in current.unbind(1):
        u = tau * v + arriving
        spike = _Spike.apply(u - threshold, surrogate)  # type: ignore[no-untyped-call]
        spikes.append(spike)
        v = u * (1 - (spike.detach() if detach_reset else spike))
    return torch.stack(spikes, 1), v


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away numba's kernels."""
    monkeypatch.setattr(neurons, "_compiled", lambda: None)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def test_the_hand_sequence_of_the_neuron() -> None:
    """u = .6 1.1 0 1.0 1.7 2.0: a membrane at exactly 1 does not fire."""
    current = torch.tensor([0.6, 0.8, 0.0, 1.0, 1.2, 2.0]).reshape(1, 6, 1)

    spikes, last = lif_sequence_and_state(current, tau=0.5, threshold=1.0, surrogate=Triangle())

    assert spikes.flatten().tolist() == [0, 1, 0, 0, 1, 1]
    assert last.flatten().tolist() == [0]


@pytest.mark.parametrize("detach", [False, True])
def test_gradients_follow_the_recursion(detach: bool) -> None:
    """Gu[t] = Ga[t] g[t] + tau Gu[t+1] k[t], k = (1 - a) - u g attached, 1 - a detached."""
    current = drawn(3, 6, 5).requires_grad_()
    arriving = drawn(3, 6, 5, seed=1)

    spikes = lif_sequence(
        current, tau=0.5, threshold=1.0, surrogate=Triangle(), detach_reset=detach
    )
    torch.autograd.backward(spikes, arriving)

    membranes, v = [], torch.zeros(3, 5, dtype=torch.float64)
    for t in range(6):
        u = 0.5 * v + current[:, t].detach()
        membranes.append(u)
        v = u * (u <= 1)
    expected = torch.zeros(3, 6, 5, dtype=torch.float64)
    later = torch.zeros(3, 5, dtype=torch.float64)
    for t in reversed(range(6)):
        u = membranes[t]
        g = (1 - (u - 1).abs()).clamp(min=0)
        k = (u <= 1).double() - (0 if detach else u * g)
        later = arriving[:, t] * g + 0.5 * later * k
        expected[:, t] = later
    assert current.grad is not None
    torch.testing.assert_close(current.grad, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize("given", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("make", SURROGATES, ids=NAMES)
def test_gradients_are_those_of_the_loop(
    make: Callable[[], Surrogate], given: bool, detach: bool
) -> None:
    """By current, first membrane and leak, through spikes and the last membrane, in float64."""
    arguments = [drawn(3, 5, 4, 2).requires_grad_(), torch.tensor(0.6, dtype=torch.float64)]
    arguments[1].requires_grad_()
    if given:
        arguments.append(drawn(3, 4, 2, seed=1).requires_grad_())
    by_spikes, by_last = drawn(3, 5, 4, 2, seed=2), drawn(3, 4, 2, seed=3)
    found = []
    for sequence in (lif_sequence_and_state, plain_loop):
        current, tau, *first = arguments
        spikes, last = sequence(
            current, *first, tau=tau, threshold=0.9, surrogate=make(), detach_reset=detach
        )
        grads = torch.autograd.grad([spikes, last], arguments, [by_spikes, by_last])
        found.append((spikes, last, *grads))

    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", SURROGATES, ids=NAMES)
@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize("shape", [(2, 5, 2500), (9, 1, 3), (0, 2, 3), (2, 3, 0)])
def test_the_compiled_form_fires_the_same(
    make: Callable[[], Surrogate],
    detach: bool,
    shape: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit forward, with membranes within a rounding of the threshold; gradients to 1e-6."""
    kernels = pytest.importorskip("neurocompile.training.neuron_kernels")
    assert neurons._compiled() is kernels
    first = drawn(shape[0], *shape[2:], dtype=torch.float32)
    current = near_threshold(shape, first, tau=0.3, threshold=0.7).requires_grad_()
    first.requires_grad_()
    tau = torch.tensor(0.3, requires_grad=True)
    arriving = drawn(*shape, seed=1, dtype=torch.float32)
    found = []
    for compiled in (kernels, None):
        monkeypatch.setattr(neurons, "_compiled", lambda compiled=compiled: compiled)
        spikes, last = lif_sequence_and_state(
            current, first, tau=tau, threshold=0.7, surrogate=make(), detach_reset=detach
        )
        grads = torch.autograd.grad(
            [spikes, last], [current, first, tau], [arriving, torch.ones_like(last)]
        )
        found.append((spikes, last, grads))

    (spikes, last, grads), (their_spikes, their_last, their_grads) = found
    assert spikes.equal(their_spikes)
    assert last.equal(their_last)
    for ours, theirs in zip(grads[:2], their_grads[:2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    torch.testing.assert_close(grads[2], their_grads[2], rtol=1e-4, atol=1e-3)


def near_threshold(shape: tuple[int, ...], v: Tensor, tau: float, threshold: float) -> Tensor:
    """Return currents of which half bring a membrane to the threshold, or one rounding beside it."""
    current = drawn(*shape, dtype=torch.float32)
    aimed = torch.tensor(threshold)
    for t in range(shape[1]):
        which = torch.arange(v.numel()).reshape(v.shape) % 6
        nearby = torch.stack(
            [aimed, torch.nextafter(aimed, torch.tensor(2.0)), torch.nextafter(aimed, -aimed)]
        )
        exact = nearby[which % 3] - tau * v
        current[:, t] = torch.where(which < 3, exact, current[:, t])
        u = tau * v + current[:, t]
        v = u * (u <= threshold)
    return current


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
def test_two_halves_are_the_whole(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spikes, state and gradients of 3 and 4 steps are those of 7."""
    if not compiled:
        monkeypatch.setattr(neurons, "_compiled", lambda: None)
    current = drawn(4, 7, 3, 2, dtype=torch.float32).requires_grad_()
    arriving = drawn(4, 7, 3, 2, seed=1, dtype=torch.float32)
    chosen: dict[str, Any] = {"tau": 0.5, "threshold": 0.8, "surrogate": Triangle()}

    whole, last = lif_sequence_and_state(current, **chosen)
    early, between = lif_sequence_and_state(current[:, :3], **chosen)
    late, end = lif_sequence_and_state(current[:, 3:], between, **chosen)
    halves = torch.cat([early, late], 1)

    assert halves.equal(whole)
    assert end.equal(last)
    (expected,) = torch.autograd.grad([whole, last], current, [arriving, torch.ones_like(last)])
    (found,) = torch.autograd.grad([halves, end], current, [arriving, torch.ones_like(end)])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_without_gradients_the_same_neurons_fire() -> None:
    current = drawn(4, 7, 3, 2, dtype=torch.float32)
    chosen: dict[str, Any] = {"tau": 0.5, "threshold": 0.8, "surrogate": Triangle()}

    learning, last = lif_sequence_and_state(current.clone().requires_grad_(), **chosen)
    with torch.no_grad():
        spikes, end = lif_sequence_and_state(current, **chosen)

    assert spikes.equal(learning)
    assert end.equal(last)
    assert not spikes.requires_grad


@pytest.mark.parametrize("learns", [False, True], ids=["fixed leak", "learnt leak"])
def test_one_membrane_a_step_is_kept_and_nothing_else(learns: bool) -> None:
    neuron = LIF(learn_tau=learns)
    current = drawn(8, 6, 5, 5, dtype=torch.float32).requires_grad_()
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        neuron(current, 4)

    large = [tensor for tensor in kept if tensor.numel() > 1]
    assert [tensor.numel() for tensor in large] == [current.numel()]
    assert large[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_membranes_are_float32_whatever_the_current_is(dtype: torch.dtype) -> None:
    """Of 400 currents of 1/256, all count: in the current's own type the sum would stop growing."""
    current = torch.full((1, 400, 1), 1 / 256, dtype=dtype, requires_grad=True)

    spikes, last = lif_sequence_and_state(current, tau=1.0, threshold=1.5, surrogate=Triangle())
    (grad,) = torch.autograd.grad(spikes.sum(), current)

    assert spikes.dtype == dtype
    assert last.dtype == torch.float32
    assert spikes.flatten().nonzero().tolist() == [[384]]
    assert grad.dtype == dtype


def test_under_autocast_spikes_have_the_type_of_the_current() -> None:
    layer, neuron = nn.Linear(4, 3), LIF()

    with torch.autocast("cpu", torch.bfloat16):
        current = layer(drawn(6, 4, dtype=torch.float32))
        spikes = neuron(current, 3)

    assert current.dtype == spikes.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channels_may_come_last_in_memory(dtype: torch.dtype) -> None:
    plain = drawn(6, 3, 4, 5, dtype=dtype)
    last = plain.contiguous(memory_format=torch.channels_last)
    arriving = drawn(6, 3, 4, 5, seed=1, dtype=dtype)
    found = []
    for current in (plain, last):
        current.requires_grad_()
        spikes = LIF(threshold=0.5)(current, 3)
        found.append((spikes, *torch.autograd.grad(spikes, current, arriving)))

    (spikes, grad), (their_spikes, their_grad) = found
    assert their_spikes.is_contiguous(memory_format=torch.channels_last)
    assert their_spikes.equal(spikes)
    assert their_grad.equal(grad)


def test_currents_that_are_views_are_read_as_they_are() -> None:
    whole = drawn(5, 4, 6, 3, dtype=torch.float32)
    chosen: dict[str, Any] = {"tau": 0.5, "threshold": 0.5, "surrogate": Triangle()}
    for view in (
        whole.transpose(0, 1),
        whole[:, :, ::2],
        whole[:, :1].expand(-1, 3, -1, -1),
        whole.permute(0, 1, 3, 2),
        whole[..., 0, 0],
    ):
        assert lif_sequence(view, **chosen).equal(lif_sequence(view.clone(), **chosen))


def test_a_second_derivative_is_refused() -> None:
    current = drawn(2, 3, 4, dtype=torch.float32).requires_grad_()
    spikes = lif_sequence(current, tau=0.5, threshold=1.0, surrogate=Triangle())

    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(spikes.sum(), current, create_graph=True)


def test_shapes_are_known_without_memory() -> None:
    current = torch.empty(6, 4, 2, device="meta", requires_grad=True)

    spikes = LIF()(current, 3)
    spikes.sum().backward()

    assert spikes.shape == (6, 4, 2)
    assert current.grad is not None
    assert current.grad.shape == (6, 4, 2)


def test_a_learnt_leak_begins_where_it_is_told_and_is_what_runs() -> None:
    neuron = LIF(0.3, learn_tau=True)

    assert neuron.tau == pytest.approx(0.3, rel=1e-6)
    (leak,) = neuron.parameters()
    assert float(leak.detach().sigmoid()) == neuron.tau
    spikes = neuron(torch.tensor([[0.9], [0.8]]), 2)
    assert spikes.flatten().tolist() == [0, 1]
    neuron(torch.full((4, 3), 0.6), 4).sum().backward()
    assert leak.grad is not None
    with torch.no_grad():
        leak.sub_(leak.grad)
    assert neuron.tau != pytest.approx(0.3, rel=1e-3)
    assert "learn_tau=True" in repr(neuron)
    assert list(LIF(0.3).parameters()) == []


def test_no_sigmoid_reaches_a_leak_of_one() -> None:
    with pytest.raises(OptionError, match="must start between 0 and 1, but tau is 1"):
        LIF(1.0, learn_tau=True)


def test_finite_differences_agree_where_no_membrane_is_near_the_threshold() -> None:
    """There the slope is 0, and the last membrane is linear in what came since the last reset."""
    current, first = drawn(2, 4, 3).requires_grad_(), drawn(2, 3, seed=1).requires_grad_()
    tau = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def last(current: Tensor, first: Tensor, tau: Tensor) -> Tensor:
        spikes, membrane = lif_sequence_and_state(
            current, first, tau=tau, threshold=0.5, surrogate=Rectangle(1e-3)
        )
        assert 0 < spikes.detach().mean() < 1
        return membrane

    assert torch.autograd.gradcheck(last, (current, first, tau))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_torch_compile_traces_the_neuron() -> None:
    """The graph is that of eager operations; numba's kernels are for those who do not compile."""
    neuron = LIF(0.3, learn_tau=True)
    current = drawn(6, 5, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(neuron, backend="aot_eager", fullgraph=True)

    spikes, expected = compiled(current, 3), neuron(current, 3)

    assert spikes.equal(expected)
    (found,) = torch.autograd.grad(spikes.sum(), current)
    (wanted,) = torch.autograd.grad(expected.sum(), current)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
