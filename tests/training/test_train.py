"""What a training sees: nothing that is held out, nothing of what is left out."""

from mdmf_ops.training.data import LabelledImage
from mdmf_ops.training.train import training_images


def labelled(folder, name, generated, source, twin_of=None):
    path = folder / name
    path.write_text(name)
    return LabelledImage(path, generated, source, twin_of)


def test_what_shows_an_image_of_a_left_out_source_again_is_left_out_with_it(tmp_path):
    real = [labelled(tmp_path, f"{source}{i}", False, source) for source in ("web", "phone") for i in range(40)]
    twins = [labelled(tmp_path, f"twin{image.path.name}", True, "coder", image.path) for image in real]
    made = [labelled(tmp_path, f"made{i}", True, "painter") for i in range(40)]
    images = [*real, *twins, *made]
    trained = {i for i, image in enumerate(images) if not image.held_out}
    assert set(training_images(images)) == trained
    seen = [images[i] for i in training_images(images, ["web"])]
    assert {image.source for image in seen} == {"phone", "coder", "painter"}
    assert {image.twin_of for image in seen if image.source == "coder"} == {
        image.path for image in real if image.source == "phone" and not image.held_out
    }
    assert {images[i].source for i in training_images(images, ["coder"])} == {"web", "phone", "painter"}
