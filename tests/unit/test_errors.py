from headstart.errors import did_you_mean, listed, unknown


def test_an_unknown_name_is_answered_with_a_suggestion_and_the_choice() -> None:
    assert unknown("strategy", "haed", ["head", "full"]) == (
        "strategy 'haed' is not known. Did you mean 'head'? There are: head, full"
    )
    assert unknown("part", "xyz", {"a": 1}) == "part 'xyz' is not known. There are: a"


def test_names_that_begin_so_are_suggested_first() -> None:
    known = ["vit_lite", "lite0", "lite1", "lite2", "lite3"]
    assert did_you_mean("Lite", known) == " Did you mean 'lite0', 'lite1' or 'lite2'?"
    assert did_you_mean("", known) == did_you_mean("x", []) == ""


def test_long_lists_are_cut() -> None:
    assert listed([]) == ""
    assert listed("abc") == "a, b, c"
    assert listed(iter("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed(["a", "b"], 1) == "a and 1 more"
