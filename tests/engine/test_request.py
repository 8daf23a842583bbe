"""One request: what it knows of itself, and which prompts are refused."""

import pytest

from aiinfra.engine.request import Request, check_ids


def test_a_request_counts_what_was_given_and_what_was_made() -> None:
    request = Request("a", [1, 2, 3], max_tokens=4, priority=2)
    assert (request.prompt, request.made, request.pending) == ([1, 2, 3], 0, 3)
    request.tokens += [7, 8]
    request.computed = 4
    assert (request.prompt, request.made, request.pending) == ([1, 2, 3], 2, 1)


def test_a_request_keeps_a_list_of_its_own() -> None:
    prompt = [1, 2]
    request = Request("a", prompt, max_tokens=1)
    request.tokens.append(3)
    assert prompt == [1, 2]


def test_the_urgent_go_first_and_then_who_came_first() -> None:
    ages = [Request("a", [1], 1, priority, arrival).age for priority, arrival in [(1, 0), (0, 5), (0, 2)]]
    assert sorted(ages) == [(0, 2), (0, 5), (1, 0)]


@pytest.mark.parametrize("prompt, message", [
    ([], "the prompt is empty"), ([53], "token id 53 is outside the vocabulary of 53"),
    ([1, -1], "token id -1"),
    ([1.0], "token id 1.0"), ([None], "token id None"), ([True], "token id True"), (["1"], "token id '1'"),
])
def test_prompts_that_no_model_can_read(prompt: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_ids(prompt, 53)
    check_ids([0, 52], 53)
