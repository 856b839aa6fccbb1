from patchlens.picturebook.scene import Scene, SceneSign, SceneThing
from patchlens.picturebook.truth import caption_truth


def test_what_a_description_should_say() -> None:
    things = tuple(
        SceneThing(name, color, 40, 72, 72, False)
        for name, color in (("car", "red"), ("owl", "brown"), ("car", "blue"))
    )
    truth = caption_truth(Scene(0, "park", things, SceneSign("zoo", 1.7, 40, 40)))
    assert truth.things == (("car", "red"), ("owl", None), ("car", "blue"))  # owls come in one color
    assert (truth.place, truth.written) == ("park", ("zoo",))
    assert caption_truth(Scene(0, "park", things, None)).written == ()
    assert {"car", "owl", "scissors"} <= truth.vocabulary.things
    assert {"red", "gray"} <= truth.vocabulary.colors
    assert {"park", "harbor"} <= truth.vocabulary.places
