"""The page of one scan and its pictures, on both databases."""

import io
import re

import numpy as np
import pytest
from PIL import Image
from sqlalchemy import insert, update

from db.engine import write
from db.measurements import store_measurements
from db.tables import predictions, scans
from db.types import ScanStatus, database_now
from nightread.model.bundle import DEFAULT_MODEL
from tests.db_factories import new_measurement, new_model, new_prediction
from tests.factories import encode_dicom, small_chest, write_jpeg, write_png16
from tests.web_page import add_night, ids_of, list_files, open_page, shipped_model


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    return folder


@pytest.fixture
def night(engine, folder):
    """A run of the model that ships over three files; returns (run id, scan ids)."""
    write_jpeg(folder / "a.jpg", small_chest(1))
    write_png16(folder / "b.png", small_chest(2).astype(np.uint16) * 200)
    (folder / "c.dcm").write_bytes(encode_dicom(small_chest(3).astype(np.uint16) * 10))
    run_id = add_night(
        engine, [0.97, 0.5, 0.1], found=list_files(folder), model=shipped_model(), sources=[str(folder)],
        decide=lambda score: "pneumonia" if score > 0.95 else "uncertain" if score > 0.3 else "normal",
    )  # fmt: skip
    return run_id, ids_of(engine, run_id)


def read_image(response):
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


class TestPicture:
    def test_is_made_anew_and_never_the_file_itself(self, client, night, folder):
        response = client.get(f"/scans/{night[1][0]}/picture.png")
        assert response.headers["Content-Type"] == "image/png"
        assert read_image(response).shape == (120, 144)
        assert (folder / "a.jpg").read_bytes() not in response.content

    def test_of_sixteen_bits_is_windowed_on_the_server(self, client, night):
        whole = read_image(client.get(f"/scans/{night[1][1]}/picture.png"))
        narrow = read_image(client.get(f"/scans/{night[1][1]}/picture.png?center=40&width=5"))
        assert (narrow == 0).mean() + (narrow == 255).mean() > (whole == 0).mean() + (whole == 255).mean() + 0.3
        inverted = read_image(client.get(f"/scans/{night[1][1]}/picture.png?invert=1"))
        assert np.array_equal(inverted, 255 - whole)

    def test_of_each_size_and_format_is_sent(self, client, night):
        for scan_id in night[1]:
            assert read_image(client.get(f"/scans/{scan_id}/picture.png?size=full")).shape == (120, 144)
            assert read_image(client.get(f"/scans/{scan_id}/thumbnail.webp")).shape == (80, 96, 3)

    @pytest.mark.parametrize("query", ["center=x", "center=nan", "width=0", "width=1e9", "size=huge", "center=1e400"])
    def test_of_a_wrong_window_is_refused(self, client, night, query):
        response = client.get(f"/scans/{night[1][0]}/picture.png?{query}")
        assert response.status_code == 400
        assert "allowed" in response.text

    @pytest.mark.parametrize(
        "scan_id",
        ["0", "999999", "-1", "1e3", "x", "²", "9" * 19, "..%2f..%2fetc%2fpasswd", "1%00", "%2fetc%2fpasswd", "1;ls"],
    )
    @pytest.mark.parametrize("page", ["", "/picture.png", "/thumbnail.webp", "/evidence.png?label=pneumonia"])
    def test_goes_by_the_id_of_a_known_scan_alone(self, client, night, scan_id, page):
        assert client.get(f"/scans/{scan_id}{page}").status_code == 404

    def test_of_a_path_in_the_address_is_not_sent(self, client, night, folder):
        for name in ("path", "file", "src", "scan_id"):
            response = client.get(f"/scans/{night[1][1]}/picture.png", params={name: str(folder / "a.jpg")})
            assert np.array_equal(read_image(response), read_image(client.get(f"/scans/{night[1][1]}/picture.png")))


