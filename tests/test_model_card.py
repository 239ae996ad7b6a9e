from huggingface_hub import ModelCard

from leo_diffusers.model_card import write_model_card


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
