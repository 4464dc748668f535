"""Models that load for as long as a test wants, in Triton's own python backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CONFIG = """
backend: "python"
default_model_filename: "model.py"
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: [1] }
output { name: "y" data_type: TYPE_FP32 dims: [1] }
instance_group { count: 1 kind: KIND_CPU }
"""
WARM_UP = """
model_warmup { name: "one" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32 dims: [1] zero_data: true } } }
"""
MODEL = """
import os, time
import triton_python_backend_utils as pb

class TritonPythonModel:
    def initialize(self, arguments):
        self.folder = arguments["model_repository"]
        self.wait_for("go", self.folder)
        if os.path.exists(os.path.join(self.folder, "fail")):
            raise ValueError("no weights here")

    def execute(self, requests):
        if os.path.exists(os.path.join(self.folder, "holds")):
            self.wait_for("go on", self.folder)
        x = [pb.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        return [pb.InferenceResponse([pb.Tensor("y", each)]) for each in x]

    def finalize(self):
        if os.path.exists(os.path.join(self.folder, "stays")):
            self.wait_for("go away", self.folder)

    @staticmethod
    def wait_for(name, folder):
        open(os.path.join(folder, "waits for " + name), "w").close()
        while not os.path.exists(os.path.join(folder, name)):
            time.sleep(0.01)
"""


def write_slow_model(
    repository: Path, name: str, parameters: Mapping[str, str] | None = None, *, warms_up: bool = False
) -> Path:
    """Return the folder of a model that loads until that has a file ``go``, and then fails if it has one ``fail``.

    Where it has a file ``holds`` it answers once there is a file ``go on``; where it has one ``stays`` its stub ends
    once there is a file ``go away``.
    What it waits for is told by a file, such as ``waits for go``.
    """
    folder = repository / name
    (folder / "1").mkdir(parents=True)
    lines = [f'parameters {{ key: "{k}" value {{ string_value: "{v}" }} }}\n' for k, v in (parameters or {}).items()]
    (folder / "config.pbtxt").write_text(CONFIG + "".join(lines) + WARM_UP * warms_up)
    (folder / "1" / "model.py").write_text(MODEL)
    return folder