class TestReplacedFile:
    """A file that is not the one that was scored is said, and never shown or decoded."""

    @pytest.fixture(params=["other content", "link out of the folder", "link to another scan", "gone", "folder"])
    def scan_id(self, request, night, folder, tmp_path):
        file = folder / "a.jpg"
        file.unlink()
        if request.param == "other content":
            write_jpeg(file, small_chest(9))
        elif request.param == "link out of the folder":
            file.symlink_to(write_jpeg(tmp_path / "secret.jpg", small_chest(8)))
        elif request.param == "link to another scan":
            file.symlink_to(folder / "b.png")
        elif request.param == "folder":
            file.mkdir()
        return night[1][0]

    def test_is_told_on_the_page_and_not_shown(self, client, scan_id):
        response = client.get(f"/scans/{scan_id}")
        assert response.status_code == 200
        assert "Not shown:" in response.text
        assert "<img" not in response.text
        assert "0.9700" in response.text  # the score stays

    @pytest.mark.parametrize("page", ["picture.png", "thumbnail.webp", "evidence.png?label=pneumonia"])
    def test_has_no_picture(self, client, scan_id, page):
        response = client.get(f"/scans/{scan_id}/{page}")
        assert response.status_code == (204 if page == "thumbnail.webp" else 410)
        assert "secret" not in response.text

    def test_is_not_decoded(self, client, night, folder, monkeypatch):
        (folder / "a.jpg").write_bytes(b"hostile")
        monkeypatch.setattr("web.pictures.draw_picture", lambda *_, **__: pytest.fail("decoded"))
        assert client.get(f"/scans/{night[1][0]}/picture.png").status_code == 410
        assert "SHA-256" in client.get(f"/scans/{night[1][0]}").text

    def test_of_which_the_picture_was_shown_before_is_told_all_the_same(self, client, night, folder):
        assert "<img" in client.get(f"/scans/{night[1][0]}").text
        write_jpeg(folder / "a.jpg", small_chest(9))
        assert "changed since it was scored" in client.get(f"/scans/{night[1][0]}").text


def test_a_scan_that_failed_is_not_decoded_again(engine, client, folder, monkeypatch):
    write_jpeg(folder / "a.jpg", small_chest())
    run_id = add_night(engine, [ScanStatus.FAILED], found=list_files(folder), sources=[str(folder)])
    monkeypatch.setattr("web.pictures.draw_picture", lambda *_, **__: pytest.fail("decoded"))
    (scan_id,) = ids_of(engine, run_id)
    assert client.get(f"/scans/{scan_id}/picture.png").status_code == 410
    assert "cut &lt;short&gt;" in client.get(f"/scans/{scan_id}").text


def test_a_file_outside_the_roots_is_not_shown(engine, folder, night):
    elsewhere = folder.parent / "elsewhere"
    elsewhere.mkdir()
    with open_page(engine.url.render_as_string(hide_password=False), scan_roots=[elsewhere]) as client:
        assert client.get(f"/scans/{night[1][0]}/picture.png").status_code == 410
        assert "NIGHTREAD_SCAN_ROOTS" in client.get(f"/scans/{night[1][0]}").text


def test_thumbnails_are_kept_on_disk(engine, folder, night, tmp_path):
    settings = {"web_cache_dir": str(tmp_path / "cache"), "web_cache_bytes": 10_000_000}
    with open_page(engine.url.render_as_string(hide_password=False), **settings) as client:
        first = client.get(f"/scans/{night[1][0]}/thumbnail.webp").content
        (folder / "a.jpg").unlink()
        assert client.get(f"/scans/{night[1][0]}/thumbnail.webp").content == first


class TestEvidence:
    def test_is_a_layer_with_opacity_and_a_stated_scale(self, client, night):
        layer = read_image(client.get(f"/scans/{night[1][0]}/evidence.png?label=pneumonia"))
        assert layer.shape == (120, 144, 4)
        assert layer[:, :, 3].max() == 255
        text = client.get(f"/scans/{night[1][0]}?map=pneumonia").text
        assert re.search(r"Activation map for <strong>pneumonia</strong>, 4 . 4 places: blue .[\d.]+", text)
        assert "Opacity" in text

    def test_of_a_network_without_a_map_covers_parts(self, engine, client, folder):
        write_jpeg(folder / "a.jpg", small_chest(1))
        model = shipped_model("pneumonia-cnn75/1")
        run_id = add_night(engine, [0.9], found=list_files(folder), model=model, sources=[str(folder)])
        (scan_id,) = ids_of(engine, run_id)
        assert read_image(client.get(f"/scans/{scan_id}/evidence.png?label=pneumonia")).shape == (120, 144, 4)
        assert "occlusion" in client.get(f"/scans/{scan_id}?map=pneumonia").text

    @pytest.mark.parametrize("label", ["", "effusion", "<script>"])
    def test_of_a_label_that_the_model_has_not_is_refused(self, client, night, label):
        assert client.get(f"/scans/{night[1][0]}/evidence.png", params={"label": label}).status_code == 400
        if label:
            response = client.get(f"/scans/{night[1][0]}", params={"map": label})
            assert response.status_code == 400
            assert "<script>" not in response.text

    def test_of_a_bundle_that_is_not_on_this_host_is_told(self, engine, client, folder):
        write_jpeg(folder / "a.jpg", small_chest(1))
        run_id = add_night(engine, [0.9], found=list_files(folder), model=new_model(), sources=[str(folder)])
        (scan_id,) = ids_of(engine, run_id)
        assert client.get(f"/scans/{scan_id}/evidence.png?label=pneumonia").status_code == 410
        assert "there is no model bundle cnn@1" in client.get(f"/scans/{scan_id}?map=pneumonia").text

    def test_of_another_bundle_of_the_same_name_is_not_shown(self, engine, client, folder):
        write_jpeg(folder / "a.jpg", small_chest(1))
        name, _, version = DEFAULT_MODEL.partition("@")
        model = new_model(name=name, version=version)
        run_id = add_night(engine, [0.9], found=list_files(folder), model=model, sources=[str(folder)])
        (scan_id,) = ids_of(engine, run_id)
        assert "is not the one that scored" in client.get(f"/scans/{scan_id}?map=pneumonia").text


