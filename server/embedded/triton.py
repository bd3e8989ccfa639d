"""The embedded Triton: the wheel's `tritonserver` on CPU, with `backend: "onnxruntime"` served by our Python-based backend."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from server.embedded.child import ServerSpec
from server.errors import FailedPreconditionError
from server.priority import STEP

_BACKENDS = Path(__file__).with_name("triton_backends")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # where POSIX shared memory lives on Linux


@dataclass(frozen=True)
class TritonWheel:
    """The parts of the `nvidia-pytriton` wheel, and what its binaries need to run."""

    server: Path
    python_backend: Path
    stub: Path
    libraries: str
    """Value of LD_LIBRARY_PATH."""

    def environment(self, *, threads: int) -> dict[str, str]:
        """Returns the environment of Triton and of its model processes."""
        return {
            # The stub's interpreter is isolated: it ignores PYTHONPATH, and takes its prefix (a virtual environment's too) from the first
            # `python3` on PATH.
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "LC_ALL": "C.UTF-8",
            "LD_LIBRARY_PATH": self.libraries,
            "OMP_NUM_THREADS": str(threads),
        }

    def missing_library(self) -> str:
        """Returns the shared library that the stub does not find, or an empty string. The loader itself is asked."""
        result = subprocess.run(
            [str(self.stub)], env=self.environment(threads=1), capture_output=True, text=True, timeout=30, check=False, cwd="/"
        )
        marker = "error while loading shared libraries: "
        return result.stderr.partition(marker)[2].partition(":")[0]


def triton_wheel(version: str = f"{sys.version_info.major}.{sys.version_info.minor}") -> TritonWheel:
    """Returns the installed wheel with its stub for a Python version, this one unless named.

    Raises:
        FailedPreconditionError: The wheel or its stub for that Python is missing.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or found.origin is None:
        raise FailedPreconditionError("the embedded Triton is not installed; run `pip install 'aisle[embedded]'` or set AISLE_TRITON_URL")
    root = Path(found.origin).parent
    stub = root / "tritonserver" / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.exists():
        raise FailedPreconditionError(f"no embedded Triton for Python {version}; use Python 3.11 or 3.12, or set AISLE_TRITON_URL")
    return TritonWheel(
        server=root / "tritonserver" / "bin" / "tritonserver",
        python_backend=root / "tritonserver" / "backends" / "python",
        stub=stub,
        libraries=":".join([str(root.parent / "nvidia_pytriton.libs"), *_libpython_folders(version)]),
    )


def runnable_wheel() -> TritonWheel:
    """Returns the installed wheel, after running its stub once to see that it loads.

    Raises:
        FailedPreconditionError: It cannot run here. The message says how to mend it.
    """
    wheel = triton_wheel()
    missing = wheel.missing_library()
    if missing:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        package = "install the package that holds it"
        if "libpython" in missing:
            package = f"install `libpython{version}` (Debian, Ubuntu) or use a Python built with --enable-shared"
        raise FailedPreconditionError(f"the embedded Triton cannot load {missing}; {package}, or set AISLE_TRITON_URL")
    return wheel


def _libpython_folders(version: str) -> list[str]:
    """Returns the folders of this interpreter that hold its shared library; none when only the system's loader may know one."""
    library = f"libpython{version}.so.1.0"
    candidates = [str(sysconfig.get_config_var("LIBDIR") or ""), str(Path(sys.base_prefix) / "lib")]
    return [folder for folder in dict.fromkeys(candidates) if folder and (Path(folder) / library).exists()]


def assemble_repository(target: Path, *, model_repository: Path, model_files: Mapping[str, Path]) -> list[str]:
    """Builds Triton's repository afresh from the shipped configurations and the built files, and returns the models' names.

    `target` holds one folder a model: its `config.pbtxt` copied, its `1/model.onnx` a link to the built file. Models without a file are
    left out: their bundles load them at run time.

    Raises:
        FailedPreconditionError: A file or a configuration does not exist.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(mode=0o700, parents=True)
    for name, built in model_files.items():
        configuration = model_repository / name / "config.pbtxt"
        for needed in (configuration, built):
            if not needed.is_file():
                raise FailedPreconditionError(f"model {name}: {needed} does not exist; run `aisle models build`", model=name, path=needed)
        version = target / name / "1"
        version.mkdir(parents=True)
        shutil.copyfile(configuration, target / name / "config.pbtxt")
        (version / "model.onnx").symlink_to(built.resolve())
    return list(model_files)


def _assemble_backends(target: Path, wheel: TritonWheel) -> None:
    shutil.rmtree(target, ignore_errors=True)
    (target / "python").mkdir(mode=0o700, parents=True)
    # Copies: Triton refuses a library that a link takes out of the backend's folder.
    for source in (*wheel.python_backend.iterdir(), wheel.stub):
        if source.is_file():
            shutil.copy2(source, target / "python" / source.name)
    for backend in _BACKENDS.iterdir():
        if backend.is_dir() and not backend.name.startswith("_"):
            shutil.copytree(backend, target / backend.name, ignore=shutil.ignore_patterns("__pycache__"))


def free_port() -> int:
    """Returns a loopback TCP port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def triton_server(*, data_dir: Path, port: int, wheel: TritonWheel, models: list[str], threads: int) -> ServerSpec:
    """Returns how Triton runs: gRPC on a loopback port and nothing else, serving `models` of `data_dir/triton/models`."""
    folder = data_dir / "triton"
    _assemble_backends(folder / "backends", wheel)
    # Triton's model processes share memory with it by name; the name keeps instances apart and lets remains be found.
    prefix = f"aisle_{hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:12]}_"
    argv = [
        str(wheel.server),
        f"--model-repository={folder / 'models'}",
        f"--backend-directory={folder / 'backends'}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--allow-gpu-metrics=false",
        "--log-info=false",
        "--log-warning=true",
        "--log-error=true",
        "--exit-timeout-secs=5",
        "--disable-auto-complete-config",
        "--model-load-thread-count=2",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
    ]
    return ServerSpec(
        name="triton",
        argv=argv,
        environment=wheel.environment(threads=threads),
        log_path=data_dir / "logs" / "triton.log",
        prepare=lambda: _clear_shared_memory(prefix),
        answers=lambda: triton_answers(f"127.0.0.1:{port}"),
        grace_s=8.0,
        ready_s=90.0,
        step=STEP,  # as the local runtime's threads
    )


def _clear_shared_memory(prefix: str) -> None:
    for left in _SHARED_MEMORY.glob(f"{prefix}*"):
        with suppress(OSError):
            left.unlink()


async def triton_answers(address: str) -> bool:
    """Returns whether Triton at HOST:PORT answers; it opens its port when its first models are loaded."""
    from tritonclient.grpc import service_pb2  # half a second, which commands without Triton need not wait

    async with grpc.aio.insecure_channel(address) as channel:
        live = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=service_pb2.ServerLiveRequest.SerializeToString,
            response_deserializer=service_pb2.ServerLiveResponse.FromString,
        )
        try:
            return bool((await live(service_pb2.ServerLiveRequest(), timeout=2.0)).live)
        except grpc.RpcError:
            return False
