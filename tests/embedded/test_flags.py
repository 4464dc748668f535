from dataclasses import replace

import pytest

from orchestrator.embedded.flags import ServerFlags, render_flags

FLAGS = ServerFlags(repository="/models", grpc_port=8001, http_port=8000, metrics_port=8002)


def test_defaults_render_to_the_documented_command_line() -> None:
    assert render_flags(FLAGS) == (
        "--model-repository=/models",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-on-error=false",
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        "--model-load-thread-count=2",
        "--exit-timeout-secs=10",
        "--grpc-address=127.0.0.1",
        "--grpc-port=8001",
        "--http-address=127.0.0.1",
        "--http-port=8000",
        "--metrics-address=127.0.0.1",
        "--metrics-port=8002",
        "--metrics-interval-ms=1000",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
    )


@pytest.mark.parametrize(
    ("models", "expected"),
    [(None, ["--load-model=*"]), ((), []), (("a", "b"), ["--load-model=a", "--load-model=b"])],
)
def test_all_models_are_loaded_unless_it_is_said_which(models: tuple[str, ...] | None, expected: list[str]) -> None:
    rendered = render_flags(replace(FLAGS, models=models))
    assert [flag for flag in rendered if flag.startswith("--load-model")] == expected


def test_optional_flags_appear_only_when_given() -> None:
    rendered = render_flags(replace(FLAGS, backend_directory="/b", gpu_load_limits=((0, 0.9), (1, 0.5))))
    assert "--backend-directory=/b" in rendered
    assert [flag for flag in rendered if "gpu-limit" in flag] == [
        "--model-load-gpu-limit=0:0.9",
        "--model-load-gpu-limit=1:0.5",
    ]


def test_extra_arguments_come_last() -> None:
    assert render_flags(replace(FLAGS, extra=("--log-verbose=1",)))[-1] == "--log-verbose=1"
