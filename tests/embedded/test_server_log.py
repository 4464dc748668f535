import pytest

from orchestrator.embedded.server_log import loading_models, pick_reason

PREFIX = "E1124 23:50:05.402641 3812 model_lifecycle.cc:642] "


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", None),
        (
            "terminate called after throwing an instance of 'std::system_error'\n"
            "  what():  Resource temporarily unavailable\n",
            "Resource temporarily unavailable",
        ),
        (
            "terminate called after throwing an instance of 'boost::interprocess::lock_exception'\n"
            "  what():  boost::interprocess::lock_exception\n",
            "boost::interprocess::lock_exception, as where the machine stalled and a stub was taken for dead",
        ),
        ("terminate called without an active exception\n", "terminate called without an active exception"),
        ('I1124 23:49:38.326010 3812 model_lifecycle.cc:472] "loading: lookup:1"', None),
        (
            f"{PREFIX}\"failed to load 'm' version 1: Internal: TritonModelException: unexpected output 'z'\\n\\nAt:\\n"
            '  /b/model.py(204): initialize\\n"\n'
            "error: creating server: Invalid argument - load failed for model 'm': version 1 is at UNAVAILABLE\n",
            "failed to load 'm' version 1: unexpected output 'z'",
        ),
        (
            f"{PREFIX}\"failed to load 'a' version 1: no\"\n{PREFIX}\"failed to load 'b' version 1: no\"",
            "failed to load 'a' version 1: no (and 1 more like it)",
        ),
        (
            "[libprotobuf ERROR /x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 1:32: Message "
            'type "inference.ModelConfig" has no field named "nonsense".\n'
            "E1124 23:50:06.110967 3812 model_repository_manager.cc:1460] \"Poll failed for model directory 'g': "
            'failed to read text proto from /r/g/config.pbtxt"\n'
            "error: creating server: Internal - failed to load all models\n",
            "model directory 'g': failed to read text proto from /r/g/config.pbtxt: 1:32: Message type "
            '"inference.ModelConfig" has no field named "nonsense".',
        ),
        (
            'E1124 23:50:24.346250 4286 main.cc:245] "failed to start GRPC service: Unavailable - Socket '
            "'127.0.0.1:18001' already in use \"",
            "failed to start GRPC service: Unavailable - Socket '127.0.0.1:18001' already in use",
        ),
        (
            'E1124 23:49:20.207685 3718 server.cc:241] "CudaDriverHelper has not been initialized."\n'
            "Error: Failed to initialize NVML\n+---+\n| a |\n+---+\n",
            None,
        ),
        (
            "free(): invalid pointer\nSignal (6) received.\n 0# 0x000055D0A1B2C3D4 in /t/bin/tritonserver\n"
            " 1# gsignal in /lib/x86_64-linux-gnu/libc.so.6\n10# 0x000055D0A1B2C3D4 in /t/bin/tritonserver\n\n",
            "free(): invalid pointer",
        ),
        ("Signal (6) received.\n 0# 0x000055D0A1B2C3D4 in /t/bin/tritonserver\n", None),
        ("tritonserver: unrecognized option '--nonsense'\n", "tritonserver: unrecognized option '--nonsense'"),
        ("error: can't start /no/such: [Errno 2] No such file", "can't start /no/such: [Errno 2] No such file"),
    ],
)
def test_the_telling_line_is_found(log: str, reason: str | None) -> None:
    assert pick_reason(log) == reason


def test_a_log_says_what_is_being_loaded() -> None:
    log = "\n".join(
        f"I1126 20:00:00.000000 7 model_lifecycle.cc:472] {said}"
        for said in (
            '"loading: small:1"',
            '"loading: large:3"',
            "loading: bad:1",
            "\"successfully loaded 'small'\"",
            "failed to load 'bad' version 1: Internal: no",
        )
    )
    assert loading_models(log) == ("large",)
    assert loading_models("") == ()
