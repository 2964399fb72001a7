"""Stages that prove that an environment computes what it should: compare, train, ask a kernel, answer with a model.

They run inside the examined environment after those of ``facts``; the same rules hold. Those that compute on a device
get it as PyTorch names it.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_SEED = 0
# A kernel of Jupyter's starts in about 2 s, in 30 s from a cold disk.
_KERNEL_TIMEOUT_S = 60


def _torch() -> Any:
    """PyTorch, set to compute in float32 on every device; TensorFloat-32 rounds to 11 bits."""
    torch = importlib.import_module("torch")
    torch.manual_seed(_SEED)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch


def _on_device(stage: Any) -> Any:
    """The stage with PyTorch and the device that is asked for."""

    def run(request: dict[str, Any]) -> dict[str, Any]:
        torch = _torch()
        device = request["device"]
        if device == "mps":
            _check_mps(torch)
        elif device.startswith("cuda") and getattr(torch.version, "hip", None):
            devices = _amd(torch)
            position = int(device.partition(":")[2])
            if position >= len(devices) > 0:
                return {"skipped": f"PyTorch sees {len(devices)} of AMD's GPUs that it has code for"}
            if not devices:
                raise RuntimeError("PyTorch sees none of AMD's GPUs that it has code for")
            device = devices[position]
        result: dict[str, Any] = stage(torch, device)
        return result

    return run


def _check_mps(torch: Any) -> None:
    """Raises where nothing can be computed on Apple's GPU: a virtual machine may have none, or one without memory."""
    try:
        torch.ones(1, device="mps").cpu()
    except RuntimeError as error:
        raise RuntimeError(
            f"Apple's GPU can't be used, as in many virtual machines (--gpu none plans for the CPU): {error}"
        ) from error


def _amd(torch: Any) -> list[str]:
    """AMD's GPUs that this PyTorch has code for, which is not those in many processors; it may see fewer than there are
    (HIP_VISIBLE_DEVICES, containers)."""
    code = torch.cuda.get_arch_list()
    names = [torch.cuda.get_device_properties(index).gcnArchName for index in range(torch.cuda.device_count())]
    # "gfx90a:sramecc+:xnack-": the target, then what is switched on
    return [f"cuda:{index}" for index, name in enumerate(names) if name.partition(":")[0] in code]


def matmul(torch: Any, device: str) -> dict[str, Any]:
    """A matrix product in float32 against float64 on the CPU.

    Whatever the order of the sums, each element of A B is off by no more than g |A| |B| with g = n u / (1 - n u) and
    u = 2**-24, the rounding of float32 (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., (3.13)).
    """
    n, unit = 512, 2.0**-24
    a, b = torch.randn(n, n), torch.randn(n, n)
    product = (a.to(device) @ b.to(device)).cpu().double()
    error = (product - a.double() @ b.double()).abs()
    bound = n * unit / (1 - n * unit) * (a.double().abs() @ b.double().abs())
    worst = (error / bound).max().item()
    if not worst <= 1:  # also where it is NaN
        raise ArithmeticError(f"a {n}x{n} matrix product is off by {worst:.3g} times the bound")
    return {"size": n, "error_over_bound": worst}


def convolution(torch: Any, device: str) -> dict[str, Any]:
    """A convolution with its gradients in float32 against float64 on the CPU.

    No bound holds for each element, since cuDNN may take Winograd's algorithm or an FFT; those lose up to three of
    float32's seven digits of the largest value (Lavin and Gray, arXiv:1509.09308, table 6, measured less), hence 1e-4.
    A kernel that is wrong is off in the first digit.
    """
    tolerance = 1e-4
    image, weight = torch.randn(8, 16, 32, 32), torch.randn(32, 16, 3, 3)

    def outcome(dtype: Any, where: str) -> list[Any]:
        x, w = (value.detach().to(where, dtype).requires_grad_() for value in (image, weight))
        y = torch.nn.functional.conv2d(x, w, padding=1)
        (y * y).mean().backward()
        return [value.detach().cpu().double() for value in (y, x.grad, w.grad)]

    errors = {}
    names = ("output", "input gradient", "weight gradient")
    for name, found, true in zip(names, outcome(torch.float32, device), outcome(torch.float64, "cpu")):  # noqa: B905 - Python 3.8
        errors[name] = ((found - true).abs().max() / true.abs().max()).item()
        if not errors[name] <= tolerance:
            raise ArithmeticError(f"a convolution's {name} is off by {errors[name]:.3g} of its largest value")
    return {"relative_errors": errors}


