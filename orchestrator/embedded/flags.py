"""The command line of every tritonserver of this project, built in one place.

The embedded server and NVIDIA's container differ in paths, addresses and limits, not in how Triton behaves: both
must come from `render_flags`, so that what was tested on the one holds on the other. Why each fixed flag is there:

- explicit model control: the controller decides what is loaded; polling would race with it.
- `--exit-on-error=false` where the whole repository is loaded: one bad model must not keep the others from serving.
  A model that was asked for by name must load.
- `--strict-readiness=false`: strict readiness turns false while any model loads and stays false for ever after
  one failed first load; a load balancer would drop a server that answers perfectly well.
- `--disable-auto-complete-config`: our configs are complete, and auto-completion costs an extra stub a load.
- `--metrics-interval-ms=1000` refreshes the gauges of CPU and GPU; counters of requests are always live.
- `--allow-sagemaker=false --allow-vertex-ai=false`: open ports that nobody here uses.
"""

from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """What may differ between one tritonserver and another.

    Attributes:
        repository: Model repository, as the server sees its path.
        address: Address that all three bind to. Triton has no authentication of its own and only gRPC can have
            TLS: anything but loopback needs a network that is closed otherwise.
        backend_directory: Directory of the backends; None for the one built into an image.
        models: Models to load at start; the server exits when one of them can't be loaded. None loads all that can be.
        exit_timeout_s: How long a stopping server waits for requests in flight.
        gpu_load_limits: Pairs of GPU id and used-memory ratio (0-1) above which a load is refused.
        extra: Arguments appended as they are; of a flag that is given twice Triton takes the later one.
    """

    repository: str
    grpc_port: int
    http_port: int
    metrics_port: int
    address: str = LOOPBACK
    backend_directory: str | None = None
    models: tuple[str, ...] | None = None
    exit_timeout_s: int = 10
    gpu_load_limits: tuple[tuple[int, float], ...] = ()
    extra: tuple[str, ...] = ()


def render_flags(flags: ServerFlags) -> tuple[str, ...]:
    """Return tritonserver's arguments, the program's own name not included."""
    models = ("*",) if flags.models is None else flags.models
    backends = () if flags.backend_directory is None else (f"--backend-directory={flags.backend_directory}",)
    return (
        f"--model-repository={flags.repository}",
        *backends,
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in models),
        *(("--exit-on-error=false",) if flags.models is None else ()),
        "--strict-readiness=false",
        "--disable-auto-complete-config",
        "--model-load-thread-count=2",
        *(f"--model-load-gpu-limit={gpu}:{ratio:g}" for gpu, ratio in flags.gpu_load_limits),
        f"--exit-timeout-secs={flags.exit_timeout_s}",
        f"--grpc-address={flags.address}",
        f"--grpc-port={flags.grpc_port}",
        f"--http-address={flags.address}",
        f"--http-port={flags.http_port}",
        f"--metrics-address={flags.address}",
        f"--metrics-port={flags.metrics_port}",
        "--metrics-interval-ms=1000",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        *flags.extra,
    )
