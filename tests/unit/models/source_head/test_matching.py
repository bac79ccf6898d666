import pytest

from headstart.errors import ConfigError
from headstart.models.source_head.matching import Matching, SourceClass, match_labels, matching_lines

SOURCE = tuple(
    SourceClass(tuple(names.split(", ")), meaning)
    for names, meaning in (
        ("crane", "a bird"),  # 0
        ("ant, emmet, pismire", ""),
        ("bee", ""),
        ("hotdog, hot dog, red hot", ""),  # 3
        ("crane", "lifts heavy objects"),
        ("sunglass", ""),
        ("sunglasses, dark glasses, shades", ""),  # 6
        ("strawberry", ""),
        ("Box", ""),
        ("Eskimo dog, husky", ""),  # 9
        ("T-shirt, jersey", ""),
        ("background", ""),
    )
)


@pytest.mark.parametrize(
    ("label", "output"),
    [
        ("ant", 1),
        ("emmet", 1),
        ("ants", 1),
        ("ANTS", 1),
        ("bees", 2),
        ("hotdog", 3),
        ("hot_dog", 3),
        ("Hot-Dogs", 3),
        ("red.hot", 3),
        ("sunglasses", 6),  # an exact name goes before a plural
        ("sunglass", 5),
        ("strawberries", 7),
        ("box", 8),
        ("boxes", 8),
        ("tshirts", 10),
        ("husky", 9),
        ("huskies", 9),
        ("dog", None),
        ("glass", None),
        ("be", None),
        ("", None),
        ("background", 11),  # a class of the source goes before the rest
    ],
)
def test_a_class_is_found_by_name_synonym_and_plural(label, output):
    assert match_labels([label, "Eskimo dog" if output != 9 else "ant"], SOURCE).outputs[0] == output


@pytest.mark.parametrize(
    ("labels", "rest"),
    [
        (["hot_dog", "not_hot_dog"], 1),
        (["not-hotdog", "hotdog"], 0),
        (["hot dogs", "no_hot_dog"], 1),
        (["ants", "non-ant"], 1),
        (["ant", "NotAnAnt"], 1),
        (["ant", "other"], 1),
        (["ant", "Others", "bee"], 1),
        (["ant", "none of these"], 1),
        (["ant", "not_bee"], None),  # no class bee to be told from
        (["ant", "notes"], None),
        (["ant", "nothing"], None),
    ],
)
def test_what_stands_for_the_rest(labels, rest):
    matching = match_labels(labels, SOURCE)
    assert matching.rest == rest
    assert rest is None or matching.outputs[rest] is None


@pytest.mark.parametrize(
    ("given", "outputs", "rest"),
    [
        ({"x": 4}, (4, 1), None),
        ({"x": "4"}, (4, 1), None),
        ({"x": "crane ", "ants": "none"}, None, None),
        ({"x": "husky"}, (9, 1), None),
        ({"x": "Huskies"}, (9, 1), None),
        ({"x": "rest"}, (None, 1), 0),
        ({"x": "none"}, (None, 1), None),
        ({"x": "0", "ants": 3}, (0, 3), None),
    ],
)
def test_the_users_word_goes_before_the_name(given, outputs, rest):
    if outputs is None:
        with pytest.raises(ConfigError, match=r"fits several: 0 \(crane: a bird\); 4 \(crane: lifts heavy objects\)"):
            match_labels(["x", "ants"], SOURCE, given)
        return
    assert match_labels(["x", "ants"], SOURCE, given) == Matching(("x", "ants"), outputs, rest)


@pytest.mark.parametrize(
    ("labels", "given", "message"),
    [
        (["crane", "ants"], {}, "0 (crane: a bird); 4 (crane: lifts heavy objects). Choose with --match crane=0"),
        (["cranes", "ants"], {}, "class 'cranes' fits several"),
        (["hot dog", "hotdogs"], {}, "both mean 3 (hotdog, hot dog, red hot)"),
        (["hot dog", "ants"], {"ants": 3}, "Give one of them another class with --match ants=NUMBER"),
        (["ants", "not ants", "other"], {}, "'not ants' and 'other' both mean all other classes"),
        (["ants", "x"], {"x": 12}, "match x=12: the source's outputs are numbered from 0 to 11"),
        (["ants", "x"], {"x": "-1"}, "numbered from 0 to 11"),
        (["ants", "x"], {"x": "strawbery"}, "no class of that name. Did you mean 'strawberry'"),
        (["ants", "x"], {"y": 1}, "match names 'y', which is no class of the data"),
        (["eskimo", "cat"], {}, "none of eskimo, cat is a class of the source. Say which is which with --match"),
        (["other", "cat"], {}, "none of other, cat"),
    ],
)
def test_what_is_not_clear_is_never_guessed(labels, given, message):
    with pytest.raises(ConfigError) as caught:
        match_labels(labels, SOURCE, given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_names_numbers_still_work():
    unnamed = (SourceClass(),) * 1000
    assert match_labels(["hot_dog", "not_hot_dog"], unnamed, {"hot_dog": "713"}).to_dict() == {
        "hot_dog": 713, "not_hot_dog": "rest",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="whose classes' names are not known here"):
        match_labels(["hot_dog", "not_hot_dog"], unnamed)
    with pytest.raises(ConfigError, match="names of this source's classes are not known"):
        match_labels(["hot_dog", "x"], unnamed, {"hot_dog": "hot dog"})


def test_where_every_class_is_matched_there_is_no_rest():
    run = (SourceClass(("ant",)), SourceClass(("bee",)))
    assert match_labels(["ants", "bees", "other"], run).to_dict() == {"ants": 0, "bees": 1, "other": "none"}


@pytest.mark.parametrize("new", ["Ant", "ants"])
def test_where_every_class_is_there_by_its_own_name_the_others_are_new(new):
    run = (SourceClass(("ant",)), SourceClass(("bee",)))
    assert match_labels(["ant", "bee", new], run).to_dict() == {"ant": 0, "bee": 1, new: "none"}
    assert match_labels(["ant", "bee", new], run, {"ant": "none"}).to_dict() == {"ant": "none", "bee": 1, new: 0}
    with pytest.raises(ConfigError, match=f"'ant' and '{new}' both mean 0"):
        match_labels(["ant", new], run)


def test_a_matching_is_replayed_from_its_record():
    labels = ["ants", "wasp", "not an ant"]
    matching = match_labels(labels, SOURCE)
    assert matching.to_dict() == {"ants": 1, "wasp": "none", "not an ant": "rest"}
    assert match_labels(labels, (SourceClass(),) * 12, matching.to_dict()) == matching


def test_it_is_said_what_starts_from_what():
    lines = matching_lines(match_labels(["ants", "wasp", "other"], SOURCE), SOURCE)
    assert lines == [
        "the head starts from rows of the source's: ants = 1 (ant, emmet, pismire)",
        "new rows for wasp: no class of the source has that name",
        "other starts from all other classes of the source",
    ]