class TestFacts:
    def test_tell_score_threshold_and_origin(self, client, night, folder):
        text = client.get(f"/scans/{night[1][0]}").text
        assert "0.9700" in text
        assert "From 0.9694 on it is pneumonia, below 0.2885 it is not, in between it is uncertain." in text
        for value in (str(folder / "a.jpg"), DEFAULT_MODEL, "CPUExecutionProvider", "worker-1", night[0]):
            assert value in text
        assert "Research output, not for diagnosis" in text

    def test_lead_back_to_the_filtered_worklist(self, client, night):
        rows = client.get(f"/runs/{night[0]}?decision=uncertain&order=lowest").text
        query = "?decision=uncertain&amp;order=lowest"
        assert f'href="/scans/{night[1][1]}{query}"' in rows
        text = client.get(f"/scans/{night[1][1]}?decision=uncertain&order=lowest").text
        assert f'href="/runs/{night[0]}{query}" data-key="Escape"' in text

    def test_tell_the_verdict_of_the_gate_in_words(self, engine, client, night):
        model = shipped_model()
        sha256 = re.search(r"<dd>([0-9a-f]{64})</dd>", client.get(f"/scans/{night[1][0]}").text)[1]
        measured = new_measurement(
            sha256=sha256, model_digest=model.digest, preprocessing=model.preprocessing, gate_verdict="inverted"
        )
        write(engine, lambda connection: store_measurements(connection, [measured]))
        text = client.get(f"/scans/{night[1][0]}").text
        assert "inverted:" in text
        assert "what to do" in text
        assert "12.50" in text

    def test_tell_what_other_models_and_earlier_runs_said(self, engine, client, night, folder):
        other = new_model(digest="e" * 64, name="older", version="7")
        add_night(engine, [0.25, 0.25, 0.25], name="last night", found=list_files(folder), model=other)
        text = client.get(f"/scans/{night[1][0]}").text
        assert "older@7" in text
        assert "last night" in text
        assert "0.2500" in text

    def test_tell_of_the_same_path_with_other_content(self, engine, client, night, folder):
        write_jpeg(folder / "a.jpg", small_chest(9))
        add_night(engine, [0.25, 0.25, 0.25], name="next", found=list_files(folder), model=shipped_model())
        assert "same path, other content" in client.get(f"/scans/{night[1][0]}").text

    def test_tell_the_other_scans_of_the_study(self, engine, client, night):
        write(engine, lambda connection: connection.execute(update(scans).values(study_uid="1.2.3")))
        text = client.get(f"/scans/{night[1][0]}").text
        assert "Other scans of the study" in text
        assert f'href="/scans/{night[1][1]}"' in text

    def test_of_hostile_text_are_escaped(self, engine, client, night):
        values = {"station": "<b>x</b>", "manufacturer": "\u202egnp", "body_part": "</dd><i>"}
        write(engine, lambda connection: connection.execute(update(scans).values(**values)))
        text = client.get(f"/scans/{night[1][0]}").text
        assert "<b>" not in text
        assert "<i>" not in text
        assert "\u202e" not in text

    def test_of_a_card_of_another_release_do_no_harm(self, engine, client):
        run_id = add_night(engine, [0.5, None], model=new_model(card={"labels": "x", "thresholds": [1]}))
        for scan_id in ids_of(engine, run_id):
            assert client.get(f"/scans/{scan_id}").status_code == 200


def test_predictions_of_many_models_are_limited(engine, client, night):
    sha256 = re.search(r"<dd>([0-9a-f]{64})</dd>", client.get(f"/scans/{night[1][0]}").text)[1]
    for number in range(25):
        model = new_model(digest=f"{number:064x}", name=f"other{number}")
        add_night(engine, [0.5], name=f"n{number}", model=model)
        row = vars_of(new_prediction(sha256=sha256, model_digest=model.digest))
        write(engine, lambda connection, row=row: connection.execute(
            insert(predictions).values(**row, created_at=database_now())
        ))  # fmt: skip
    assert len(re.findall(r"other\d+@1", client.get(f"/scans/{night[1][0]}").text)) == 20


def vars_of(row):
    return {name: getattr(row, name) for name in type(row).__dataclass_fields__}
