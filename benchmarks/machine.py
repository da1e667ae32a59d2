"""What a benchmark ran on: processor, instruction sets, cores, load and versions. Every benchmark prints it first.

python benchmarks/machine.py
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/machine.py     # as a processor without AVX-512
"""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "onnxruntime", "transformers", "numpy")
#: Beginnings of the names of instruction sets that decide how fast a network is, on x86 and on ARM.
SETS = ("avx", "amx", "fma", "asimd", "neon", "sve", "sme", "bf16", "fp16", "i8mm", "dotprod")
#: Variables that hold torch and oneDNN back to older instruction sets, or to fewer threads.
HOLDING_BACK = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")


def machine() -> dict[str, str]:
    """What there is, a line each. Imports torch."""
    import torch

    from hf_sqa.blocks.precision import computes_in_bfloat16

    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.7 cannot tell
    sets = sorted(name for name, there in found.items() if there is True and name.startswith(SETS))
    name = found.get("cpu_name") or platform.processor() or platform.machine()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = f"{usable} of {found.get('num_logical_cores', os.cpu_count())} logical"
    if "num_physical_cores" in found:
        cores += f", {found['num_physical_cores']} physical"
    if hasattr(os, "getloadavg"):
        cores += f"; load of the last minute {os.getloadavg()[0]:.1f}"
    lines = {
        "processor": f"{name}, {platform.system()} {platform.machine()}",
        "instruction sets": ", ".join(sets) or "unknown",
        "torch uses": f"{torch.backends.cpu.get_cpu_capability()}, computes in bfloat16: {computes_in_bfloat16()}",
        "cores": cores,
        "versions": ", ".join([f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in PACKAGES)]),
    }
    if held := [f"{variable}={os.environ[variable]}" for variable in HOLDING_BACK if variable in os.environ]:
        lines["held back by"] = ", ".join(held)
    if torch.cuda.is_available():
        lines["accelerator"] = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return lines


def print_machine() -> None:
    """Print it from a process of its own, which leaves memory, imports and threads of the benchmark as they are."""
    subprocess.run([sys.executable, __file__], check=True)
    sys.stdout.flush()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    for name, text in machine().items():
        print(f"{name + ':':<17} {text}")
    print()


if __name__ == "__main__":
    main()
