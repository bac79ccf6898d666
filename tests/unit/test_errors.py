from headstart.errors import listed, unknown


def test_an_unknown_name_is_answered_with_a_suggestion_and_the_choice() -> None:
    assert unknown("strategy", "haed", ["head", "full"]) == (
        "strategy 'haed' is not known. Did you mean 'head'? There are: head, full"
    )
    assert unknown("part", "xyz", {"a": 1}) == "part 'xyz' is not known. There are: a"


def test_long_lists_are_cut() -> None:
    assert listed([]) == ""
    assert listed("abc") == "a, b, c"
    assert listed(iter("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(["a", "b"], 1) == "a and 1 more"
