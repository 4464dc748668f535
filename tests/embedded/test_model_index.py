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
