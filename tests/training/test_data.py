"""Labelled images: read from an index or from folders, and split the same way wherever they lie."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mdmf_ops.training.data import HELD_OUT_FRACTION, read_folders, read_index, read_pairs, sources


@pytest.fixture
def tree(tmp_path):
    for name in ("real/web/a.jpg", "real/web/b.jpg", "real/phone/c.jpg", "fake/gan/d.jpg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "index.csv").write_text(
        "path,label,source\nreal/web/a.jpg,real,web\nreal/phone/c.jpg,real,phone\nfake/gan/d.jpg,fake,gan\n"
    )
    (tmp_path / "pairs.csv").write_text("path,real_path\nfake/gan/d.jpg,real/web/a.jpg\n")
    return tmp_path


def test_an_index_gives_class_source_and_twin(tree):
    images = read_index(tree / "index.csv", read_pairs(tree / "pairs.csv"))
    assert [(i.path.name, i.generated, i.source) for i in images] == [
        ("a.jpg", False, "web"),
        ("c.jpg", False, "phone"),
        ("d.jpg", True, "gan"),
    ]
    assert [i.twin_of for i in images] == [None, None, tree / "real/web/a.jpg"]
    assert images[2].held_out == images[0].held_out


def test_subfolders_are_sources(tree):
    images = read_folders([tree / "real"], [tree / "fake/gan"])
    assert sources(images, generated=False) == ["phone", "web"]
    assert sources(images, generated=True) == ["gan"]
    assert len(images) == 4


@pytest.mark.parametrize(
    ("place", "expected"), [(".", ["web"]), ("../../real/web/", ["web"]), ("..", ["phone", "real", "web"])]
)
def test_a_folder_is_a_source_of_one_name_wherever_one_stands(tree, monkeypatch, place, expected):
    (tree / "real/web/b.jpg").rename(tree / "real/b.jpg")
    monkeypatch.chdir(tree / "real/web")
    assert expected == sources(read_folders([Path(place)], []), generated=False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("real/web/a.jpg,authentic,web", "label is real or fake"),
        ("real/web/gone.jpg,real,web", "gone.jpg is not there"),
        ("real/web/a.jpg,real", "index.csv: line 2: no source"),
        ("real/web/a.jpg,real,", "index.csv: line 2: no source"),
        (",,web", "index.csv: line 2: no path and no label"),
        (f"real/web/a.jpg,real,{'w' * (1 << 17)}w", "index.csv: after line 1: field larger than field limit"),
        ("real/web/a.jpg,real,caf\udce9", "index.csv: after line 0: 'utf-8' codec can't decode byte 0xe9"),
        ('real/web/a.jpg,real,"web\nreal/phone/c.jpg,real,phone', "index.csv: after line 1: unexpected end of data"),
        ('real/web/a.jpg,real,web\n"fake/gan/d.jpg,fake,gan\nfake,fake,"gan"', "index.csv: after line 2: ',' expected"),
    ],
)
def test_a_wrong_row_is_named(tree, row, message):
    (tree / "index.csv").write_text(f"path,label,source\n{row}\n", "utf-8", "surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_index(tree / "index.csv")


def test_a_pair_without_its_real_image_is_named(tree):
    (tree / "pairs.csv").write_text("path,real_path\nfake/gan/d.jpg\n")
    with pytest.raises(ValueError, match="line 2: no real_path"):
        read_pairs(tree / "pairs.csv")


def test_a_quote_that_is_not_closed_takes_in_no_pair_behind_it(tree):
    (tree / "pairs.csv").write_text('path,real_path\nfake/gan/d.jpg,"real/web/a.jpg\nfake/gan/e.jpg,real/web/b.jpg\n')
    with pytest.raises(ValueError, match=r"pairs\.csv: after line 1: unexpected end of data"):
        read_pairs(tree / "pairs.csv")


def test_a_real_image_is_no_twin(tree):
    (tree / "pairs.csv").write_text("path,real_path\nreal/web/a.jpg,fake/gan/d.jpg\n")
    with pytest.raises(
        ValueError, match=r"index\.csv: .*a\.jpg is real, and by the pairs a generated twin of .*d\.jpg"
    ):
        read_index(tree / "index.csv", read_pairs(tree / "pairs.csv"))


def test_pairs_are_relative_to_their_own_file(tree):
    (tree / "fake/pairs.csv").write_text("path,real_path\ngan/d.jpg,../real/web/a.jpg\n")
    images = read_index(tree / "index.csv", read_pairs(tree / "fake/pairs.csv"))
    assert [i.twin_of and i.twin_of.resolve() for i in images] == [None, None, (tree / "real/web/a.jpg").resolve()]


def test_the_mark_that_excel_begins_a_file_with_is_no_part_of_a_name(tree):
    for name in ("index.csv", "pairs.csv"):
        (tree / name).write_bytes(b"\xef\xbb\xbf" + (tree / name).read_bytes())
    assert read_index(tree / "index.csv", read_pairs(tree / "pairs.csv"))[2].twin_of == tree / "real/web/a.jpg"


def test_a_missing_column_and_an_empty_folder_are_told(tree):
    (tree / "index.csv").write_text("path,label\n")
    with pytest.raises(ValueError, match="source"):
        read_index(tree / "index.csv")
    (tree / "none").mkdir()
    with pytest.raises(ValueError, match="no files"):
        read_folders([tree / "none"], [])


def test_the_split_follows_the_content_and_not_the_place(tree, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tree / "real", moved / "elsewhere")
    before = {i.path.name: i.held_out for i in read_folders([tree / "real"], [])}
    assert {i.path.name: i.held_out for i in read_folders([moved], [])} == before


def test_the_split_has_the_stated_share(tmp_path):
    for i in range(1000):
        (tmp_path / f"{i}.jpg").write_bytes(str(i).encode())
    held_out = [image.held_out for image in read_folders([tmp_path], [])]
    assert np.mean(held_out) == pytest.approx(HELD_OUT_FRACTION, abs=0.05)