def nms(torch: Any, device: str) -> dict[str, Any]:
    """torchvision's compiled operator on the device, which has its own kernels, as on the CPU."""
    torchvision = importlib.import_module("torchvision")
    corner = torch.rand(200, 2) * 50
    boxes, scores = torch.cat([corner, corner + 10], dim=1), torch.randperm(200).float()
    kept = torchvision.ops.nms(boxes.to(device), scores.to(device), 0.3).cpu().tolist()
    expected = torchvision.ops.nms(boxes, scores, 0.3).tolist()
    if kept != expected:
        raise ArithmeticError("torchvision.ops.nms keeps other boxes than on the CPU")
    return {"kept": len(kept)}


def training(_: dict[str, Any]) -> dict[str, Any]:
    """A short training run with the course's own functions, which draw the curves that the notebooks show."""
    torch, d2l = _torch(), importlib.import_module("d2l.torch")
    if hasattr(d2l, "Trainer"):  # the 1.0 line
        weights = torch.tensor([2.0, -3.4])
        model = d2l.LinearRegression(lr=0.03)
        d2l.Trainer(max_epochs=3).fit(model, d2l.SyntheticRegressionData(w=weights, b=4.2))
        error = (model.get_w_b()[0].reshape(2) - weights).abs().max().item()
        if not error < 0.1:
            raise ArithmeticError(f"a linear regression ends {error:.3g} from the weights that made its data")
        return {"error": error}
    features = torch.randn(256, 2)
    data = torch.utils.data.TensorDataset(features, (features.sum(dim=1) > 0).long())
    batches = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    d2l.train_ch3(net, batches, batches, loss, 3, torch.optim.SGD(net.parameters(), lr=0.5))
    accuracy = d2l.evaluate_accuracy(net, batches)
    if not accuracy > 0.9:
        raise ArithmeticError(f"a linear classifier learns only {accuracy:.0%} of separable data")
    return {"accuracy": accuracy}


def kernel(_: dict[str, Any]) -> dict[str, Any]:
    """A Jupyter kernel of this environment starts and answers from this environment."""
    client = importlib.import_module("jupyter_client")
    manager = client.KernelManager(kernel_name="python3")
    manager.start_kernel()
    channel = manager.blocking_client()
    channel.start_channels()
    try:
        channel.wait_for_ready(timeout=_KERNEL_TIMEOUT_S)
        code = "import sys, torch; print(sys.prefix); print(torch.__version__)"
        printed: list[str] = []
        reply = channel.execute_interactive(
            code,
            timeout=_KERNEL_TIMEOUT_S,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )
    finally:
        channel.stop_channels()
        manager.shutdown_kernel(now=True)
    if reply["content"]["status"] != "ok":
        raise RuntimeError("the kernel answers {}: {}".format(reply["content"]["ename"], reply["content"]["evalue"]))
    prefix, version = "".join(printed).split("\n")[:2]
    if os.path.realpath(prefix) != os.path.realpath(sys.prefix):
        raise RuntimeError(f"the kernel python3 runs in {prefix}, not in {sys.prefix}")
    return {"prefix": prefix, "torch": version}


def service(_: dict[str, Any]) -> dict[str, Any]:
    """The serving half can be imported, and a model that ships with it is as good as it claims.

    The spiral is generated; the data of the other shipped models comes with packages that serving does not need.
    """
    for name in ("ray", "dlenv_service.app"):
        importlib.import_module(name)
    repository = importlib.import_module("dlenv_models.repository")
    verification = importlib.import_module("dlenv_models.verification")
    shipped = repository.Repository(repository.SHIPPED)
    verdict = verification.verify(shipped, shipped.entry("spiral-mlp"))
    if verdict.status != "ok":
        raise RuntimeError(f"the model {verdict.name}: {verdict.reason}")
    return {"model": verdict.name, "accuracy": verdict.measured}


STAGES = {
    "matmul": _on_device(matmul),
    "convolution": _on_device(convolution),
    "nms": _on_device(nms),
    "training": training,
    "kernel": kernel,
    "service": service,
}
