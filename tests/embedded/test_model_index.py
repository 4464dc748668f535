from orchestrator.embedded.model_index import served_models, unserved_models


def test_a_model_is_served_when_any_of_its_versions_is() -> None:
    index = [
        {"name": "good", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"},
        {"name": "good", "version": "2", "state": "READY"},
        {
            "name": "bad",
            "version": "1",
            "state": "UNAVAILABLE",
            "reason": "Internal: TritonModelException: no\nsuch\n\nAt:\n x",
        },
        {"name": "odd"},
    ]
    assert served_models(index) == {"good"}
    assert unserved_models(index) == {"bad": "no such", "odd": "its config.pbtxt can't be read or fits no model"}
    assert unserved_models([]) == {}


def test_a_reason_that_triton_repeats_for_each_request_of_a_warm_up_is_told_once() -> None:
    died = "Stub process 'm_0_0' is not healthy."
    index = [
        {"name": "m", "state": "UNAVAILABLE", "reason": f"failed to run warmup sample 'x': {died}; {died}; {died};"}
    ]
    assert unserved_models(index) == {"m": f"failed to run warmup sample 'x': {died}; {died}"}
