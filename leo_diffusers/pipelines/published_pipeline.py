"""Saving a pipeline, and publishing it with a model card of its own."""

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import CommitInfo, HfApi

from .carried_code import add_code
from .pipeline_card import CardContents, provide_card


CARD_FIELDS = [field.name for field in dataclasses.fields(CardContents)]
UPLOAD_ARGUMENTS = ("repo_id", "private", "token", "commit_message", "create_pr")


def forget_origins(folder: str | Path) -> None:
    r"""Removes from what `save_pretrained` wrote where the networks lay on this disk, which is nobody's business."""
    for config in Path(folder).rglob("*.json"):
        values = json.loads(config.read_text())
        if values.pop("_name_or_path", None) is not None:
            config.write_text(json.dumps(values, indent=2) + "\n")


class PublishedPipeline(DiffusionPipeline):
    r"""
    Base of the pipelines: what is pushed to the Hub has a model card that says what it is, and shows it.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: object, push_to_hub: bool = False, **kwargs: object
    ) -> None:
        r"""
        As of `DiffusionPipeline.save_pretrained`. A pipeline that was loaded with its code takes it along.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to save to, made where it is missing.
            push_to_hub (`bool`): Whether to upload the folder as well, with a model card.
            args, kwargs: What diffusers takes (`variant`, `max_shard_size`, ...); for the upload `repo_id` (by default
                the folder's name), `private`, `token`, `commit_message` and `create_pr`; and the fields of
                [`CardContents`] (`license`, `data`, ...). With any of these a folder that stays here has a card too.

        Raises:
            FileNotFoundError: Where `training_curves` is no file.
            ValueError: Where `license` is no identifier of the Hub.
        """
        card = {name: kwargs.pop(name) for name in CARD_FIELDS if name in kwargs}
        upload = {name: kwargs.pop(name) for name in UPLOAD_ARGUMENTS if name in kwargs}
        contents = CardContents(**card)
        contents.check()
        name = Path(save_directory).resolve().name
        if push_to_hub:
            api, private = HfApi(token=upload.pop("token", None)), upload.pop("private", None)
            name = api.create_repo(upload.pop("repo_id", name), private=private, exist_ok=True).repo_id
        super().save_pretrained(str(save_directory), *args, **kwargs)
        code_file = getattr(sys.modules[__name__.partition(".")[0]], "CODE_FILE", None)
        if code_file is not None:
            add_code(save_directory, code_file.name, code_file.read_text(encoding="utf-8"))
        if push_to_hub:
            self._upload(api, Path(save_directory), name, contents, **upload)
        elif card:
            provide_card(save_directory, self, name, contents)

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        safe_serialization: bool = True,
        variant: str | None = None,
        subfolder: str | None = None,
        **card: object,
    ) -> CommitInfo:
        r"""
        Uploads the pipeline with a model card. A card that the repository has is kept, and so is that of the folder
        which the pipeline was loaded from, with its pictures; otherwise a new one says what the model does and shows
        a sample.

        Args:
            repo_id (`str`): Name of the repository, which is made where it is missing.
            commit_message (`str`, *optional*): "Upload" and the pipeline's class by default.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str`, *optional*): Access token; that of `hf auth login` by default.
            create_pr (`bool`): Whether to open a pull request instead of committing.
            safe_serialization (`bool`): Whether to write safetensors.
            variant (`str`, *optional*): Weights are saved as `diffusion_pytorch_model.<variant>.safetensors`.
            subfolder (`str`, *optional*): Of the repository, to upload to; no card is written there.
            card: Fields of [`CardContents`]: `license`, `data`, `metrics`, `training_curves`, `sample_image` and
                `with_sample`.

        Returns:
            `CommitInfo`: What was committed.

        Raises:
            FileNotFoundError: Where `training_curves` is no file.
            ValueError: Where `license` is no identifier of the Hub.
        """
        contents = CardContents(**card)
        contents.check()
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, safe_serialization=safe_serialization, variant=variant)
            forget_origins(folder)
            return self._upload(api, Path(folder), repo_id, contents, commit_message, create_pr, subfolder)

    def _upload(
        self,
        api: HfApi,
        folder: Path,
        repo_id: str,
        contents: CardContents,
        commit_message: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> CommitInfo:
        if subfolder is None:
            if not (folder / "README.md").exists() and api.file_exists(repo_id, "README.md"):
                shutil.copyfile(api.hf_hub_download(repo_id, "README.md"), folder / "README.md")
            provide_card(folder, self, repo_id, contents)
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            path_in_repo=subfolder,
            commit_message=commit_message or f"Upload {type(self).__name__}",
            create_pr=create_pr,
        )
