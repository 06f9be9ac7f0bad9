"""Data sets of images with poses: drawn ones, the public layout of rendered chairs, and any folder of renders."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.datasets.batches import Batches
from common.datasets.poses import Views
from common.datasets.renders import load_chairs, load_objects
from common.datasets.shapes import OBJECTS, draw, make_shapes
from common.errors import DataError
from tests.test_real_images import REAL_DATA

RENDERS = REAL_DATA / "chairs"


def views(number: int, theta: float, phi: float) -> Views:
    return Views(np.array([number]), np.array([theta]), np.array([phi]))


def test_a_pose_is_number_view_and_transform() -> None:
    (pose,) = views(3, 30.0, 60.0).poses
    expected = [3, 0.5, np.sqrt(3) / 2, np.sqrt(3) / 2, 0.5, *[1] * 12]
    np.testing.assert_allclose(pose, expected, rtol=1e-6)


def test_number_theta_and_phi_all_change_the_picture() -> None:
    one = draw(views(1, 30, 25), 32)
    assert (one == draw(views(1, 30, 25), 32)).all()
    for other in (views(2, 30, 25), views(1, 60, 25), views(1, 30, 40)):
        assert (one != draw(other, 32)).any(-1).mean() > 0.03
    assert 0.05 < (one < 255).any(-1).mean() < 0.6  # a chair on white
    assert (one[:, [0, -1]] == 255).all()
    assert (one[:, :, [0, -1]] == 255).all()


def test_a_chair_turns_once_around() -> None:
    np.testing.assert_array_equal(draw(views(0, 0, 25), 32), draw(views(0, 360, 25), 32))


def test_images_and_poses_stay_together_in_any_order() -> None:
    data = make_shapes(32)
    assert len({*data.train.views.numbers}) == len({*data.test.views.numbers}) == OBJECTS
    seen = {tuple(pose) for pose in data.train.views.poses}
    assert not seen & {tuple(pose) for pose in data.test.views.poses}
    batches = Batches(data.train, data, 50, seed=1, training=True)
    orders = []
    for epoch in range(2):
        batch = next(batches.epoch(epoch, first=3))
        orders.append(batch.ids.tolist())
        again = draw(data.train.views[batch.ids.numpy()], 32).transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_array_equal(batch.labels.numpy(), again)
        np.testing.assert_array_equal(batch.inputs.numpy(), data.train.views[batch.ids.numpy()].poses)
    assert orders[0] != orders[1]
    assert next(batches.epoch(1, first=3)).ids.tolist() == orders[1]


def save(path: Path, colour: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(path)


def chairs(root: Path) -> str:
    """Two categories in the public layout; the red of an image is its theta."""
    for part, thetas in (("train", (0, 11, 23)), ("valid", (34,))):
        lines = ["path,category"]
        for category in ("b7", "a3"):
            for theta in thetas:
                file = f"{category}/renders/image_{theta:03d}_p020_t{theta:03d}_r096.png"
                save(root / file, (theta, 0, 0))
                lines.append(f"{file},{category}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return f"chairs:{root}"


def test_the_public_layout(tmp_path: Path) -> None:
    data = load_chairs(chairs(tmp_path), 32, progress=False)
    assert data.objects == 2
    assert data.train.views.numbers.tolist() == [1, 1, 1, 0, 0, 0]
    assert data.train.views.theta.tolist() == [0, 11, 23, 0, 11, 23]
    assert data.test.views.phi.tolist() == [20, 20]
    reds = data.train.labels[np.arange(6)][:, 0, 0, 0] * 255
    assert reds.round().tolist() == data.train.views.theta.tolist()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda root: (root / "valid.csv").unlink(), "valid.csv cannot be read"),
        (lambda root: (root / "train.csv").write_text(""), "train.csv is empty"),
        (lambda root: (root / "train.csv").write_text("path,category\n"), "train.csv has no rows"),
        (lambda root: (root / "valid.csv").write_text("path,category\n"), "valid.csv has no rows: put one for each"),
        (lambda root: (root / "valid.csv").write_bytes(b"p,c\n\xe9.png,x\n"), "line 2 has the byte 0xe9; convert it"),
        (lambda root: (root / "valid.csv").write_text('p,c\n"x.png,a3\n'), "valid.csv is no CSV file: line 2"),
        (lambda root: (root / "train.csv").write_text("path,category\nx.png,a3\n"), "tells no view"),
        (lambda root: (root / "train.csv").write_text("path,category\nx.png\n"), "no image path and category"),
        (lambda root: (root / "valid.csv").write_text("p,c\ni_p020_t011_r096.png,new\n"), "valid.csv has category new"),
        (lambda root: (root / "a3/renders/image_011_p020_t011_r096.png").unlink(), "there is no file"),
        (lambda root: (root / "a3/renders/image_011_p020_t011_r096.png").write_text("x"), "no image that can be read"),
    ],
)
def test_what_is_wrong_with_chairs_is_told(tmp_path: Path, spoil: object, reason: str) -> None:
    name = chairs(tmp_path)
    assert callable(spoil)
    spoil(tmp_path)
    with pytest.raises(DataError, match=reason):
        load_chairs(name, 32, progress=False)


def objects(root: Path, header: str, *rows: str) -> str:
    for i in range(5):
        save(root / f"{i}.png", (i, 0, 0))
    (root / "parameters.csv").write_text("\n".join([header, *rows]) + "\n")
    return f"objects:{root}"


def test_a_folder_of_renders_with_angles(tmp_path: Path) -> None:
    rows = [f"{i}.png,7,{40 * i},{10 + i}" for i in range(5)]
    data = load_objects(objects(tmp_path, "file,chair,theta,phi", *rows), 32, progress=False)
    assert (data.objects, len(data.train.views), len(data.test.views)) == (1, 4, 1)
    (held_out,) = set(range(0, 200, 40)) - set(data.train.views.theta.tolist())
    assert data.test.views.theta.tolist() == [held_out]
    assert round(float(data.test.labels[np.array([0])][0, 0, 0, 0]) * 255) == held_out // 40


def test_a_table_as_spreadsheets_write_it(tmp_path: Path) -> None:
    rows = [f"{i}.png,7,{40 * i},{10 + i}" for i in range(5)]
    name = objects(tmp_path, "file,chair,theta,phi", *rows)
    table = tmp_path / "parameters.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))
    assert len(load_objects(name, 32, progress=False).train.views) == 4


@pytest.mark.parametrize(
    ("header", "rows", "reason"),
    [
        ("file,theta", [], "no column chair"),
        ("file,chair", [], "no column frame"),
        ("file,chair,frame", [], "has no rows"),
        ("file,chair,frame", ["0.png,1,x"], "line 2: frame is 'x'"),
        ("file,chair,theta,phi", ["0.png,1,nan,0"], "line 2: theta is nan"),
        ("file,chair,theta,phi", ["0.png,1,3,4", "1.png,1,7"], "line 3 has 3 columns, the header 4"),
        ("file;chair;theta;phi", ["0.png;1;3;4"], "no column file; .* with commas between them"),
        ("file,chair,theta,phi", ["9.png,1,3,4"], "no file .*9.png: put it there, or take its row out"),
        ("file,chair,frame", ["0.png,,1"], "line 2: file or chair is missing"),
        ("file,chair,frame", ["0.png,1,0", "1.png,1,1"], "none can be held out"),
    ],
)
def test_what_is_wrong_with_renders_is_told(tmp_path: Path, header: str, rows: list[str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load_objects(objects(tmp_path, header, *rows), 32, progress=False)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    for load in (load_chairs, load_objects):
        with pytest.raises(DataError, match="there is no folder"):
            load(f"objects:{tmp_path}/none", 32, progress=False)


@pytest.mark.slow
def test_real_renders() -> None:
    if not RENDERS.is_dir():
        pytest.skip(f"{RENDERS} is missing: set TANDEM_TEST_DATA to a folder with renders of chairs in it")
    data = load_objects(f"objects:{RENDERS}", 32, progress=False)
    assert (data.objects, len(data.train.views), len(data.test.views)) == (60, 480, 120)
    assert data.train.labels[np.arange(8)].shape == (8, 3, 32, 32)
