"""The words that all error messages share."""

from aiinfra.errors import nearest, nearest_name, plural


def test_a_count_and_its_noun() -> None:
    assert [plural(n, "program") for n in (0, 1, 2)] == ["0 programs", "1 program", "2 programs"]
    assert plural(12_345, "request") == "12,345 requests"


def test_the_nearest_name_is_given_only_if_it_is_near() -> None:
    assert nearest("layer", ["layers", "heads"]) == " Did you mean 'layers'?"
    assert nearest("zzz", ["layers", "heads"]) == ""
    assert nearest_name("zzz", ["layers"]) is None
    assert nearest_name("zzz", ["layers"], cutoff=0.0) == "layers"
    assert nearest_name("zzz", [], cutoff=0.0) is None
