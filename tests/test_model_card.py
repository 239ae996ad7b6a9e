import pytest
from huggingface_hub import ModelCard

from leo_diffusers.model_card import pictures_of, replace_usage, take_over_training, write_model_card


def test_a_card_says_what_a_model_is_and_must_not_do(tmp_path):
    write_model_card(
        tmp_path,
        title="leo-heads: a Latent Motion Diffusion Model",
        description="Trained on *drawn* heads: 5 % of them held out.",
        usage='pipeline = LEOPipeline.from_pretrained("leo-heads")',
        license="cc-by-nc-4.0",
        tags=["image-to-video"],
    )
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "cc-by-nc-4.0" and card.data.library_name == "leo_diffusers"
    assert {"leo", "lia", "image-to-video"} <= set(card.data.tags)
    assert card.text.lstrip().startswith("# leo-heads: a Latent Motion Diffusion Model\n")
    for said in (
        "5 % of them held out.",
        "```python\npipeline = ",
        "consent",
        "LEO: Generative",
        "Latent Image Animator",
    ):
        assert said in card.text


def test_a_card_is_replaced(tmp_path):
    for title in ("First", "Second"):
        write_model_card(tmp_path, title, "Text.", "pass", "other", [])
    text = (tmp_path / "README.md").read_text()
    assert "# Second" in text and "First" not in text and text.count("\n---\n") == 1


@pytest.mark.parametrize(
    ("license", "said"),
    [("other", "inherit the terms of the data"), ("cc-by-nc-4.0", "The weights are licensed `cc-by-nc-4.0`")],
)
def test_the_licence_of_the_weights_is_told(tmp_path, license, said):
    write_model_card(tmp_path, "Model", "Text.", "pass", license, [])
    assert said in (tmp_path / "README.md").read_text().split("## Licence of the weights")[1]


@pytest.mark.parametrize("license", ["CC BY-NC 4.0", "", "mit\ntags: [x]", None])
def test_what_is_no_licence_is_refused(tmp_path, license):
    with pytest.raises(ValueError, match="such as apache-2.0, cc-by-nc-4.0 or other, got "):
        write_model_card(tmp_path, "Model", "Text.", "pass", license, [])
    assert not list(tmp_path.iterdir())


def test_usage_is_replaced_alone(tmp_path):
    write_model_card(tmp_path, "Model", "Text.", "old = 1", "other", [])
    before = (tmp_path / "README.md").read_text()
    replace_usage(tmp_path, "new = r'\\1'")
    assert (tmp_path / "README.md").read_text() == before.replace("old = 1", "new = r'\\1'")
    (tmp_path / "README.md").write_text("# By hand\n")
    replace_usage(tmp_path, "new = 2")
    assert (tmp_path / "README.md").read_text() == "# By hand\n\n## Use\n\n```python\nnew = 2\n```\n"


def test_pictures_beside_a_card_are_found():
    card = "![a](one.png) ![b](https://x.y/two.png) ![c](../three.png) ![d](/four.png)\n"
    card += '<video controls src="deep/five.mp4">'
    assert pictures_of(card) == ["one.png", "deep/five.mp4"]


def test_training_is_taken_over_from_the_networks_cards(tmp_path):
    for name, text in {"prior": "Spread.\n\n![it](sample.jpg)\n\n## Data\n\nClips.", "leo": "Motion."}.items():
        (tmp_path / name).mkdir()
        write_model_card(tmp_path / name, f"{name}: a network", text, "pass", "other", [])
    (tmp_path / "prior" / "sample.jpg").write_bytes(b"picture")
    (tmp_path / "new").mkdir()
    text = take_over_training([tmp_path / "leo", tmp_path / "prior", "somebody/else"], tmp_path / "new")
    assert text == ("## leo\n\nMotion.\n\n## prior\n\nSpread.\n\n![it](prior-sample.jpg)\n\n### Data\n\nClips.")
    assert (tmp_path / "new" / "prior-sample.jpg").read_bytes() == b"picture"
    assert take_over_training(["somebody/else"], tmp_path) is None
